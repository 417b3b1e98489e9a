"""The poller: what happens at sockets is told once, to whom it concerns now; waiting goes the same way without epoll."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field
from trio.testing import wait_all_tasks_blocked

from mailproxy.net.dial import Endpoint, connect
from mailproxy.net.poller import (
    BOTH_WAYS,
    ERR,
    GONE,
    HUP,
    IN,
    OUT,
    RDHUP,
    TRIO,
    AnyPoller,
    Poller,
    TrioPoller,
    Watch,
    open_poller,
)
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from mailproxy.testing import ThrowAwayCA
from tests.support.timeouts import fail_after_timeout

needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")
POLLERS: list[Callable[[], AnyPoller]] = [TrioPoller, *([Poller] if hasattr(select, "epoll") else [])]
on_both = pytest.mark.parametrize("make", POLLERS)


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


@asynccontextmanager
async def at_work(make: Callable[[], AnyPoller]) -> AsyncIterator[AnyPoller]:
    poller = make()
    async with trio.open_nursery() as nursery:
        await nursery.start(poller.serve)
        yield poller
        nursery.cancel_scope.cancel()


@pytest.fixture
async def poller(nursery: trio.Nursery) -> Poller:
    poller = Poller()
    await nursery.start(poller.serve)
    await wait_all_tasks_blocked()  # it waits for something to happen
    return poller


@contextmanager
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A session's socket, and its peer's. What one sends is with the other when the call returns."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def fill(sock: socket.socket) -> None:
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass


def empty(sock: socket.socket) -> None:
    try:
        while sock.recv(1 << 20):
            pass
    except BlockingIOError:
        pass


def descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


@define
class Told:
    """Who is told of events, and has turns: ``told`` are those since it was looked at last."""

    _told: list[int] = field(factory=list)

    def on_events(self, events: int) -> None:
        self._told.append(events)

    async def told(self) -> list[int]:
        await wait_all_tasks_blocked()
        told, self._told = self._told, []
        return told


@define
class Waiter:
    """A task that waits at a watch; ``times`` it has been woken."""

    watch: Watch
    times: int = 0
    events: int = 0
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    async def read(self) -> None:
        with self.scope:
            while True:
                await self.watch.readable()
                self.times += 1

    async def write(self) -> None:
        with self.scope:
            self.events = await self.watch.writable()
            self.times += 1


# Being told


@needs_epoll
async def test_each_thing_is_told_once(poller: Poller) -> None:
    who = Told()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), who)
        assert await who.told() == []
        theirs.send(b"x")
        assert await who.told() == [IN]
        assert await who.told() == [], "though nobody has read it"
        theirs.send(b"y")
        assert await who.told() == [IN]
        theirs.shutdown(socket.SHUT_WR)
        assert await who.told() == [IN | RDHUP]
        theirs.close()
        assert await who.told() == [IN | RDHUP | HUP]
        assert await who.told() == []


@needs_epoll
async def test_what_came_before_is_told(poller: Poller) -> None:
    who = Told()
    with sockets() as (ours, theirs):
        theirs.send(b"x")
        poller.add_handler(ours.fileno(), who)
        assert await who.told() == [IN]


@needs_epoll
async def test_each_is_told_of_its_own(poller: Poller) -> None:
    """Also when there is more at once than one look finds."""
    crowd = [(*socket.socketpair(), Told()) for _ in range(300)]
    for ours, _, who in crowd:
        poller.add_handler(ours.fileno(), who)
    assert poller.registered == len(crowd)
    for _, theirs, _ in crowd[::2]:
        theirs.send(b"x")
    assert [await who.told() for _, _, who in crowd] == [[IN], []] * 150
    for ours, theirs, _ in crowd:
        poller.forget(ours.fileno())
        ours.close()
        theirs.close()
    assert poller.registered == 0


@needs_epoll
async def test_its_clock(poller: Poller) -> None:
    who = Told()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), who)
        before = trio.current_time()
        theirs.send(b"x")
        await who.told()
        assert before <= poller.now <= trio.current_time()


@needs_epoll
async def test_room_is_told_only_when_asked_for(poller: Poller) -> None:
    who = Told()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), who)
        fill(ours)
        empty(theirs)
        assert await who.told() == []
        fill(ours)
        poller.rearm(ours.fileno(), BOTH_WAYS)
        assert await who.told() == []
        empty(theirs)
        assert {events & OUT for events in await who.told()} == {OUT}


@needs_epoll
async def test_asked_again_it_tells_all_that_holds(poller: Poller) -> None:
    who = Told()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), who)
        theirs.send(b"x")
        assert await who.told() == [IN]
        for _ in range(2):
            poller.rearm(ours.fileno(), BOTH_WAYS)
            assert await who.told() == [IN | OUT]


# Who is told


@needs_epoll
async def test_who_takes_over_is_told_from_then_on(poller: Poller) -> None:
    before, after = Told(), Told()
    with sockets() as (ours, theirs):
        assert poller.set_handler(ours.fileno(), after) is None, "it has to be added first"
        poller.add_handler(ours.fileno(), before)
        theirs.send(b"x")
        assert await before.told() == [IN]
        assert poller.set_handler(ours.fileno(), after) == 0, "only a watch notes events"
        assert await after.told() == [], "it is the other one that knows"
        theirs.send(b"y")
        assert (await before.told(), await after.told()) == ([], [IN])
        assert poller.registered == 1


@needs_epoll
async def test_nobody_is_told_of_what_is_forgotten(poller: Poller) -> None:
    who = Told()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), who)
        theirs.send(b"x")
        poller.forget(ours.fileno())
        poller.forget(ours.fileno())  # twice is no fault
        assert poller.registered == 0
        assert await who.told() == []
        assert poller.set_handler(ours.fileno(), who) is None


@needs_epoll
async def test_what_was_forgotten_may_be_added_again(poller: Poller) -> None:
    """It stayed open meanwhile; what holds is told then."""
    early, late = Told(), Told()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), early)
        theirs.send(b"x")
        assert await early.told() == [IN]
        poller.forget(ours.fileno())
        poller.add_handler(ours.fileno(), late)
        assert (await early.told(), await late.told()) == ([], [IN])


@needs_epoll
@pytest.mark.parametrize("is_forgotten_first", [True, False])
async def test_a_descriptor_that_is_used_again_belongs_to_the_next_session(
    poller: Poller, is_forgotten_first: bool
) -> None:
    """What had happened at the one before is no news of this one."""
    early, late = Told(), Told()
    with sockets() as (ours, theirs), sockets() as (next_ours, next_theirs):
        fd = ours.fileno()
        poller.add_handler(fd, early)
        theirs.send(b"x")
        if is_forgotten_first:
            poller.forget(fd)
        ours.close()
        poller.forget(fd)
        again = socket.socket(fileno=_moved(next_ours.detach(), fd))
        with again:
            poller.add_handler(fd, late)
            theirs.close()
            assert (await early.told(), await late.told()) == ([], [])
            next_theirs.send(b"y")
            assert (await early.told(), await late.told()) == ([], [IN])


def _moved(fd: int, to: int) -> int:
    os.dup2(fd, to)
    os.close(fd)
    return to


@needs_epoll
async def test_who_is_told_may_forget_another(poller: Poller) -> None:
    """Both have news at the same moment: the second one hears nothing any more."""
    with sockets() as (one, its_peer), sockets() as (two, other_peer):
        told = []

        def forgetting(name: str, other: socket.socket) -> Callable[[int], None]:
            def ready(_: int) -> None:
                told.append(name)
                poller.forget(other.fileno())

            return ready

        poller.add(one.fileno()).on_hangup = forgetting("one", two)
        poller.add(two.fileno()).on_hangup = forgetting("two", one)
        its_peer.send(b"x")
        other_peer.send(b"x")
        await wait_all_tasks_blocked()
        assert len(told) == 1


# Watches


@on_both
async def test_waiting_for_something_to_read(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    async with at_work(make) as poller:
        with sockets() as (ours, theirs):
            watch = poller.add(ours.fileno())
            assert watch.fd == ours.fileno()
            theirs.send(b"x")
            await watch.readable()
            assert ours.recv(10) == b"x"
            theirs.close()
            await watch.readable()
            assert ours.recv(10) == b""
            poller.forget(ours.fileno())


@on_both
async def test_waiting_for_room(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    async with at_work(make) as poller:
        with sockets() as (ours, theirs):
            fill(ours)
            waiter = Waiter(poller.add(ours.fileno()))
            nursery.start_soon(waiter.write)
            await wait_all_tasks_blocked()
            assert waiter.times == 0
            empty(theirs)
            await wait_all_tasks_blocked()
            assert waiter.times == 1
            assert waiter.events & (OUT | ERR), "there is room, or it has to be asked"
            poller.forget(ours.fileno())


@on_both
async def test_who_waits_may_be_cancelled(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    """And is not woken later; another one may wait then."""
    async with at_work(make) as poller:
        with sockets() as (ours, theirs):
            watch = poller.add(ours.fileno())
            early, late = Waiter(watch), Waiter(watch)
            nursery.start_soon(early.read)
            await wait_all_tasks_blocked()
            early.scope.cancel()
            await wait_all_tasks_blocked()
            nursery.start_soon(late.write)  # there is room
            await wait_all_tasks_blocked()
            assert early.scope.cancelled_caught
            assert (early.times, late.times) == (0, 1)
            theirs.send(b"x")
            await watch.readable()
            poller.forget(ours.fileno())


@needs_epoll
async def test_what_nobody_waits_for_is_kept(poller: Poller) -> None:
    with sockets() as (ours, theirs):
        watch = poller.add(ours.fileno())
        theirs.send(b"x")
        await wait_all_tasks_blocked()
        assert watch.pending_events == IN
        theirs.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert watch.pending_events == IN | RDHUP
        assert poller.set_handler(ours.fileno(), Told()) == IN | RDHUP
        theirs.close()
        await wait_all_tasks_blocked()
        assert watch.pending_events == IN | RDHUP, "from then on another one knows"


@needs_epoll
async def test_who_has_left_stays_so_while_it_is_waited_on(poller: Poller, nursery: trio.Nursery) -> None:
    """What else was seen belongs to what the waiter has found already."""
    with sockets() as (ours, theirs):
        watch = poller.add(ours.fileno())
        theirs.send(b"x")
        theirs.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        waiter = Waiter(watch)
        nursery.start_soon(waiter.read)
        await wait_all_tasks_blocked()
        assert (waiter.times, watch.pending_events & GONE, watch.pending_events & IN) == (0, RDHUP, 0)
        waiter.scope.cancel()
        await wait_all_tasks_blocked()


@needs_epoll
async def test_leaving_is_told_besides(poller: Poller, nursery: trio.Nursery) -> None:
    told: list[int] = []
    with sockets() as (ours, theirs):
        watch = poller.add(ours.fileno())
        waiter = Waiter(watch)
        nursery.start_soon(waiter.read)
        await wait_all_tasks_blocked()
        watch.on_hangup = told.append
        theirs.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert (told, waiter.times) == ([IN | RDHUP], 1)
        watch.on_hangup = None
        theirs.close()
        await wait_all_tasks_blocked()
        assert (len(told), waiter.times) == (1, 2)
        waiter.scope.cancel()


# Turns


@define
class Turner:
    """Has so many turns left, each of which is noted."""

    poller: Poller
    name: str
    notes: list[str]
    left: int = 1

    def run(self) -> None:
        self.notes.append(self.name)
        self.left -= 1
        if self.left:
            self.poller.defer(self)


class Beginner:
    """Has all turners begin when it is told of something."""

    def __init__(self, poller: Poller, *turners: Turner) -> None:
        self.poller = poller
        self.turners = turners

    def on_events(self, _: int) -> None:
        for turner in self.turners:
            self.poller.defer(turner)


@needs_epoll
async def test_turns_go_round(poller: Poller) -> None:
    notes: list[str] = []
    turners = [Turner(poller, name, notes, left) for name, left in (("a", 1), ("b", 3), ("c", 2))]
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), Beginner(poller, *turners))
        theirs.send(b"x")
        await wait_all_tasks_blocked()
    assert "".join(notes) == "abcbcb"


@needs_epoll
async def test_a_turn_that_is_left_from_outside(poller: Poller) -> None:
    """By a session that has just begun, while nothing happens anywhere: nobody else would have it go on."""
    notes: list[str] = []
    poller.defer(Turner(poller, "a", notes, 100))
    poller.defer(Turner(poller, "b", notes, 100))
    await wait_all_tasks_blocked()
    assert "".join(notes) == "ab" * 100


@needs_epoll
async def test_news_is_told_between_turns(poller: Poller) -> None:
    notes: list[str] = []

    class Noting:
        def on_events(self, _: int) -> None:
            notes.append("news")

    class Sending(Turner):
        def run(self) -> None:
            theirs.send(b"x")
            super().run()

    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), Noting())
        poller.defer(Sending(poller, "turn", notes, 20))
        await wait_all_tasks_blocked()
    assert notes == ["turn", "news"] * 20


@needs_epoll
async def test_tasks_have_their_turn_in_spite_of_endless_turns(poller: Poller, nursery: trio.Nursery) -> None:
    notes: list[str] = []
    busy = Turner(poller, "turn", notes, -1)
    poller.defer(busy)
    with sockets() as (ours, theirs):
        waiter = Waiter(poller.add(ours.fileno()))
        nursery.start_soon(waiter.read)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        theirs.send(b"x")
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert waiter.times == 1
        waiter.scope.cancel()
    busy.left = 1
    await wait_all_tasks_blocked()


# Its own end


@needs_epoll
async def test_once_it_has_ended_nobody_is_told_and_nothing_is_a_fault() -> None:
    """While the proxy is stopped, sessions still come by on their way out."""
    who = Told()
    with sockets() as (early, early_peer), sockets() as (late, late_peer):
        async with at_work(Poller) as poller:
            assert isinstance(poller, Poller)
            poller.add_handler(early.fileno(), who)
        poller.add_handler(late.fileno(), who)
        watch = poller.add(late.fileno(), BOTH_WAYS)
        poller.rearm(early.fileno(), BOTH_WAYS)
        poller.set_handler(early.fileno(), who)
        poller.defer(Turner(poller, "turn", [], 1))
        early_peer.send(b"x")
        late_peer.send(b"x")
        assert await who.told() == []
        with trio.move_on_after(0.01) as limit:
            await watch.writable()
        assert limit.cancelled_caught
        poller.forget(early.fileno())
        poller.forget(late.fileno())
        assert poller.registered == 0


@needs_epoll
async def test_ended_it_leaves_nothing_open() -> None:
    before = descriptors()
    async with at_work(Poller):
        assert descriptors() > before
    assert descriptors() == before


@needs_epoll
async def test_who_is_told_must_not_raise() -> None:
    """The poller cannot know whose fault it is, so it does not go on; the relay's flows keep theirs to their session."""

    class Raising:
        def on_events(self, events: int) -> None:
            raise ZeroDivisionError(events)

    before = descriptors()
    with sockets() as (ours, theirs):
        poller = Poller()
        poller.add_handler(ours.fileno(), Raising())
        theirs.send(b"x")
        with pytest.raises(ZeroDivisionError):
            await poller.serve()
    assert descriptors() == before


# In use


@on_both
async def test_connecting(make: Callable[[], AnyPoller]) -> None:
    async with at_work(make) as poller:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            endpoint = Endpoint(socket.AF_INET, "127.0.0.1", listener.getsockname()[1])
            sock, _ = await connect([endpoint], None, poller=poller)
            with sock, listener.accept()[0] as server:
                server.send(b"* OK\r\n")
                await poller.watch(sock.fileno()).readable()
                assert sock.recv(100) == b"* OK\r\n"
                poller.forget(sock.fileno())


@on_both
async def test_shaking_hands(make: Callable[[], AnyPoller], throw_away_ca: ThrowAwayCA) -> None:
    accepting = throw_away_ca.server_context("localhost")
    accepting.num_tickets = 0  # a read handles one record, and the poller tells once that there is more
    async with at_work(make) as poller:
        with sockets() as (client_end, server_end):
            client_watch, server_watch = poller.add(client_end.fileno()), poller.add(server_end.fileno())

            async def accept() -> None:
                with await accept_tls(server_end, accepting, server_watch) as sock:
                    poller.forget(sock.fileno())
                    sock.send(b"* OK\r\n")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                sock = await connect_tls(
                    client_end, throw_away_ca.client_context(), "localhost", client_watch
                )
                with sock:
                    await _until_read(sock, client_watch)
                    poller.forget(sock.fileno())


async def _until_read(sock: socket.socket, watch: Watch) -> None:
    while True:
        try:
            assert sock.recv(100) == b"* OK\r\n"
        except OSError:
            await watch.readable()
        else:
            return


async def test_the_platform_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    await trio.lowlevel.checkpoint()
    monkeypatch.delattr(select, "epoll", raising=False)
    assert open_poller() is TRIO


async def test_a_long_turn_is_cut_and_what_was_not_told_comes_in_the_next(  # noqa: ASYNC124 - fixtures want a loop
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who comes, signals and time limits wait while the poller tells; but nothing is lost, and nothing told twice."""
    poller = Poller()
    told: list[int] = []
    time = 0.0

    class Slow:
        def __init__(self, number: int) -> None:
            self.number = number

        def on_events(self, events: int) -> None:
            nonlocal time
            assert events
            time += 0.001
            told.append(self.number)

    monkeypatch.setattr(poller, "clock", lambda: time)
    with ExitStack() as stack:
        for number in range(40):
            ours, theirs = map(stack.enter_context, socket.socketpair())
            poller.add_handler(ours.fileno(), Slow(number))
            theirs.send(b"x")
        poller._deliver()
        assert 0 < len(told) < 40
        while len(told) < 40:
            before = len(told)
            poller._deliver()
            assert len(told) > before
        poller._deliver()
        assert sorted(told) == list(range(40))
        poller._epoll.close()
