"""The numbers that HAProxy gives proxies: frontends first, in the order of the file, then backends.

They begin with 2, because in HAProxy the frontend of the admin socket is a proxy, too.
"""

from __future__ import annotations

from mailproxy.config import Config

_FIRST = 2


def frontend_id(index: int) -> int:
    """Return the number of the frontend with this index."""
    return _FIRST + index


def backend_id(config: Config, index: int) -> int:
    """Return the number of the backend with this index."""
    return _FIRST + len(config.frontends) + index
