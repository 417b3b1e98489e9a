"""The program: files that the configuration names, advice, the process and the embedded proxy."""

from mailproxy.app.advice import advise
from mailproxy.app.api import Proxy, ProxyBackend, ProxyFrontend, ProxyServer, serve
from mailproxy.app.live_check import table, try_servers
from mailproxy.app.run import run
from mailproxy.certificates.store import Material, load_material
from mailproxy.proxy.process import worker_count

__all__ = [
    "Material", "Proxy", "ProxyBackend", "ProxyFrontend", "ProxyServer", "advise", "load_material", "run", "serve",
    "table", "try_servers", "worker_count",
]  # fmt: skip
