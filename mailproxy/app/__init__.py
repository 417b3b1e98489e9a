"""The program: files that the configuration names, advice, the process and the embedded proxy."""

from mailproxy.app.advice import advise
from mailproxy.app.limits import worker_count
from mailproxy.app.live import table, try_servers
from mailproxy.app.material import Material, load_material
from mailproxy.app.proxy import Proxy, ProxyBackend, ProxyFrontend, ProxyServer, serve
from mailproxy.app.run import run

__all__ = [
    "Material", "Proxy", "ProxyBackend", "ProxyFrontend", "ProxyServer", "advise", "load_material", "run", "serve",
    "table", "try_servers", "worker_count",
]  # fmt: skip
