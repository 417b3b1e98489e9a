"""The program: files that the configuration names, advice, the process and the embedded proxy."""

from mailproxy.app.advice import advise
from mailproxy.app.api import Proxy, ProxyBackend, ProxyFrontend, ProxyServer, serve
from mailproxy.app.live_check import check_all_servers, table
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
    "check_all_servers",
    "load_and_check",
    "run",
    "serve",
    "table",
    "worker_count",
]  # fmt: skip
