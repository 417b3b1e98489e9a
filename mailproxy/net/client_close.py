"""Has a client left while its session waits for a server? Nobody reads from it then, so its bytes must stay where they are."""

from __future__ import annotations

import socket
import ssl

from mailproxy.net.poller import ERR, HUP, RDHUP

# What a client sends that closes TLS in order is one record with an alert of two bytes (RFC 8446 section 6.1). In TLS 1.2 it
# says what it is and is never longer than this; in 1.3 it looks like application data of two bytes, which nobody sends.
_RECORD_HEAD_BYTES = 5
_ALERT = 21
_CLOSE_NOTIFY_MAX = 57
_CLOSE_NOTIFY_BYTES = (
    _RECORD_HEAD_BYTES + 2 + 1 + 16
)  # its type behind it, and the tag of every cipher that is usual


def is_client_closing(client: socket.socket, events: int) -> bool:
    """Do these events of the poller mean that it has left?

    It has if its connection failed, or if it has ended its side with nothing left to read: one that asked for something,
    and then ended, may read on.
    """
    if events & (ERR | HUP):
        return True
    return bool(events & RDHUP) and _is_drained_eof(client)


def _is_drained_eof(client: socket.socket) -> bool:
    try:
        # SSLSocket takes no flags; nothing is consumed, so TLS does not miss it
        data = socket.socket.recv(client, _CLOSE_NOTIFY_MAX + 1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    if not data or not isinstance(client, ssl.SSLSocket):
        return not data
    if len(data) != _RECORD_HEAD_BYTES + int.from_bytes(data[3:5], "big"):
        return False
    return data[0] == _ALERT or len(data) == _CLOSE_NOTIFY_BYTES
