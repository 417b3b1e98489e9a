"""The program: start-up, advice, the process in the foreground and the embedded proxy.

Modules, in reading order:
    startup: loads TLS files, checks the machine, opens sockets and log targets.
    run: the process in the foreground. privileges: how it gives up root.
    api: the embedded proxy.
    advice, port_advice: settings that are probably not what the operator wants.
    python_build: how the running Python was built, and advice about a slow build.
    acme: certificates by ACME beside the proxy.
    live_tlsa: TLSA records, for ``mailproxy check --live``.
    explain: what a client would get from a configuration that does not run.
    live_check, live_hints: one check of every server, for ``mailproxy check --live``.
"""

from mailproxy.app.advice import advise
from mailproxy.app.api import Proxy, ProxyBackend, ProxyFrontend, ProxyServer, serve
from mailproxy.app.live_check import check_all_servers, table
from mailproxy.app.live_tlsa import check_tlsa
from mailproxy.app.python_build import advise_on_python
from mailproxy.app.run import run
from mailproxy.app.startup import load_and_check
from mailproxy.certificates.store import CertificateStore
from mailproxy.proxy.process import worker_count

__all__ = [
    "CertificateStore",
    "Proxy",
    "ProxyBackend",
    "ProxyFrontend",
    "ProxyServer",
    "advise",
    "advise_on_python",
    "check_all_servers",
    "check_tlsa",
    "load_and_check",
    "run",
    "serve",
    "table",
    "worker_count",
]  # fmt: skip
