"""TCP keep-alive as socket options."""

from __future__ import annotations

import math
import socket

from mailproxy.config import KeepAlive
from mailproxy.net.dial import Options


def keepalive_options(keepalive: KeepAlive | bool) -> Options:
    """Return the socket options for this keep-alive (tcp(7)); none for False.

    The kernel takes whole seconds, so times are rounded up.
    """
    if keepalive is False:
        return ()
    options: list[tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if isinstance(keepalive, KeepAlive):
        configured = (
            (socket.TCP_KEEPIDLE, keepalive.idle),
            (socket.TCP_KEEPINTVL, keepalive.interval),
            (socket.TCP_KEEPCNT, keepalive.count),
        )
        options += [
            (socket.IPPROTO_TCP, name, math.ceil(value)) for name, value in configured if value is not None
        ]
    return tuple(options)
