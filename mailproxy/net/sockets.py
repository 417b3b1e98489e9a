"""Small questions to sockets."""

from __future__ import annotations

import socket

from mailproxy.address import join


def client_name(peer: object, number: int) -> str:
    """A peer's address for the log; clients of a Unix socket have none and are called after their bind's number."""
    return join(peer[0], peer[1]) if isinstance(peer, tuple) else f"unix:{number}"


def has_left(sock: socket.socket) -> bool:
    """Has the peer closed or reset the connection, with nothing left to read?"""
    try:
        return not socket.socket.recv(
            sock, 1, socket.MSG_PEEK
        )  # of the descriptor: under TLS it may hold a record
    except BlockingIOError:
        return False
    except OSError:
        return True
