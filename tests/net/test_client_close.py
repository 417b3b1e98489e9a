"""Clients that leave while nobody reads from them: noticed at once, and once; those that asked for something may stay."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field

from mailproxy.config import ServerTls
from mailproxy.net.client_close import is_client_closing
from mailproxy.net.poller import Poller
from mailproxy.net.tls.close import send_close_notify
from mailproxy.net.tls.context import make_client_context
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from mailproxy.testing import ThrowAwayCA
from tests.support.timeouts import fail_after_timeout, wait_until

COMMAND = b"a1 CAPABILITY\r\n"


class LeaveWatch:
    """Clients watched as sessions do it."""

    def __init__(self) -> None:
        self.poller = Poller()

    async def run(self) -> None:
        await self.poller.serve()

    def watch(self, client: socket.socket, left: Callable[[], None]) -> None:
        def happened(events: int) -> None:
            if is_client_closing(client, events):
                left()

        self.poller.add(client.fileno()).on_hangup = happened

    def forget(self, client: socket.socket) -> None:
        self.poller.forget(client.fileno())


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


@pytest.fixture
async def clients(nursery: trio.Nursery) -> LeaveWatch:
    watch = LeaveWatch()
    nursery.start_soon(watch.run)
    await trio.testing.wait_all_tasks_blocked()
    return watch


@define
class Visit:
    """A client's connection: its own end, and the one here. ``left`` counts the calls."""

    theirs: socket.socket
    ours: socket.socket
    left: int = field(default=0, init=False)

    def leave(self) -> None:
        self.left += 1

    def reset(self) -> None:
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.theirs.close()


@asynccontextmanager
async def visit(watch: LeaveWatch | None = None) -> AsyncIterator[Visit]:
    """A client over TCP, watched at once if there is a watch for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    with theirs, ours:
        each = Visit(theirs, ours)
        if watch is not None:
            watch.watch(ours, each.leave)
        yield each
        if watch is not None:
            watch.forget(ours)
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def tls_visit(
    watch: LeaveWatch, ca: ThrowAwayCA, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncIterator[Visit]:
    """The same over TLS."""
    server = ca.server_context("localhost")
    server.maximum_version = version
    client = make_client_context(ServerTls(ca=Path(ca.pem)), None)
    async with visit() as clear:
        clear.theirs.setblocking(False)
        ends: list[ssl.SSLSocket] = []

        async def shake_hands() -> None:
            ends.append(await connect_tls(clear.theirs, client, "localhost"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_hands)
            ours = await accept_tls(clear.ours, server)
        with ours, ends[0]:
            each = Visit(ends[0], ours)
            watch.watch(ours, each.leave)
            yield each
            watch.forget(ours)


async def quiet() -> None:
    """Everything that can happen has happened; what goes over loopback is there when the call returns."""
    await trio.testing.wait_all_tasks_blocked(0.01)


# In clear


@pytest.mark.parametrize("leave", [lambda each: each.theirs.close(), lambda each: each.theirs.shutdown(socket.SHUT_WR), Visit.reset], ids=["close", "half-close", "reset"])  # fmt: skip
async def test_a_client_that_leaves_is_noticed_once(
    clients: LeaveWatch, leave: Callable[[Visit], None]
) -> None:
    async with visit(clients) as client:
        await quiet()
        assert client.left == 0
        leave(client)
        await wait_until(lambda: client.left)
        await quiet()
        assert client.left == 1


async def test_a_client_that_had_left_before_is_noticed_at_once(clients: LeaveWatch) -> None:
    async with visit() as client:
        client.theirs.close()
        clients.watch(client.ours, client.leave)
        await wait_until(lambda: client.left)
        clients.forget(client.ours)


async def test_a_client_that_says_something_has_not_left(clients: LeaveWatch) -> None:
    async with visit(clients) as client:
        client.theirs.send(COMMAND)
        await quiet()
        assert client.left == 0
        assert client.ours.recv(100) == COMMAND, "and nothing of it is lost"


async def test_a_client_that_asks_and_then_ends_its_side_may_wait_for_the_answer(clients: LeaveWatch) -> None:
    async with visit(clients) as client:
        client.theirs.send(COMMAND)
        client.theirs.shutdown(socket.SHUT_WR)
        await quiet()
        assert client.left == 0
        assert client.ours.recv(100) == COMMAND


@pytest.mark.parametrize("ended", [False, True], ids=["asked", "asked and ended"])
async def test_a_client_that_asks_and_then_resets_has_left(clients: LeaveWatch, ended: bool) -> None:
    """There is something to read, but nobody who would hear the answer."""
    async with visit(clients) as client:
        client.theirs.send(COMMAND)
        if ended:
            client.theirs.shutdown(socket.SHUT_WR)
        await quiet()
        assert client.left == 0
        client.reset()
        await wait_until(lambda: client.left)
        await quiet()
        assert client.left == 1


async def test_a_unix_socket(clients: LeaveWatch) -> None:
    theirs, ours = socket.socketpair()
    with theirs, ours:
        ours.setblocking(False)
        client = Visit(theirs, ours)
        clients.watch(ours, client.leave)
        theirs.close()
        await wait_until(lambda: client.left)
        clients.forget(ours)


# Over TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("notify", [True, False], ids=["close_notify", "bare"])
async def test_a_client_that_ends_tls_has_left(
    clients: LeaveWatch, throw_away_ca: ThrowAwayCA, version: ssl.TLSVersion, notify: bool
) -> None:
    """The alert that says so is no question, though there is something to read."""
    async with tls_visit(clients, throw_away_ca, version) as client:
        await quiet()
        assert client.left == 0
        if notify:
            assert isinstance(client.theirs, ssl.SSLSocket)
            send_close_notify(client.theirs)
        client.theirs.close()
        await wait_until(lambda: client.left)
        await quiet()
        assert client.left == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_that_asks_over_tls_and_then_ends_it_may_wait(
    clients: LeaveWatch, throw_away_ca: ThrowAwayCA, version: ssl.TLSVersion
) -> None:
    async with tls_visit(clients, throw_away_ca, version) as client:
        assert isinstance(client.theirs, ssl.SSLSocket)
        client.theirs.send(COMMAND)
        send_close_notify(client.theirs)
        socket.socket.shutdown(client.theirs, socket.SHUT_WR)
        await quiet()
        assert client.left == 0
        assert client.ours.recv(100) == COMMAND


async def test_a_client_that_resets_tls_has_left(clients: LeaveWatch, throw_away_ca: ThrowAwayCA) -> None:
    async with tls_visit(clients, throw_away_ca) as client:
        client.reset()
        await wait_until(lambda: client.left)


# Watched and forgotten


async def test_who_is_forgotten_may_leave_unnoticed(clients: LeaveWatch) -> None:
    async with visit() as client:
        clients.watch(client.ours, client.leave)
        clients.forget(client.ours)
        client.theirs.close()
        await quiet()
        assert client.left == 0


async def test_a_client_may_be_watched_again(clients: LeaveWatch) -> None:
    async with visit() as client:
        clients.watch(client.ours, client.leave)
        clients.forget(client.ours)
        clients.watch(client.ours, client.leave)
        client.theirs.close()
        await wait_until(lambda: client.left)
        clients.forget(client.ours)
        clients.forget(client.ours)  # twice is no fault
        assert client.left == 1


async def test_who_is_called_may_forget_others_that_leave_at_the_same_moment(clients: LeaveWatch) -> None:
    async with visit() as one, visit() as two:
        called = []

        def leave(who: str, other: Visit) -> Callable[[], None]:
            def left() -> None:
                called.append(who)
                clients.forget(other.ours)

            return left

        clients.watch(one.ours, leave("one", two))
        clients.watch(two.ours, leave("two", one))
        one.theirs.close()
        two.theirs.close()
        await wait_until(lambda: called)
        await quiet()
        assert len(called) == 1
        clients.forget(one.ours)
        clients.forget(two.ours)


async def test_many_that_leave_at_the_same_moment(clients: LeaveWatch) -> None:
    """More than the watch looks at in one go; those that stay are let be."""
    async with AsyncExitStack() as stack:
        visits = [await stack.enter_async_context(visit(clients)) for _ in range(300)]
        stay = visits[::10]
        leave = [each for each in visits if each not in stay]
        for each in leave:
            each.theirs.close()
        await wait_until(lambda: all(each.left for each in leave))
        await quiet()
        assert {each.left for each in leave} == {1}
        assert {each.left for each in stay} == {0}


async def test_nobody_is_watched_once_the_watch_has_ended() -> None:
    """While the proxy is stopped, sessions still come by here on their way out."""
    watch = LeaveWatch()
    async with visit() as early, visit() as late:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await trio.testing.wait_all_tasks_blocked()
            watch.watch(early.ours, early.leave)
            nursery.cancel_scope.cancel()
        watch.watch(late.ours, late.leave)
        early.theirs.close()
        late.theirs.close()
        await quiet()
        watch.forget(early.ours)
        watch.forget(late.ours)
        assert (early.left, late.left) == (0, 0)


async def test_ended_it_leaves_nothing_open() -> None:
    def descriptors() -> set[str]:
        return {file.name for file in Path("/proc/self/fd").iterdir()}

    before = descriptors()
    watch = LeaveWatch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        assert descriptors() > before
        nursery.cancel_scope.cancel()
    assert descriptors() == before
