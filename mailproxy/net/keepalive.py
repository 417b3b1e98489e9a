"""TCP keep-alive as socket options."""

from __future__ import annotations

import math
import socket

from mailproxy.config import KeepAlive
from mailproxy.net.dial import Options


def keepalive_options(keepalive: KeepAlive | bool) -> Options:
    """The options of a socket with this keep-alive, none without one. The kernel counts in whole seconds."""
    if keepalive is False:
        return ()
    options: list[tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if isinstance(keepalive, KeepAlive):
        given = (
            (socket.TCP_KEEPIDLE, keepalive.idle),
            (socket.TCP_KEEPINTVL, keepalive.interval),
            (socket.TCP_KEEPCNT, keepalive.count),
        )
        options += [
            (socket.IPPROTO_TCP, name, math.ceil(value)) for name, value in given if value is not None
        ]
    return tuple(options)
