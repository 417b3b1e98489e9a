"""Whether a client has closed while its session waits for a server.

The client's bytes are peeked at and stay unread.
"""

from __future__ import annotations

import socket
import ssl

from mailproxy.net.poller import ERR, HUP, RDHUP

# A client that closes TLS in order sends one record with an alert of two bytes (RFC 8446 section 6.1). In TLS
# 1.2 the record has the alert's type and at most these 57 bytes. In TLS 1.3 it looks like application data of
# two bytes, which no mail client sends.
_RECORD_HEADER_BYTES = 5
_ALERT = 21
_MAX_CLOSE_NOTIFY_BYTES = 57
# In TLS 1.3 the alert is followed by its type, and by the tag of 16 bytes that all usual ciphers have.
_TLS_1_3_CLOSE_NOTIFY_BYTES = _RECORD_HEADER_BYTES + 2 + 1 + 16


def is_client_closing(client: socket.socket, events: int) -> bool:
    """Whether these events of the poller mean that the client has gone.

    That is so if its connection failed, or if it has closed its side and left nothing to read. A client that
    sent a command and then closed its side may still read the answer.
    """
    if events & (ERR | HUP):
        return True
    return bool(events & RDHUP) and _is_drained_eof(client)


def _is_drained_eof(client: socket.socket) -> bool:
    """Return True if the next read gives the end of file, or a close_notify and nothing else."""
    try:
        # SSLSocket.recv takes no flags. MSG_PEEK consumes nothing, so TLS still finds the bytes.
        data = socket.socket.recv(client, _MAX_CLOSE_NOTIFY_BYTES + 1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    if not data or not isinstance(client, ssl.SSLSocket):
        return not data
    if len(data) != _RECORD_HEADER_BYTES + int.from_bytes(data[3:5], "big"):
        return False
    return data[0] == _ALERT or len(data) == _TLS_1_3_CLOSE_NOTIFY_BYTES
