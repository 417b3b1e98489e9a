"""Peeking at a client's first bytes: nothing is consumed, and a slow client causes few wakeups."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing
from attrs import define, field

from mailproxy.errors import ClientAbortError, ClientLeftError
from mailproxy.net.peek import consume, peek, peek_nowait
from mailproxy.protocol import NeedMore
from tests.support.timeouts import fail_after_timeout


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


class CountingSocket(socket.socket):
    """A socket that counts its reads. ``after_read`` holds the number of a read and what to call after it."""

    reads = 0
    after_read: tuple[int, Callable[[], None]] = (0, lambda: None)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data: bytes | None = None
        try:
            data = super().recv(size, flags)
        finally:
            self.reads += 1
            if self.reads == self.after_read[0]:
                self.after_read[1]()
        assert data is not None
        return data


@define
class SocketPair:
    """A client, and the accepted end, which is peeked at."""

    client: socket.socket
    ours: CountingSocket

    def reset(self) -> None:
        """Reset the connection."""
        if self.client.family == socket.AF_UNIX:
            # A Unix socket resets when it is closed with unread data.
            self.ours.send(b"unread")
        else:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    @property
    def low_water_mark(self) -> int:
        """The number of bytes from which the socket counts as readable."""
        return self.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def connect(family: str) -> tuple[socket.socket, socket.socket]:
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 5)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client, listener.accept()[0]


@pytest.fixture(params=["tcp", "unix"])
def socket_pair(request: pytest.FixtureRequest) -> Iterator[SocketPair]:
    client, accepted = connect(request.param)
    ours = CountingSocket(fileno=accepted.detach())
    ours.setblocking(False)
    with client, ours:
        yield SocketPair(client, ours)


@pytest.fixture
def tcp() -> Iterator[SocketPair]:
    client, accepted = connect("tcp")
    ours = CountingSocket(fileno=accepted.detach())
    ours.setblocking(False)
    with client, ours:
        yield SocketPair(client, ours)


@define
class SteppedParser:
    """A parser that asks for each number of bytes in ``steps``, and parses the last."""

    steps: tuple[int, ...]
    sizes: list[int] = field(factory=list, init=False)

    def __call__(self, data: bytes) -> tuple[bytes, int] | NeedMore:
        self.sizes.append(len(data))
        for step in self.steps:
            if len(data) < step:
                return NeedMore(step)
        return data[: self.steps[-1]], self.steps[-1]


def parse_line(data: bytes) -> tuple[bytes, int] | NeedMore:
    """Parse a line. Only the next byte can tell whether it ends."""
    end = data.find(b"\n")
    return (data[:end], end + 1) if end >= 0 else NeedMore(len(data) + 1)


def noise(count: int) -> bytes:
    return bytes(number % 251 for number in range(count))


async def send_slowly(client: socket.socket, data: bytes, size: int = 1) -> None:
    """Send in pieces, each when the receiving task has read the last and waits."""
    for start in range(0, len(data), size):
        await trio.testing.wait_all_tasks_blocked(0.001)
        client.sendall(data[start : start + size])


# Complete input.


async def test_peek_of_available_data(socket_pair: SocketPair) -> None:
    socket_pair.client.sendall(b"PROXY\n220 ready\r\n")
    assert await peek(socket_pair.ours, parse_line) == (b"PROXY", 6)
    assert socket_pair.ours.reads == 1


async def test_peek_waits_for_data(socket_pair: SocketPair, nursery: trio.Nursery) -> None:
    nursery.start_soon(send_slowly, socket_pair.client, b"PROXY\n", 6)
    assert await peek(socket_pair.ours, parse_line) == (b"PROXY", 6)


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_peek_of_data_in_small_pieces(
    socket_pair: SocketPair, nursery: trio.Nursery, size: int
) -> None:
    nursery.start_soon(send_slowly, socket_pair.client, b"PROXY UNKNOWN\n", size)
    assert await peek(socket_pair.ours, parse_line) == (b"PROXY UNKNOWN", 14)


@pytest.mark.parametrize("size", [2047, 2048, 2049, 4096, 16384])
async def test_peek_of_data_larger_than_first_read(
    socket_pair: SocketPair, nursery: trio.Nursery, size: int
) -> None:
    nursery.start_soon(send_slowly, socket_pair.client, noise(size + 10), 2048)
    parse = SteppedParser((16, size))
    assert await peek(socket_pair.ours, parse) == (noise(size), size)


async def test_peek_of_large_available_data(socket_pair: SocketPair) -> None:
    socket_pair.client.sendall(noise(5000))
    parse = SteppedParser((16, 5000))
    assert await peek(socket_pair.ours, parse) == (noise(5000), 5000)
    assert parse.sizes == [2048, 5000]
    assert socket_pair.ours.reads == 2


async def test_peek_consumes_nothing(socket_pair: SocketPair) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_slowly, socket_pair.client, b"PROXY\n* OK", 4)
        _, length = await peek(socket_pair.ours, parse_line)
    assert socket_pair.ours.recv(100, socket.MSG_PEEK) == b"PROXY\n* OK"
    consume(socket_pair.ours, length)
    assert socket_pair.ours.recv(100) == b"* OK"


async def test_consecutive_peeks(socket_pair: SocketPair) -> None:
    socket_pair.client.sendall(b"one\ntwo\nrest")
    for line in (b"one", b"two"):
        value, length = await peek(socket_pair.ours, parse_line)
        assert value == line
        consume(socket_pair.ours, length)
    assert socket_pair.ours.recv(100) == b"rest"


# peek_nowait().


async def test_peek_nowait_returns_available_data(socket_pair: SocketPair) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    socket_pair.client.sendall(b"PROXY\n* OK")
    assert peek_nowait(socket_pair.ours, parse_line) == (b"PROXY", 6)
    assert socket_pair.ours.recv(100) == b"PROXY\n* OK"


async def test_peek_nowait_with_incomplete_data_returns_none(socket_pair: SocketPair) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    assert peek_nowait(socket_pair.ours, parse_line) is None
    socket_pair.client.sendall(b"PRO")
    assert peek_nowait(socket_pair.ours, parse_line) is None
    socket_pair.client.sendall(noise(4000))
    assert peek_nowait(socket_pair.ours, SteppedParser((4000,))) is None
    assert socket_pair.low_water_mark == 1


async def test_peek_nowait_after_close_returns_none(socket_pair: SocketPair) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    socket_pair.client.close()
    assert peek_nowait(socket_pair.ours, parse_line) is None


async def test_peek_nowait_after_reset_raises_client_abort(socket_pair: SocketPair) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    socket_pair.reset()
    with pytest.raises(ClientAbortError, match="Connection reset by peer"):
        peek_nowait(socket_pair.ours, parse_line)


async def test_peek_nowait_raises_parser_error(socket_pair: SocketPair) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    def raise_lookup_error(_data: bytes) -> tuple[None, int] | NeedMore:
        raise LookupError("no such protocol")

    socket_pair.client.sendall(b"HELO")
    with pytest.raises(LookupError, match="no such protocol"):
        peek_nowait(socket_pair.ours, raise_lookup_error)


# Incomplete input.


async def test_close_without_data_raises_client_left(socket_pair: SocketPair) -> None:
    socket_pair.client.close()
    with pytest.raises(ClientLeftError, match="closed without sending anything") as caught:
        await peek(socket_pair.ours, parse_line)
    assert not caught.value.has_sent


async def test_late_close_without_data_raises_client_left(
    socket_pair: SocketPair, nursery: trio.Nursery
) -> None:
    async def close() -> None:
        await trio.testing.wait_all_tasks_blocked(0.001)
        socket_pair.client.shutdown(socket.SHUT_WR)

    nursery.start_soon(close)
    with pytest.raises(ClientLeftError, match="closed without sending anything"):
        await peek(socket_pair.ours, parse_line)


@pytest.mark.parametrize("is_late", [False, True])
async def test_close_after_partial_data_raises_client_left(
    socket_pair: SocketPair, nursery: trio.Nursery, is_late: bool
) -> None:
    async def close() -> None:
        if is_late:
            await trio.testing.wait_all_tasks_blocked(0.001)
        socket_pair.client.shutdown(socket.SHUT_WR)

    socket_pair.client.sendall(b"PRO")
    nursery.start_soon(close)
    with pytest.raises(ClientLeftError, match="closed after 3 bytes") as caught:
        await peek(socket_pair.ours, SteppedParser((16,)))
    assert caught.value.has_sent
    assert socket_pair.low_water_mark == 1
    assert socket_pair.ours.recv(100) == b"PRO"


async def test_close_after_complete_data_succeeds(socket_pair: SocketPair) -> None:
    socket_pair.client.sendall(b"PROXY\n")
    socket_pair.client.close()
    assert await peek(socket_pair.ours, parse_line) == (b"PROXY", 6)


async def test_rest_sent_together_with_close_is_parsed(socket_pair: SocketPair) -> None:
    def send_rest_and_close() -> None:
        socket_pair.client.sendall(noise(100))
        socket_pair.client.close()

    socket_pair.client.sendall(noise(2048))
    # After the read that should return more than the first one did.
    socket_pair.ours.after_read = 2, send_rest_and_close
    _, length = await peek(socket_pair.ours, SteppedParser((2148,)))
    assert length == 2148


@pytest.mark.parametrize("sent", [b"", b"PRO"])
@pytest.mark.parametrize("is_late", [False, True])
async def test_reset_raises_client_abort(
    socket_pair: SocketPair, nursery: trio.Nursery, sent: bytes, is_late: bool
) -> None:
    async def fail() -> None:
        await trio.testing.wait_all_tasks_blocked(0.001)
        socket_pair.reset()

    socket_pair.client.sendall(sent)
    if is_late:
        nursery.start_soon(fail)
    else:
        socket_pair.reset()
    with pytest.raises(ClientAbortError, match="Connection reset by peer") as caught:
        await peek(socket_pair.ours, SteppedParser((16,)))
    assert not isinstance(caught.value, ClientLeftError)
    assert socket_pair.low_water_mark == 1


async def test_peek_raises_parser_error(socket_pair: SocketPair, nursery: trio.Nursery) -> None:
    def raise_lookup_error(data: bytes) -> tuple[None, int] | NeedMore:
        if len(data) < 4:
            return NeedMore(4)
        raise LookupError("no such protocol")

    nursery.start_soon(send_slowly, socket_pair.client, b"HELO", 2)
    with pytest.raises(LookupError, match="no such protocol"):
        await peek(socket_pair.ours, raise_lookup_error)
    assert socket_pair.low_water_mark == 1
    assert socket_pair.ours.recv(100) == b"HELO"


@pytest.mark.parametrize("sent", [b"", b"PRO"])
async def test_cancelled_peek_resets_low_water_mark(socket_pair: SocketPair, sent: bytes) -> None:
    socket_pair.client.sendall(sent)
    with trio.move_on_after(0.03) as limit:
        await peek(socket_pair.ours, SteppedParser((16,)))
    assert limit.cancelled_caught
    assert socket_pair.low_water_mark == 1


async def test_low_water_mark_is_reset_after_peek(socket_pair: SocketPair, nursery: trio.Nursery) -> None:
    nursery.start_soon(send_slowly, socket_pair.client, noise(300), 100)
    _, length = await peek(socket_pair.ours, SteppedParser((200, 300)))
    consume(socket_pair.ours, length)
    nursery.start_soon(send_slowly, socket_pair.client, b"x")
    await trio.lowlevel.wait_readable(socket_pair.ours)
    assert socket_pair.ours.recv(100) == b"x"
    assert socket_pair.low_water_mark == 1


# Number of wakeups.


async def test_slow_client_is_parsed_seldom(socket_pair: SocketPair, nursery: trio.Nursery) -> None:
    # 200: a Unix socket queues only a limited number of one-byte messages.
    nursery.start_soon(send_slowly, socket_pair.client, noise(200))
    parse = SteppedParser((16, 200))
    assert await peek(socket_pair.ours, parse) == (noise(200), 200)
    assert parse.sizes[-1] == 200
    assert len(parse.sizes) == 3


async def test_slow_tcp_client_causes_few_reads(tcp: SocketPair, nursery: trio.Nursery) -> None:
    nursery.start_soon(send_slowly, tcp.client, noise(500))
    assert await peek(tcp.ours, SteppedParser((16, 500))) == (noise(500), 500)
    # The reads find nothing, the first byte, 16 bytes and 500 bytes.
    assert tcp.ours.reads <= 5


@pytest.mark.parametrize("sent", [1, 100, 2048, 4096])
async def test_stalled_client_causes_no_busy_loop(socket_pair: SocketPair, sent: int) -> None:
    socket_pair.client.sendall(noise(sent))
    started_at = time.monotonic()
    with trio.move_on_after(0.2):
        await peek(socket_pair.ours, SteppedParser((sent, 8000)))
    elapsed = time.monotonic() - started_at
    if socket_pair.ours.family == socket.AF_UNIX:  # only the pause limits its reads
        assert socket_pair.ours.reads <= elapsed / 0.01 + 10
    else:
        assert socket_pair.ours.reads <= 4
