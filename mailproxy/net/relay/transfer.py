"""Moving bytes at one side of a session, as far as they can be moved now; OpenSSL's answers in the relay's words."""

from __future__ import annotations

import socket
import ssl

from mailproxy.net.relay.tunnel import Direction, Side
from mailproxy.net.tls.close import send_close_notify, send_record
from mailproxy.net.tls.errors import CONNECTION_RESET, error_reason, is_ragged_eof

DISCARDED_BYTES_MAX = 1024 * 1024  # a side that sends on and on is closed to all the same
RECORD_BYTES = 16 * 1024  # the largest TLS record (RFC 8446 section 5.1)

# A read of TLS gives no data when OpenSSL has handled a key update or refused a renegotiation, or when a record is still
# incomplete. So many in a row are too many: no record is that long (RFC 8446 section 5.2), even if it arrives byte by byte.
EMPTY_READS_MAX = 5 + 2**14 + 256

# What receive gives instead of a count.
BLOCKED, BLOCKED_WRITING = -1, -2


class SideAbortedError(Exception):
    """A side's connection failed. Never leaves the relay.

    ``is_drained``: it failed in receiving, so all that the side had sent before has been read.
    """

    def __init__(self, side: Side, detail: str, *, is_drained: bool = False) -> None:
        self.side = side
        self.detail = detail
        self.is_drained = is_drained


def receive(side: Side, buffer: memoryview) -> int:
    """Bytes read into ``buffer``, 0 at the end; BLOCKED, or BLOCKED_WRITING when TLS has to answer first."""
    try:
        count: int = (
            side.connection.read(len(buffer), buffer) if side.is_tls else side.connection.recv_into(buffer)
        )
    except (BlockingIOError, ssl.SSLWantReadError):
        return BLOCKED
    except OSError as error:
        return classify_read_error(side, error)
    if count == 0 and side.is_tls:
        side.close_notify = True
    return count


def classify_read_error(side: Side, error: OSError) -> int:
    """What it comes to if there is more to be said than that nothing is there; as ``receive``."""
    if isinstance(
        error, ssl.SSLWantWriteError
    ):  # the answer to a key update (RFC 8446 section 4.6.3) finds the socket full
        return BLOCKED_WRITING
    if isinstance(error, ssl.SSLZeroReturnError):
        side.close_notify = True
        return 0
    if isinstance(error, ssl.SSLError) and is_ragged_eof(error):
        side.close_notify = False  # a FIN without close_notify is orderly, too; the log tells them apart
        return 0
    raise aborted(side, error, is_drained=True) from None


def aborted(side: Side, error: OSError, *, is_drained: bool = False) -> SideAbortedError:
    """Its connection failed with this."""
    # OpenSSL answers a failed write that way once the peer's close_notify has come.
    is_reset = isinstance(error, ssl.SSLZeroReturnError)
    return SideAbortedError(
        side, CONNECTION_RESET if is_reset else error_reason(error), is_drained=is_drained
    )


def count_empty_read(direction: Direction) -> None:
    """Count a read of TLS that gave no data. Raises SideAbortedError after too many in a row."""
    if direction.received != direction.received_before:
        direction.received_before, direction.empty_reads = direction.received, 0
    direction.empty_reads += 1
    if direction.empty_reads > EMPTY_READS_MAX:
        raise SideAbortedError(
            direction.source, "too many TLS renegotiations or key updates", is_drained=True
        )


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
        direction.is_blocked = sent < len(data)
    return writable


def discard_input(side: Side, buffer: memoryview) -> None:
    """Read away what a side has sent, up to a limit, before it is closed.

    Closing over unread bytes resets the connection. What was sent to that side and has not yet arrived would be lost.
    """
    left = DISCARDED_BYTES_MAX
    try:
        while left > 0 and (count := socket.socket.recv_into(side.sock, buffer)):
            left -= count
    except OSError:  # it has sent nothing more, or has failed as well
        pass


def shutdown_write(direction: Direction) -> None:
    """Tell the sink that no more comes: close_notify where there is TLS, then FIN.

    What of the first finds no room stays with the direction, which is held then: to be called again when there is some.

    Raises SideAbortedError if the sink has gone; nothing is held then. Who reads from it must hear that here: the kernel
    says once that a connection was reset, and whoever asks after that gets an orderly end.
    """
    sink, farewell = direction.sink, direction.pending_close_notify
    direction.pending_close_notify, direction.is_blocked = b"", False
    if isinstance(sink.sock, ssl.SSLSocket):
        try:
            left = send_record(sink.sock, farewell) if farewell else send_close_notify(sink.sock)
        except OSError as error:
            raise aborted(sink, error) from None
        if left:
            direction.pending_close_notify, direction.is_blocked = left, True
            return
    try:  # noqa: SIM105 - suppress takes three calls more, of Python's, in every session
        # ssl.SSLSocket.shutdown would forget the TLS state, and what still comes could not be read
        socket.socket.shutdown(sink.sock, socket.SHUT_WR)
    except OSError:
        pass  # who reads from it learns that
