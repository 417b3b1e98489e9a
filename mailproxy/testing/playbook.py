"""The steps of a playbook, which is a sequence of steps.

They work on either end of a connection. ``ScriptedServer`` plays a playbook on each connection. A test can play a step on a
connection that it has dialled: ``await Expect(b"* OK").play(connection)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import frozen

if TYPE_CHECKING:
    from mailproxy.testing.connection import Connection

_BLOCK_BYTES = 65536
# The length is a prime. No buffer's size is a multiple of it, so lost or swapped bytes always show.
_PERIOD = bytes(range(251))


class PlaybookError(AssertionError):
    """The peer has sent something else than a step expects."""


class Step(Protocol):
    """One step of a playbook."""

    async def play(self, connection: Connection) -> None:
        """Take this step on a connection.

        Raises:
            trio.BrokenResourceError: The peer has closed the connection.
            PlaybookError: The peer has sent something else than the step expects.
        """


Playbook = Sequence[Step]


@frozen
class Send:
    """Send these bytes at once."""

    data: bytes

    async def play(self, connection: Connection) -> None:
        await connection.send(self.data)


@frozen
class SendSlowly:
    """Send these bytes in pieces, under TLS each as a record of its own.

    Attributes:
        data: The bytes.
        size: The bytes of a piece.
        pause: The seconds between two pieces.
    """

    data: bytes
    size: int = 1
    pause: float = 0.0

    async def play(self, connection: Connection) -> None:
        await connection.send_in_pieces(self.data, self.size, self.pause)


@frozen
class Flood:
    """Send ``size`` bytes of ``pattern``. None sends until the peer closes the connection."""

    size: int | None = None

    async def play(self, connection: Connection) -> None:
        sent = 0
        while self.size is None or sent < self.size:
            count = _BLOCK_BYTES if self.size is None else min(_BLOCK_BYTES, self.size - sent)
            await connection.send(pattern(count, sent))
            sent += count


@frozen
class Expect:
    """Receive exactly these bytes. Others raise PlaybookError."""

    data: bytes

    async def play(self, connection: Connection) -> None:
        _compare(self.data, await connection.receive_exactly(len(self.data)), connection)


@frozen
class ExpectLine:
    """Receive this line, given without its CRLF, or any line if None."""

    line: bytes | None = None

    async def play(self, connection: Connection) -> None:
        line = await connection.receive_line()
        if not line.endswith(b"\n"):
            raise PlaybookError(f"expected a line, received {line!r} and then {connection.end}")
        if self.line is not None:
            _compare(self.line, line.rstrip(b"\r\n"), connection)


@frozen
class Collect:
    """Receive ``size`` bytes, or all until the peer closes if None."""

    size: int | None = None

    async def play(self, connection: Connection) -> None:
        if self.size is None:
            await connection.receive_until_end()
        else:
            await connection.receive_exactly(self.size)


@frozen
class Echo:
    """Send back all bytes as they come, until the peer closes."""

    async def play(self, connection: Connection) -> None:
        while data := await connection.receive():
            await connection.send(data)


@frozen
class EchoLines:
    """Send back each line with ``before`` in front, until the peer closes."""

    before: bytes = b""

    async def play(self, connection: Connection) -> None:
        while line := await connection.receive_line():
            await connection.send(self.before + line)


@frozen
class HalfClose:
    """Half-close: send nothing more, and go on receiving."""

    async def play(self, connection: Connection) -> None:
        await connection.half_close()


@frozen
class Close:
    """Close in order, under TLS with close_notify. It is the last step."""

    async def play(self, connection: Connection) -> None:
        await connection.close()


@frozen
class Drop:
    """Close without close_notify. It is the last step."""

    async def play(self, connection: Connection) -> None:
        connection.drop()


@frozen
class Reset:
    """Close with a reset. It is the last step."""

    async def play(self, connection: Connection) -> None:
        connection.reset()


@frozen
class Stall:
    """Neither send nor receive, until cancelled."""

    async def play(self, connection: Connection) -> None:  # noqa: ARG002 -- it leaves the connection alone
        await trio.sleep_forever()


@frozen
class WaitFor:
    """Wait until the test sets this event."""

    event: trio.Event

    async def play(self, connection: Connection) -> None:  # noqa: ARG002 -- it leaves the connection alone
        await self.event.wait()


def pattern(size: int, start: int = 0) -> bytes:
    """Return ``size`` bytes of a fixed endless sequence from ``start`` on, which shows lost and swapped bytes."""
    skip = start % len(_PERIOD)
    return (_PERIOD * ((skip + size) // len(_PERIOD) + 1))[skip : skip + size]


def _compare(expected: bytes, received: bytes, connection: Connection) -> None:
    if received != expected:
        end = f" and then {connection.end}" if connection.end else ""
        raise PlaybookError(f"expected {expected!r}\nreceived {received!r}{end}")
