"""mailproxy: a proxy for IMAP, POP3, submission and ManageSieve.

The names in ``__all__`` are the public API. They are imported on first use, so that the pure packages
(``mailproxy.config``, ``mailproxy.pool``) do not import trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailproxy.version import __version__ as __version__

if TYPE_CHECKING:
    from mailproxy.app import Proxy, serve
    from mailproxy.config import Config, from_mapping, load
    from mailproxy.errors import ConfigError

__all__ = ["Config", "ConfigError", "Proxy", "from_mapping", "load", "serve"]

_MODULE_OF = {
    "Config": "mailproxy.config",
    "ConfigError": "mailproxy.errors",
    "Proxy": "mailproxy.app",
    "from_mapping": "mailproxy.config",
    "load": "mailproxy.config",
    "serve": "mailproxy.app",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # late, at no cost: the interpreter imports it at its own start

    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
