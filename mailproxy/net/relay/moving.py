"""Moving bytes at one side of a session, as far as they can be moved now; OpenSSL's answers in the relay's words."""

from __future__ import annotations

import socket
import ssl

from mailproxy.net.relay.pair import Direction, Side
from mailproxy.net.tls import is_bare_fin, reason, send_close_notify, send_record

RECORD_BYTES = 16 * 1024  # the largest TLS record (RFC 8446 section 5.1)

# What receive gives instead of a count.
BLOCKED, BLOCKED_WRITING = -1, -2


class SideAbortedError(Exception):
    """A side's connection failed. Never leaves the relay."""

    def __init__(self, side: Side, detail: str) -> None:
        self.side = side
        self.detail = detail


def receive(side: Side, buffer: memoryview) -> int:
    """Bytes read into ``buffer``, 0 at the end; BLOCKED, or BLOCKED_WRITING when TLS has to answer first."""
    try:
        count: int = (
            side.connection.read(len(buffer), buffer) if side.is_tls else side.connection.recv_into(buffer)
        )
    except (BlockingIOError, ssl.SSLWantReadError):
        return BLOCKED
    except OSError as error:
        return not_received(side, error)
    if count == 0 and side.is_tls:
        side.close_notify = True
    return count


def not_received(side: Side, error: OSError) -> int:
    """What it comes to if there is more to be said than that nothing is there; as ``receive``."""
    if isinstance(
        error, ssl.SSLWantWriteError
    ):  # the answer to a key update (RFC 8446 section 4.6.3) finds the socket full
        return BLOCKED_WRITING
    if isinstance(error, ssl.SSLZeroReturnError):
        side.close_notify = True
        return 0
    if isinstance(error, ssl.SSLError) and is_bare_fin(error):
        side.close_notify = False  # a FIN without close_notify is orderly, too; the log tells them apart
        return 0
    raise aborted(side, error) from None


def aborted(side: Side, error: OSError) -> SideAbortedError:
    """Its connection failed with this."""
    words = reason(error) if isinstance(error, ssl.SSLError) else error.strerror or str(error)
    return SideAbortedError(side, words)


def send(direction: Direction, data: memoryview) -> bool:
    """Send what the sink takes; the rest is copied out of the shared buffer and kept as pending.

    False if TLS has to read before it can write.
    """
    sink = direction.sink
    sent, writable = 0, True
    while sent < len(data):
        # OpenSSL wants a blocked write repeated with the same bytes: one record at a time is either sent or is not.
        piece = data[sent : sent + RECORD_BYTES] if sink.is_tls else data[sent:]
        try:
            sent += sink.connection.write(piece) if sink.is_tls else sink.connection.send(piece)
        except (BlockingIOError, ssl.SSLWantWriteError):
            break
        except ssl.SSLWantReadError:
            writable = False
            break
        except OSError as error:
            raise aborted(sink, error) from None
    if sent < len(data) or direction.pending:
        direction.pending = bytes(data[sent:])
        direction.is_held = sent < len(data)
    return writable


def close_sending(direction: Direction) -> None:
    """Tell the sink that no more comes: close_notify where there is TLS, then FIN.

    What of the first finds no room stays with the direction, which is held then: to be called again when there is some.

    Raises SideAbortedError if the sink has gone; nothing is held then. Who reads from it must hear that here: the kernel
    says once that a connection was reset, and whoever asks after that gets an orderly end.
    """
    sink, farewell = direction.sink, direction.farewell
    direction.farewell, direction.is_held = b"", False
    if isinstance(sink.sock, ssl.SSLSocket):
        try:
            left = send_record(sink.sock, farewell) if farewell else send_close_notify(sink.sock)
        except OSError as error:
            raise aborted(sink, error) from None
        if left:
            direction.farewell, direction.is_held = left, True
            return
    try:  # noqa: SIM105 - suppress takes three calls more, of Python's, in every session
        # ssl.SSLSocket.shutdown would forget the TLS state, and what still comes could not be read
        socket.socket.shutdown(sink.sock, socket.SHUT_WR)
    except OSError:
        pass  # who reads from it learns that
