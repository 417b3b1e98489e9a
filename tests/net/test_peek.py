"""Looking at what a client says first: all of it, however it comes, none of it taken, and no more wake-ups than it needs."""

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
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


class Watched(socket.socket):
    """A socket that counts how often it was looked at; ``meanwhile`` is done behind the look of that number."""

    looks = 0
    meanwhile: tuple[int, Callable[[], None]] = (0, lambda: None)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data: bytes | None = None
        try:
            data = super().recv(size, flags)
        finally:
            self.looks += 1
            if self.looks == self.meanwhile[0]:
                self.meanwhile[1]()
        assert data is not None
        return data


@define
class Ends:
    """A client, and the end that is looked at."""

    client: socket.socket
    ours: Watched

    def reset(self) -> None:
        """The client is gone without an orderly end."""
        if self.client.family == socket.AF_UNIX:
            self.ours.send(b"unread")  # which a Unix socket resets for
        else:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    @property
    def lowest(self) -> int:
        """How many bytes there must be for it to count as readable."""
        return self.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def connected(family: str) -> tuple[socket.socket, socket.socket]:
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 5)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client, listener.accept()[0]


@pytest.fixture(params=["tcp", "unix"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    client, accepted = connected(request.param)
    ours = Watched(fileno=accepted.detach())
    ours.setblocking(False)
    with client, ours:
        yield Ends(client, ours)


@pytest.fixture
def tcp() -> Iterator[Ends]:
    client, accepted = connected("tcp")
    ours = Watched(fileno=accepted.detach())
    ours.setblocking(False)
    with client, ours:
        yield Ends(client, ours)


@define
class Asking:
    """Makes a value of so many bytes, and asks for them step by step."""

    steps: tuple[int, ...]
    seen: list[int] = field(factory=list, init=False)

    def __call__(self, data: bytes) -> tuple[bytes, int] | NeedMore:
        self.seen.append(len(data))
        for step in self.steps:
            if len(data) < step:
                return NeedMore(step)
        return data[: self.steps[-1]], self.steps[-1]


def bytewise(data: bytes) -> tuple[bytes, int] | NeedMore:
    """A line; only the next byte can tell whether it ends."""
    end = data.find(b"\n")
    return (data[:end], end + 1) if end >= 0 else NeedMore(len(data) + 1)


def noise(count: int) -> bytes:
    return bytes(number % 251 for number in range(count))


async def send_slowly(client: socket.socket, data: bytes, size: int = 1) -> None:
    """Piece by piece, each only when whoever waits for it has seen the last."""
    for start in range(0, len(data), size):
        await trio.testing.wait_all_tasks_blocked(0.001)
        client.sendall(data[start : start + size])


# What comes of it.


async def test_what_is_there_already(ends: Ends) -> None:
    ends.client.sendall(b"PROXY\n220 ready\r\n")
    assert await peek(ends.ours, bytewise) == (b"PROXY", 6)
    assert ends.ours.looks == 1


async def test_what_is_still_to_come(ends: Ends, nursery: trio.Nursery) -> None:
    nursery.start_soon(send_slowly, ends.client, b"PROXY\n", 6)
    assert await peek(ends.ours, bytewise) == (b"PROXY", 6)


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_what_comes_in_small_pieces(ends: Ends, nursery: trio.Nursery, size: int) -> None:
    nursery.start_soon(send_slowly, ends.client, b"PROXY UNKNOWN\n", size)
    assert await peek(ends.ours, bytewise) == (b"PROXY UNKNOWN", 14)


@pytest.mark.parametrize("size", [2047, 2048, 2049, 4096, 16384])
async def test_what_is_longer_than_the_first_look(ends: Ends, nursery: trio.Nursery, size: int) -> None:
    nursery.start_soon(send_slowly, ends.client, noise(size + 10), 2048)
    parse = Asking((16, size))
    assert await peek(ends.ours, parse) == (noise(size), size)


async def test_what_is_longer_than_the_first_look_and_there_already(ends: Ends) -> None:
    ends.client.sendall(noise(5000))
    parse = Asking((16, 5000))
    assert await peek(ends.ours, parse) == (noise(5000), 5000)
    assert parse.seen == [2048, 5000]
    assert ends.ours.looks == 2


async def test_nothing_is_consumed(ends: Ends) -> None:
    async with trio.open_nursery() as sending:
        sending.start_soon(send_slowly, ends.client, b"PROXY\n* OK", 4)
        _, length = await peek(ends.ours, bytewise)
    assert ends.ours.recv(100, socket.MSG_PEEK) == b"PROXY\n* OK"
    consume(ends.ours, length)
    assert ends.ours.recv(100) == b"* OK"


async def test_two_in_a_row(ends: Ends) -> None:
    ends.client.sendall(b"one\ntwo\nrest")
    for line in (b"one", b"two"):
        value, length = await peek(ends.ours, bytewise)
        assert value == line
        consume(ends.ours, length)
    assert ends.ours.recv(100) == b"rest"


# What need not be waited for.


async def test_a_look_finds_what_is_there(ends: Ends) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    ends.client.sendall(b"PROXY\n* OK")
    assert peek_nowait(ends.ours, bytewise) == (b"PROXY", 6)
    assert ends.ours.recv(100) == b"PROXY\n* OK"


async def test_a_look_finds_nothing_of_what_is_still_to_come(ends: Ends) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    assert peek_nowait(ends.ours, bytewise) is None
    ends.client.sendall(b"PRO")
    assert peek_nowait(ends.ours, bytewise) is None
    ends.client.sendall(noise(4000))
    assert peek_nowait(ends.ours, Asking((4000,))) is None
    assert ends.lowest == 1


async def test_a_look_leaves_it_to_the_waiting_to_say_that_nothing_comes(ends: Ends) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    ends.client.close()
    assert peek_nowait(ends.ours, bytewise) is None


async def test_a_look_says_that_the_connection_failed(ends: Ends) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    ends.reset()
    with pytest.raises(ClientAbortError, match="Connection reset by peer"):
        peek_nowait(ends.ours, bytewise)


async def test_what_the_parser_objects_to_at_a_look_is_raised_as_it_is(ends: Ends) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    def object_to(_data: bytes) -> tuple[None, int] | NeedMore:
        raise LookupError("no such protocol")

    ends.client.sendall(b"HELO")
    with pytest.raises(LookupError, match="no such protocol"):
        peek_nowait(ends.ours, object_to)


# What does not come.


async def test_a_client_that_leaves_without_a_word(ends: Ends) -> None:
    ends.client.close()
    with pytest.raises(ClientLeftError, match="closed without sending anything") as caught:
        await peek(ends.ours, bytewise)
    assert not caught.value.has_sent


async def test_a_client_that_thinks_about_it_and_leaves(ends: Ends, nursery: trio.Nursery) -> None:
    async def leave() -> None:
        await trio.testing.wait_all_tasks_blocked(0.001)
        ends.client.shutdown(socket.SHUT_WR)

    nursery.start_soon(leave)
    with pytest.raises(ClientLeftError, match="closed without sending anything"):
        await peek(ends.ours, bytewise)


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_client_that_leaves_in_the_middle(ends: Ends, nursery: trio.Nursery, is_late: bool) -> None:
    async def leave() -> None:
        if is_late:
            await trio.testing.wait_all_tasks_blocked(0.001)
        ends.client.shutdown(socket.SHUT_WR)

    ends.client.sendall(b"PRO")
    nursery.start_soon(leave)
    with pytest.raises(ClientLeftError, match="closed after 3 bytes") as caught:
        await peek(ends.ours, Asking((16,)))
    assert caught.value.has_sent
    assert ends.lowest == 1
    assert ends.ours.recv(100) == b"PRO"


async def test_a_client_that_leaves_behind_the_last_byte_has_said_it_all(ends: Ends) -> None:
    ends.client.sendall(b"PROXY\n")
    ends.client.close()
    assert await peek(ends.ours, bytewise) == (b"PROXY", 6)


async def test_the_rest_that_comes_together_with_the_end_is_not_missed(ends: Ends) -> None:
    def say_the_rest_and_leave() -> None:
        ends.client.sendall(noise(100))
        ends.client.close()

    ends.client.sendall(noise(2048))
    ends.ours.meanwhile = 2, say_the_rest_and_leave  # behind the look that was to find more than the first
    _, length = await peek(ends.ours, Asking((2148,)))
    assert length == 2148


@pytest.mark.parametrize("said", [b"", b"PRO"])
@pytest.mark.parametrize("is_late", [False, True])
async def test_a_client_whose_connection_fails(
    ends: Ends, nursery: trio.Nursery, said: bytes, is_late: bool
) -> None:
    async def fail() -> None:
        await trio.testing.wait_all_tasks_blocked(0.001)
        ends.reset()

    ends.client.sendall(said)
    if is_late:
        nursery.start_soon(fail)
    else:
        ends.reset()
    with pytest.raises(ClientAbortError, match="Connection reset by peer") as caught:
        await peek(ends.ours, Asking((16,)))
    assert not isinstance(caught.value, ClientLeftError)
    assert ends.lowest == 1


async def test_what_the_parser_objects_to_is_raised_as_it_is(ends: Ends, nursery: trio.Nursery) -> None:
    def object_to(data: bytes) -> tuple[None, int] | NeedMore:
        if len(data) < 4:
            return NeedMore(4)
        raise LookupError("no such protocol")

    nursery.start_soon(send_slowly, ends.client, b"HELO", 2)
    with pytest.raises(LookupError, match="no such protocol"):
        await peek(ends.ours, object_to)
    assert ends.lowest == 1
    assert ends.ours.recv(100) == b"HELO"


@pytest.mark.parametrize("said", [b"", b"PRO"])
async def test_time_runs_out(ends: Ends, said: bytes) -> None:
    ends.client.sendall(said)
    with trio.move_on_after(0.03) as limit:
        await peek(ends.ours, Asking((16,)))
    assert limit.cancelled_caught
    assert ends.lowest == 1


async def test_afterwards_every_byte_counts_again(ends: Ends, nursery: trio.Nursery) -> None:
    nursery.start_soon(send_slowly, ends.client, noise(300), 100)
    _, length = await peek(ends.ours, Asking((200, 300)))
    consume(ends.ours, length)
    nursery.start_soon(send_slowly, ends.client, b"x")
    await trio.lowlevel.wait_readable(ends.ours)
    assert ends.ours.recv(100) == b"x"
    assert ends.lowest == 1


# How often it wakes.


async def test_a_slow_client_is_asked_seldom(ends: Ends, nursery: trio.Nursery) -> None:
    nursery.start_soon(
        send_slowly, ends.client, noise(200)
    )  # as many bytes as a Unix socket keeps one by one
    parse = Asking((16, 200))
    assert await peek(ends.ours, parse) == (noise(200), 200)
    assert parse.seen[-1] == 200
    assert len(parse.seen) == 3


async def test_over_tcp_a_slow_client_wakes_nobody_until_it_has_said_enough(
    tcp: Ends, nursery: trio.Nursery
) -> None:
    nursery.start_soon(send_slowly, tcp.client, noise(500))
    assert await peek(tcp.ours, Asking((16, 500))) == (noise(500), 500)
    assert tcp.ours.looks <= 5  # nothing there, the first byte, 16, 500


@pytest.mark.parametrize("said", [1, 100, 2048, 4096])
async def test_a_client_that_stops_in_the_middle_keeps_nobody_busy(ends: Ends, said: int) -> None:
    ends.client.sendall(noise(said))
    began = time.monotonic()
    with trio.move_on_after(0.2):
        await peek(ends.ours, Asking((said, 8000)))
    elapsed = time.monotonic() - began
    if ends.ours.family == socket.AF_UNIX:  # which nothing holds back but the pause
        assert ends.ours.looks <= elapsed / 0.01 + 10
    else:
        assert ends.ours.looks <= 4
