"""Moving bytes at one side of a session without waiting, and OpenSSL's answers as the relay's own."""

from __future__ import annotations

import contextlib
import socket
import ssl

from mailproxy.net.relay.tunnel import Direction, Side, Tunnel
from mailproxy.net.tls.close import send_close_notify, send_record
from mailproxy.net.tls.errors import CONNECTION_RESET, error_reason, is_ragged_eof

MAX_DISCARDED_BYTES = 1024 * 1024  # a side that never stops sending is closed after this
_DISCARD_BYTES = 64 * 1024
RECORD_BYTES = 16 * 1024  # the largest TLS record (RFC 8446 section 5.1)

# A TLS read gives no data when OpenSSL has handled a key update or refused a renegotiation, or while a record
# is incomplete. More than this many in a row end the session: no record is that long (RFC 8446 section 5.2),
# even if it arrives byte by byte.
EMPTY_READS_MAX = 5 + 2**14 + 256

# Results of ``receive`` in place of a count.
BLOCKED, BLOCKED_WRITING = -1, -2


class SideAbortedError(Exception):
    """A side's connection failed. Never leaves the relay.

    Attributes:
        side: The side that failed.
        detail: The reason, for the log.
        is_drained: A read failed, so everything that the side had sent before has been read.
    """

    def __init__(self, side: Side, detail: str, *, is_drained: bool = False) -> None:
        self.side = side
        self.detail = detail
        self.is_drained = is_drained


def receive(side: Side, buffer: memoryview) -> int:
    """Read what is there into ``buffer``.

    Returns:
        The number of bytes; 0 at the end of file. BLOCKED if nothing is there, BLOCKED_WRITING if TLS has to
        write before it can read.

    Raises:
        SideAbortedError: The connection failed.
    """
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
    """Return what ``receive`` returns for an error of a read other than "nothing is there".

    Raises:
        SideAbortedError: The connection failed.
    """
    # The answer to a key update (RFC 8446 section 4.6.3) does not fit the socket's buffer.
    if isinstance(error, ssl.SSLWantWriteError):
        return BLOCKED_WRITING
    if isinstance(error, ssl.SSLZeroReturnError):
        side.close_notify = True
        return 0
    if isinstance(error, ssl.SSLError) and is_ragged_eof(error):
        # A FIN without close_notify closes in order, too. The log tells them apart.
        side.close_notify = False
        return 0
    raise side_aborted(side, error, is_drained=True) from None


def side_aborted(side: Side, error: OSError, *, is_drained: bool = False) -> SideAbortedError:
    """Return the relay's error for an error of a side's socket."""
    # OpenSSL raises this for a failed write once the peer's close_notify has arrived.
    is_reset = isinstance(error, ssl.SSLZeroReturnError)
    return SideAbortedError(
        side, CONNECTION_RESET if is_reset else error_reason(error), is_drained=is_drained
    )


def count_empty_read(direction: Direction) -> None:
    """Count a TLS read that gave no data.

    Raises:
        SideAbortedError: More than ``EMPTY_READS_MAX`` in a row.
    """
    if direction.received != direction.received_before:
        direction.received_before, direction.empty_reads = direction.received, 0
    direction.empty_reads += 1
    if direction.empty_reads > EMPTY_READS_MAX:
        raise SideAbortedError(
            direction.source, "too many TLS renegotiations or key updates", is_drained=True
        )


def send(direction: Direction, data: memoryview) -> bool:
    """Send what the sink takes. The rest is copied to ``direction.pending``.

    The copy is needed because ``data`` may be a shared buffer.

    Returns:
        False if TLS has to read before it can write.

    Raises:
        SideAbortedError: The sink's connection failed.
    """
    sink = direction.sink
    sent, can_write = 0, True
    while sent < len(data):
        # OpenSSL demands that a blocked write is repeated with the same bytes. One record at a time is either
        # sent or not.
        piece = data[sent : sent + RECORD_BYTES] if sink.is_tls else data[sent:]
        try:
            sent += sink.connection.write(piece) if sink.is_tls else sink.connection.send(piece)
        except (BlockingIOError, ssl.SSLWantWriteError):
            break
        except ssl.SSLWantReadError:
            can_write = False
            break
        except OSError as error:
            raise side_aborted(sink, error) from None
    if sent < len(data) or direction.pending:
        direction.pending = bytes(data[sent:])
        direction.is_blocked = sent < len(data)
    return can_write


def discard_input(side: Side, buffer: memoryview) -> None:
    """Read and drop what a side has sent, at most 1 MiB, before its socket is closed.

    Closing a socket with unread bytes resets the connection (RFC 2525 section 2.17). Data sent to the side
    that has not arrived yet would be lost.
    """
    remaining = MAX_DISCARDED_BYTES
    try:
        while remaining > 0 and (count := socket.socket.recv_into(side.sock, buffer)):
            remaining -= count
    except OSError:  # the side has sent no more, or has failed as well
        pass


def shutdown_write(direction: Direction) -> None:
    """Close the sink for writing: close_notify under TLS, then FIN.

    A part of the close_notify that does not fit the sink's buffer stays in ``pending_close_notify``, and the
    direction is blocked. Call again when the sink has room.

    Raises:
        SideAbortedError: The sink's connection failed. Nothing is pending then. The error must not be dropped
            while the sink is still read: the kernel reports a reset once, and later reads look like an
            orderly end.
    """
    sink, pending = direction.sink, direction.pending_close_notify
    direction.pending_close_notify, direction.is_blocked = b"", False
    if isinstance(sink.sock, ssl.SSLSocket):
        try:
            unsent = send_record(sink.sock, pending) if pending else send_close_notify(sink.sock)
        except OSError as error:
            raise side_aborted(sink, error) from None
        if unsent:
            direction.pending_close_notify, direction.is_blocked = unsent, True
            return
    try:  # noqa: SIM105 - contextlib.suppress takes three more Python calls in every session
        # ssl.SSLSocket.shutdown would drop the TLS state, and what still arrives could not be read.
        socket.socket.shutdown(sink.sock, socket.SHUT_WR)
    except OSError:
        pass  # the direction that reads from the sink gets the error


def close_in_order(tunnel: Tunnel) -> None:
    """Tell both sides of a tunnel that was ended in between: close_notify under TLS, then FIN.

    A side with unsent data gets neither: they would come in the middle of a record or of a response. A side that
    is sending gets a reset, as its socket is closed with unread data.
    """
    for direction in (tunnel.to_client, tunnel.to_server):
        if direction.is_blocked or direction.is_finished:
            continue
        with contextlib.suppress(SideAbortedError):
            shutdown_write(direction)
        with contextlib.suppress(OSError):
            socket.socket.recv(direction.sink.sock, _DISCARD_BYTES)
