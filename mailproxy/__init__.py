"""mailproxy: a proxy for IMAP, POP3, submission and ManageSieve.

The names below are loaded on first use, so that the pure packages (``mailproxy.config``, ``mailproxy.pool``)
import without trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailproxy.app import Proxy, serve
    from mailproxy.config import Config, from_mapping, load
    from mailproxy.errors import ConfigError

__version__ = "0.1.0"

__all__ = ["Config", "ConfigError", "Proxy", "from_mapping", "load", "serve"]

_HOMES = {
    "Config": "mailproxy.config",
    "ConfigError": "mailproxy.errors",
    "Proxy": "mailproxy.app",
    "from_mapping": "mailproxy.config",
    "load": "mailproxy.config",
    "serve": "mailproxy.app",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # only here: the interpreter's own start has loaded it already

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
