"""The steps that a scripted peer can take; a playbook is some of them in order.

The same steps play on either end: ``ScriptedServer`` plays them on every connection, and a test can play one on a
connection that it dialled: ``await Expect(b"* OK").play(connection)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import frozen

if TYPE_CHECKING:
    from mailproxy.testing.connection import Connection

_BLOCK_BYTES = 65536
_PERIOD = bytes(range(251))  # a prime: no buffer's size is a multiple, so bytes lost or swapped always show


class PlaybookError(AssertionError):
    """The peer sent something else than the playbook expected."""


class Step(Protocol):
    """One step. Raises trio.BrokenResourceError if the peer has gone, PlaybookError if it said something else."""

    async def play(self, connection: Connection) -> None:
        """Take it."""


Playbook = Sequence[Step]


@frozen
class Send:
    """Send this, all at once."""

    data: bytes

    async def play(self, connection: Connection) -> None:
        await connection.send(self.data)


@frozen
class SendSlowly:
    """Send this in pieces, byte by byte unless told otherwise, each a TLS record of its own; ``pause`` in seconds."""

    data: bytes
    size: int = 1
    pause: float = 0.0

    async def play(self, connection: Connection) -> None:
        await connection.send_in_pieces(self.data, self.size, self.pause)


@frozen
class Flood:
    """Send so many bytes of ``pattern``, without end if ``size`` is None."""

    size: int | None = None

    async def play(self, connection: Connection) -> None:
        sent = 0
        while self.size is None or sent < self.size:
            count = _BLOCK_BYTES if self.size is None else min(_BLOCK_BYTES, self.size - sent)
            await connection.send(pattern(count, sent))
            sent += count


@frozen
class Expect:
    """Receive exactly these bytes."""

    data: bytes

    async def play(self, connection: Connection) -> None:
        _compare(self.data, await connection.receive_exactly(len(self.data)), connection)


@frozen
class ExpectLine:
    """Receive a line: this one (its CRLF left out here), or any."""

    line: bytes | None = None

    async def play(self, connection: Connection) -> None:
        line = await connection.receive_line()
        if not line.endswith(b"\n"):
            raise PlaybookError(f"expected a line, received {line!r} and then {connection.end}")
        if self.line is not None:
            _compare(self.line, line.rstrip(b"\r\n"), connection)


@frozen
class Collect:
    """Receive so many bytes, or all until the end."""

    size: int | None = None

    async def play(self, connection: Connection) -> None:
        if self.size is None:
            await connection.receive_until_end()
        else:
            await connection.receive_exactly(self.size)


@frozen
class Echo:
    """Send back what comes, as it comes, until the end."""

    async def play(self, connection: Connection) -> None:
        while data := await connection.receive():
            await connection.send(data)


@frozen
class EchoLines:
    """Send back each line with ``before`` in front, until the end."""

    before: bytes = b""

    async def play(self, connection: Connection) -> None:
        while line := await connection.receive_line():
            await connection.send(self.before + line)


@frozen
class HalfClose:
    """Send nothing more, and go on receiving."""

    async def play(self, connection: Connection) -> None:
        await connection.half_close()


@frozen
class Close:
    """Close in order. Nothing can follow."""

    async def play(self, connection: Connection) -> None:
        await connection.close()


@frozen
class Drop:
    """Close without close_notify. Nothing can follow."""

    async def play(self, connection: Connection) -> None:
        connection.drop()


@frozen
class Reset:
    """Close with a reset. Nothing can follow."""

    async def play(self, connection: Connection) -> None:
        connection.reset()


@frozen
class Stall:
    """Neither send nor receive any more, for ever."""

    async def play(self, connection: Connection) -> None:  # noqa: ARG002 -- it leaves the connection alone
        await trio.sleep_forever()


@frozen
class WaitFor:
    """Go on when the test says so."""

    event: trio.Event

    async def play(self, connection: Connection) -> None:  # noqa: ARG002 -- it leaves the connection alone
        await self.event.wait()


def pattern(size: int, start: int = 0) -> bytes:
    """Return ``size`` bytes of a fixed endless sequence from ``start`` on, to see that nothing is lost or swapped."""
    skip = start % len(_PERIOD)
    return (_PERIOD * ((skip + size) // len(_PERIOD) + 1))[skip : skip + size]


def _compare(expected: bytes, received: bytes, connection: Connection) -> None:
    if received != expected:
        end = f" and then {connection.end}" if connection.end else ""
        raise PlaybookError(f"expected {expected!r}\nreceived {received!r}{end}")
