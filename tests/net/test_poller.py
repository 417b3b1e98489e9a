"""The poller: each event is delivered once, to the current handler or waiter, with epoll or with Trio."""

from __future__ import annotations

import gc
import os
import select
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
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
from tests.support.proxy.relays import pollers_for
from tests.support.socket_pair import sockets
from tests.support.timeouts import TIMEOUT_S, fail_after_timeout

needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")


class PollerInTask(Poller):
    """One that cannot wait in trio's place."""

    async def serve(  # noqa: ASYNC128 - the base class calls it
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with pollers_for("engine in task"):
            await super().serve(task_status=task_status)


EPOLLERS = [Poller, PollerInTask] if hasattr(select, "epoll") else []
on_each = pytest.mark.parametrize("make", [TrioPoller, *EPOLLERS])
on_epollers = pytest.mark.parametrize("make", EPOLLERS)


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


@asynccontextmanager
async def running(make: Callable[[], AnyPoller]) -> AsyncIterator[AnyPoller]:
    poller = make()
    async with trio.open_nursery() as nursery:
        await nursery.start(poller.serve)
        yield poller
        nursery.cancel_scope.cancel()


@pytest.fixture(params=EPOLLERS)
async def poller(nursery: trio.Nursery, request: pytest.FixtureRequest) -> Poller:
    poller: Poller = request.param()
    await nursery.start(poller.serve)
    await wait_all_tasks_blocked()  # it waits in epoll
    return poller


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
class RecordingHandler:
    """An event handler; ``delivered`` returns the events since its last call."""

    _events: list[int] = field(factory=list)

    def on_events(self, events: int) -> None:
        self._events.append(events)

    async def delivered(self) -> list[int]:
        await wait_all_tasks_blocked()
        delivered, self._events = self._events, []
        return delivered


@define
class Waiter:
    """A task that waits at a watch; ``wakeups`` counts how often it was woken."""

    watch: Watch
    wakeups: int = 0
    events: int = 0
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    async def read(self) -> None:
        with self.scope:
            while True:
                await self.watch.readable()
                self.wakeups += 1

    async def write(self) -> None:
        with self.scope:
            self.events = await self.watch.writable()
            self.wakeups += 1


# Delivery.


@needs_epoll
async def test_each_event_is_delivered_once(poller: Poller) -> None:
    handler = RecordingHandler()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), handler)
        assert await handler.delivered() == []
        theirs.send(b"x")
        assert await handler.delivered() == [IN]
        assert await handler.delivered() == [], "although the byte is unread"
        theirs.send(b"y")
        assert await handler.delivered() == [IN]
        theirs.shutdown(socket.SHUT_WR)
        assert await handler.delivered() == [IN | RDHUP]
        theirs.close()
        assert await handler.delivered() == [IN | RDHUP | HUP]
        assert await handler.delivered() == []


@needs_epoll
async def test_earlier_data_is_delivered(poller: Poller) -> None:
    handler = RecordingHandler()
    with sockets() as (ours, theirs):
        theirs.send(b"x")
        poller.add_handler(ours.fileno(), handler)
        assert await handler.delivered() == [IN]


@needs_epoll
async def test_handlers_get_their_own_events(poller: Poller) -> None:
    """There are more events than one call of epoll_wait returns."""
    triples = [(*socket.socketpair(), RecordingHandler()) for _ in range(300)]
    for ours, _, handler in triples:
        poller.add_handler(ours.fileno(), handler)
    assert poller.registered == len(triples)
    for _, theirs, _ in triples[::2]:
        theirs.send(b"x")
    assert [await handler.delivered() for _, _, handler in triples] == [[IN], []] * 150
    for ours, theirs, _ in triples:
        poller.forget(ours.fileno())
        ours.close()
        theirs.close()
    assert poller.registered == 0


@needs_epoll
async def test_clock_is_updated_at_events(poller: Poller) -> None:
    handler = RecordingHandler()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), handler)
        previous = trio.current_time()
        theirs.send(b"x")
        await handler.delivered()
        assert previous <= poller.now <= trio.current_time()


@needs_epoll
async def test_writability_is_delivered_only_after_rearm(poller: Poller) -> None:
    handler = RecordingHandler()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), handler)
        fill(ours)
        empty(theirs)
        assert await handler.delivered() == []
        fill(ours)
        poller.rearm(ours.fileno(), BOTH_WAYS)
        assert await handler.delivered() == []
        empty(theirs)
        assert {events & OUT for events in await handler.delivered()} == {OUT}


@needs_epoll
async def test_rearm_delivers_current_state_again(poller: Poller) -> None:
    handler = RecordingHandler()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), handler)
        theirs.send(b"x")
        assert await handler.delivered() == [IN]
        for _ in range(2):
            poller.rearm(ours.fileno(), BOTH_WAYS)
            assert await handler.delivered() == [IN | OUT]


# Event handlers.


@needs_epoll
async def test_replaced_handler_gets_later_events(poller: Poller) -> None:
    previous, current = RecordingHandler(), RecordingHandler()
    with sockets() as (ours, theirs):
        assert poller.set_handler(ours.fileno(), current) is None, "it has to be added first"
        poller.add_handler(ours.fileno(), previous)
        theirs.send(b"x")
        assert await previous.delivered() == [IN]
        assert poller.set_handler(ours.fileno(), current) == 0, "only a watch remembers events"
        assert await current.delivered() == [], "it was delivered to the first handler"
        theirs.send(b"y")
        assert (await previous.delivered(), await current.delivered()) == ([], [IN])
        assert poller.registered == 1


@needs_epoll
async def test_forgotten_descriptor_delivers_no_events(poller: Poller) -> None:
    handler = RecordingHandler()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), handler)
        theirs.send(b"x")
        poller.forget(ours.fileno())
        poller.forget(ours.fileno())  # a second call is allowed
        assert poller.registered == 0
        assert await handler.delivered() == []
        assert poller.set_handler(ours.fileno(), handler) is None


@needs_epoll
async def test_closed_socket_that_is_added_changes_nothing(poller: Poller) -> None:
    handler = RecordingHandler()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), handler)
        with pytest.raises(ValueError, match="cannot be a negative"):
            poller.add(-1)
        theirs.send(b"x")
        assert await handler.delivered() == [IN]


@needs_epoll
async def test_forgotten_descriptor_can_be_added_again(poller: Poller) -> None:
    """The descriptor stays open in between. Events that still hold are delivered to the new handler."""
    first, second = RecordingHandler(), RecordingHandler()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), first)
        theirs.send(b"x")
        assert await first.delivered() == [IN]
        poller.forget(ours.fileno())
        poller.add_handler(ours.fileno(), second)
        assert (await first.delivered(), await second.delivered()) == ([], [IN])


@needs_epoll
@pytest.mark.parametrize("is_forgotten_first", [True, False])
async def test_reused_descriptor_belongs_to_the_next_session(
    poller: Poller, is_forgotten_first: bool
) -> None:
    """Events of the previous socket are not delivered to the handler of the new one."""
    first, second = RecordingHandler(), RecordingHandler()
    with sockets() as (ours, theirs), sockets() as (next_ours, next_theirs):
        fd = ours.fileno()
        poller.add_handler(fd, first)
        theirs.send(b"x")
        if is_forgotten_first:
            poller.forget(fd)
        ours.close()
        poller.forget(fd)
        reused = socket.socket(fileno=_moved(next_ours.detach(), fd))
        with reused:
            poller.add_handler(fd, second)
            theirs.close()
            assert (await first.delivered(), await second.delivered()) == ([], [])
            next_theirs.send(b"y")
            assert (await first.delivered(), await second.delivered()) == ([], [IN])


def _moved(fd: int, to: int) -> int:
    os.dup2(fd, to)
    os.close(fd)
    return to


@needs_epoll
async def test_handler_may_forget_another_descriptor(poller: Poller) -> None:
    """Both have events in the same batch. The second one gets none after it is forgotten."""
    with sockets() as (first, first_peer), sockets() as (second, second_peer):
        delivered = []

        def forget_other(name: str, other: socket.socket) -> Callable[[int], None]:
            def ready(_: int) -> None:
                delivered.append(name)
                poller.forget(other.fileno())

            return ready

        poller.add(first.fileno()).on_hangup = forget_other("one", second)
        poller.add(second.fileno()).on_hangup = forget_other("two", first)
        first_peer.send(b"x")
        second_peer.send(b"x")
        await wait_all_tasks_blocked()
        assert len(delivered) == 1


# Watches.


@on_each
async def test_watch_readable(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    async with running(make) as poller:
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


@on_each
async def test_wait_ends_at_its_deadline(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    """The watch can be waited at again, and a deadline that is far away changes nothing."""
    async with running(make) as poller:
        nursery.start_soon(poller.timers.serve)
        with sockets() as (ours, theirs):
            watch = poller.add(ours.fileno())
            now = trio.current_time()
            with pytest.raises(trio.TooSlowError):
                await watch.readable(now + 0.02)
            assert trio.current_time() >= now + 0.02
            theirs.send(b"x")
            await watch.readable(now + 1000)
            assert ours.recv(10) == b"x"
            fill(ours)
            with pytest.raises(trio.TooSlowError):
                await watch.writable(trio.current_time() + 0.02)
            empty(theirs)
            await watch.writable(now + 1000)
            poller.forget(ours.fileno())


@on_each
async def test_watch_writable(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    async with running(make) as poller:
        with sockets() as (ours, theirs):
            fill(ours)
            waiter = Waiter(poller.add(ours.fileno()))
            nursery.start_soon(waiter.write)
            await wait_all_tasks_blocked()
            assert waiter.wakeups == 0
            empty(theirs)
            await wait_all_tasks_blocked()
            assert waiter.wakeups == 1
            assert waiter.events & (OUT | ERR), "the socket is writable, or has an error"
            poller.forget(ours.fileno())


@on_each
async def test_watch_waiter_can_be_cancelled(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    """A cancelled waiter is not woken later, and another task can wait."""
    async with running(make) as poller:
        with sockets() as (ours, theirs):
            watch = poller.add(ours.fileno())
            first, second = Waiter(watch), Waiter(watch)
            nursery.start_soon(first.read)
            await wait_all_tasks_blocked()
            first.scope.cancel()
            await wait_all_tasks_blocked()
            nursery.start_soon(second.write)  # there is room
            await wait_all_tasks_blocked()
            assert first.scope.cancelled_caught
            assert (first.wakeups, second.wakeups) == (0, 1)
            theirs.send(b"x")
            await watch.readable()
            poller.forget(ours.fileno())


# Handshakes, a step at a time


@define
class Handshake:
    """Reads a byte, writes one, and so on: four of them, of which each can be waited for."""

    sock: socket.socket
    calls: int = 0
    done: int = 0

    def step(self) -> None:
        self.calls += 1
        while self.done < 4:
            try:
                if self.done % 2:
                    self.sock.send(bytes(1))
                elif self.sock.recv(1) == b"!":
                    raise ValueError("not a handshake")
            except BlockingIOError:
                raise (ssl.SSLWantWriteError if self.done % 2 else ssl.SSLWantReadError) from None
            self.done += 1


@on_each
async def test_steps_are_repeated_until_done(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    async with running(make) as poller:
        nursery.start_soon(poller.timers.serve)
        with sockets() as (ours, theirs):
            handshake = Handshake(ours)
            watch = poller.add(ours.fileno())
            fill(ours)

            async def answer() -> None:
                await wait_all_tasks_blocked()
                theirs.send(b"x")
                await wait_all_tasks_blocked()
                assert handshake.done == 1, "it waits for room"
                empty(theirs)
                await wait_all_tasks_blocked()
                assert handshake.done == 2
                theirs.send(b"x")

            nursery.start_soon(answer)
            await watch.repeat(handshake.step, trio.current_time() + 1000)
            assert handshake.done == 4
            assert handshake.calls <= 6, "it is only called when something has happened"
            # The watch serves the next phase.
            theirs.send(b"y")
            await watch.readable()
            assert ours.recv(10) == b"y"
            poller.forget(ours.fileno())


@on_each
async def test_failed_step_raises_in_its_task(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    async with running(make) as poller:
        with sockets() as (ours, theirs):
            watch = poller.add(ours.fileno())
            theirs.send(b"!")
            with pytest.raises(ValueError, match="not a handshake"):
                await watch.repeat(Handshake(ours).step)
            poller.forget(ours.fileno())
        with sockets() as (ours, theirs):  # others are served
            watch = poller.add(ours.fileno())
            theirs.send(b"xx")
            await watch.repeat(Handshake(ours).step)
            poller.forget(ours.fileno())


@on_each
async def test_steps_end_at_their_deadline(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    async with running(make) as poller:
        nursery.start_soon(poller.timers.serve)
        with sockets() as (ours, theirs):
            handshake = Handshake(ours)
            watch = poller.add(ours.fileno())
            theirs.send(b"x")
            with pytest.raises(trio.TooSlowError):
                await watch.repeat(handshake.step, trio.current_time() + 0.02)
            calls = handshake.calls
            theirs.send(b"x")
            await wait_all_tasks_blocked()
            assert handshake.calls == calls, "no step after the deadline"
            poller.forget(ours.fileno())


@on_each
async def test_cancelled_steps_are_not_repeated(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    async with running(make) as poller:
        with sockets() as (ours, theirs):
            handshake = Handshake(ours)
            watch = poller.add(ours.fileno())
            with trio.CancelScope() as scope:

                async def cancel() -> None:
                    await wait_all_tasks_blocked()
                    assert handshake.calls == 1
                    scope.cancel()
                    theirs.send(b"xx")

                nursery.start_soon(cancel)
                await watch.repeat(handshake.step)
            await wait_all_tasks_blocked()
            assert handshake.calls == 1
            poller.forget(ours.fileno())


@on_epollers
async def test_step_that_is_queued_when_its_task_is_cancelled(
    make: Callable[[], AnyPoller], nursery: trio.Nursery
) -> None:
    """It is not made, and the next phase may wait at the watch in its place."""
    async with running(make) as poller:
        with sockets() as (ours, theirs):
            handshake = Handshake(ours)
            watch = poller.add(ours.fileno())
            with trio.CancelScope() as scope:
                scope.cancel()
                await watch.repeat(handshake.step)
            again = Handshake(ours)
            theirs.send(b"xx")
            await watch.repeat(again.step)
            assert (handshake.calls, again.done) == (0, 4)
            poller.forget(ours.fileno())


@on_epollers
async def test_handshake_that_is_done_is_not_late(
    make: Callable[[], AnyPoller], nursery: trio.Nursery
) -> None:
    """Its last step is made in the turn in which its timer falls due."""
    async with running(make) as poller:
        nursery.start_soon(poller.timers.serve)
        for _ in range(20):
            with sockets() as (ours, _theirs):
                deadline = trio.current_time() + 0.002
                made: list[float] = []

                def step(deadline: float = deadline, made: list[float] = made) -> None:
                    while trio.current_time() < deadline + 0.001:
                        pass
                    made.append(deadline)

                try:
                    await poller.add(ours.fileno()).repeat(step, deadline)
                except trio.TooSlowError:  # on a busy machine the deadline may pass before the step
                    assert not made
                poller.forget(ours.fileno())


@on_epollers
async def test_failure_of_the_watch_is_raised_in_its_task(
    make: Callable[[], AnyPoller], nursery: trio.Nursery
) -> None:
    """epoll cannot report room at a descriptor that is no longer registered."""
    async with running(make) as poller:
        with sockets() as (ours, _theirs):
            watch = poller.add(ours.fileno())

            def step() -> None:
                poller.unregister(ours.fileno())
                raise ssl.SSLWantWriteError

            with pytest.raises(FileNotFoundError):
                await watch.repeat(step)


@on_epollers
async def test_failed_step_leaves_no_cycle(make: Callable[[], AnyPoller], nursery: trio.Nursery) -> None:
    """A cycle would keep a session in memory until the garbage collector runs, which is rare."""

    class Session:
        def step(self) -> None:
            raise ValueError

    async def fail(watch: Watch) -> weakref.ref[Session]:
        session = Session()
        with suppress(ValueError):
            await watch.repeat(session.step)
        return weakref.ref(session)

    async with running(make) as poller:
        with sockets() as (ours, _theirs):
            gc.disable()
            try:
                session = await fail(poller.add(ours.fileno()))
                await wait_all_tasks_blocked()
                assert session() is None
            finally:
                gc.enable()
            poller.forget(ours.fileno())


@on_epollers
async def test_steps_of_many_sessions_are_made_in_a_row(
    make: Callable[[], AnyPoller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task runs between them: what tasks need would be out of the processor's caches after each."""
    monkeypatch.setattr(
        "mailproxy.net.poller.poller._MAX_STEPS_S", TIMEOUT_S
    )  # the process may have to pause
    order: list[str] = []
    async with running(make) as poller:
        with ExitStack() as stack:

            async def session(watch: Watch) -> None:
                order.append("task")
                await watch.repeat(lambda: order.append("step"))
                order.append("task")

            async with trio.open_nursery() as sessions:
                for _ in range(3):
                    ours, _theirs = stack.enter_context(sockets())
                    sessions.start_soon(session, poller.add(ours.fileno()))
    assert order == ["task"] * 3 + ["step"] * 3 + ["task"] * 3


@needs_epoll
async def test_events_without_waiter_stay_pending(poller: Poller) -> None:
    with sockets() as (ours, theirs):
        watch = poller.add(ours.fileno())
        theirs.send(b"x")
        await wait_all_tasks_blocked()
        assert watch.pending_events == IN
        theirs.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert watch.pending_events == IN | RDHUP
        assert poller.set_handler(ours.fileno(), RecordingHandler()) == IN | RDHUP
        theirs.close()
        await wait_all_tasks_blocked()
        assert watch.pending_events == IN | RDHUP, "later events go to the handler"


@needs_epoll
async def test_hangup_stays_pending_during_wait(poller: Poller, nursery: trio.Nursery) -> None:
    """``GONE`` events remain pending. The others are consumed, as the waiter has handled them already."""
    with sockets() as (ours, theirs):
        watch = poller.add(ours.fileno())
        theirs.send(b"x")
        theirs.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        waiter = Waiter(watch)
        nursery.start_soon(waiter.read)
        await wait_all_tasks_blocked()
        assert (waiter.wakeups, watch.pending_events & GONE, watch.pending_events & IN) == (0, RDHUP, 0)
        waiter.scope.cancel()
        await wait_all_tasks_blocked()


@needs_epoll
async def test_hangup_callback_and_waiter_are_both_called(poller: Poller, nursery: trio.Nursery) -> None:
    delivered: list[int] = []
    with sockets() as (ours, theirs):
        watch = poller.add(ours.fileno())
        waiter = Waiter(watch)
        nursery.start_soon(waiter.read)
        await wait_all_tasks_blocked()
        watch.on_hangup = delivered.append
        theirs.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert (delivered, waiter.wakeups) == ([IN | RDHUP], 1)
        watch.on_hangup = None
        theirs.close()
        await wait_all_tasks_blocked()
        assert (len(delivered), waiter.wakeups) == (1, 2)
        waiter.scope.cancel()


# Turns.


@define
class CountedTurn:
    """Takes ``remaining`` turns, and records each one."""

    poller: Poller
    name: str
    notes: list[str]
    remaining: int = 1

    def run(self) -> None:
        self.notes.append(self.name)
        self.remaining -= 1
        if self.remaining:
            self.poller.defer(self)


class TurnStarter:
    """Starts all turns when it gets an event."""

    def __init__(self, poller: Poller, *turns: CountedTurn) -> None:
        self.poller = poller
        self.turns = turns

    def on_events(self, _: int) -> None:
        for turn in self.turns:
            self.poller.defer(turn)


@needs_epoll
async def test_turns_are_taken_round_robin(poller: Poller) -> None:
    notes: list[str] = []
    turns = [
        CountedTurn(poller, name, notes, remaining) for name, remaining in (("a", 1), ("b", 3), ("c", 2))
    ]
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), TurnStarter(poller, *turns))
        theirs.send(b"x")
        await wait_all_tasks_blocked()
    assert "".join(notes) == "abcbcb"


@needs_epoll
async def test_deferred_turn_wakes_idle_poller(poller: Poller) -> None:
    """A session that has just begun may defer a turn while no events occur. Nothing else wakes the poller."""
    notes: list[str] = []
    poller.defer(CountedTurn(poller, "a", notes, 100))
    poller.defer(CountedTurn(poller, "b", notes, 100))
    await wait_all_tasks_blocked()
    assert "".join(notes) == "ab" * 100


@needs_epoll
async def test_events_are_delivered_between_turns(poller: Poller) -> None:
    notes: list[str] = []

    class EventRecorder:
        def on_events(self, _: int) -> None:
            notes.append("event")

    class SendingTurn(CountedTurn):
        def run(self) -> None:
            theirs.send(b"x")
            super().run()

    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), EventRecorder())
        poller.defer(SendingTurn(poller, "turn", notes, 20))
        await wait_all_tasks_blocked()
    assert notes == ["turn", "event"] * 20


@needs_epoll
async def test_endless_turns_do_not_starve_tasks(poller: Poller, nursery: trio.Nursery) -> None:
    notes: list[str] = []
    busy = CountedTurn(poller, "turn", notes, -1)
    poller.defer(busy)
    with sockets() as (ours, theirs):
        waiter = Waiter(poller.add(ours.fileno()))
        nursery.start_soon(waiter.read)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        theirs.send(b"x")
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert waiter.wakeups == 1
        waiter.scope.cancel()
    busy.remaining = 1
    await wait_all_tasks_blocked()


# Listening sockets. They outlive the tasks that wait at them.


@needs_epoll
async def test_unwatch_leaves_a_later_watch(poller: Poller, nursery: trio.Nursery) -> None:
    """A task that ends late must not take the socket away from the one that has replaced it."""
    with sockets() as (ours, theirs):
        first = poller.add_listener(ours.fileno())
        second = poller.add_listener(ours.fileno())
        poller.unwatch(first)
        waiter = Waiter(second)
        nursery.start_soon(waiter.read)
        await wait_all_tasks_blocked()
        theirs.send(b"x")
        await wait_all_tasks_blocked()
        assert waiter.wakeups == 1
        waiter.scope.cancel()
        poller.unwatch(second)
        assert poller.registered == 0
        turns = poller.turns
        theirs.send(b"x")
        await wait_all_tasks_blocked()
        assert poller.turns == turns, "it is no longer in epoll"


@needs_epoll
async def test_unwatch_of_a_closed_socket_does_nothing(poller: Poller) -> None:
    with sockets() as (ours, _):
        watch = poller.add_listener(ours.fileno())
        ours.close()
        poller.unwatch(watch)
        await wait_all_tasks_blocked()
    assert poller.registered == 0


@needs_epoll
async def test_watch_of_a_listener_outlives_a_fault(nursery: trio.Nursery) -> None:
    """A session has timeouts. An accept loop that gets no events would never accept again."""
    faults: list[Exception] = []
    poller = Poller(faults.append)
    await nursery.start(poller.serve)
    with sockets() as (ours, theirs), sockets() as (others, other_peer):
        watch = poller.add_listener(ours.fileno())
        watch.on_hangup = lambda _: 1 // 0  # type: ignore[assignment]
        poller.add(others.fileno()).on_hangup = watch.on_hangup
        theirs.send(b"x")
        other_peer.send(b"x")
        await wait_all_tasks_blocked()
        assert len(faults) == 2
        assert poller.watch(ours.fileno()) is watch
        assert poller.registered == 1
    nursery.cancel_scope.cancel()


# End of the poller.


@on_epollers
async def test_ended_poller_accepts_calls_and_delivers_nothing(make: type[Poller]) -> None:
    """While the proxy stops, ending sessions still call the poller."""
    handler = RecordingHandler()
    with sockets() as (first, first_peer), sockets() as (second, second_peer):
        async with running(make) as poller:
            assert isinstance(poller, Poller)
            poller.add_handler(first.fileno(), handler)
        poller.add_handler(second.fileno(), handler)
        watch = poller.add(second.fileno(), BOTH_WAYS)
        poller.rearm(first.fileno(), BOTH_WAYS)
        poller.set_handler(first.fileno(), handler)
        poller.defer(CountedTurn(poller, "turn", [], 1))
        first_peer.send(b"x")
        second_peer.send(b"x")
        assert await handler.delivered() == []
        with trio.move_on_after(0.01) as limit:
            await watch.writable()
        assert limit.cancelled_caught
        poller.forget(first.fileno())
        poller.forget(second.fileno())
        assert poller.registered == 0


@on_epollers
async def test_ended_poller_leaves_no_open_descriptor(make: type[Poller]) -> None:
    previous = descriptors()
    async with running(make):
        assert descriptors() > previous
    assert descriptors() == previous


@on_epollers
async def test_exception_in_handler_ends_the_poller(make: type[Poller]) -> None:
    """The poller cannot know which session is at fault. The relay's flows keep errors in their session."""

    class Raising:
        def on_events(self, events: int) -> None:
            raise ZeroDivisionError(events)

    previous = descriptors()
    with sockets() as (ours, theirs):
        poller = make()
        poller.add_handler(ours.fileno(), Raising())
        theirs.send(b"x")
        with pytest.raises(ZeroDivisionError):
            await poller.serve()
    assert descriptors() == previous


# Real use.


@on_each
async def test_connect_with_poller(make: Callable[[], AnyPoller]) -> None:
    async with running(make) as poller:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            endpoint = Endpoint(socket.AF_INET, "127.0.0.1", listener.getsockname()[1])
            sock, _ = await connect([endpoint], None, poller=poller)
            with sock, listener.accept()[0] as server:
                server.send(b"* OK\r\n")
                await poller.watch(sock.fileno()).readable()
                assert sock.recv(100) == b"* OK\r\n"
                poller.forget(sock.fileno())


@on_each
async def test_tls_handshake_with_poller(make: Callable[[], AnyPoller], throw_away_ca: ThrowAwayCA) -> None:
    server_context = throw_away_ca.server_context("localhost")
    # A read handles one TLS record, and the poller reports further data only once.
    server_context.num_tickets = 0
    async with running(make) as poller:
        with sockets() as (client_end, server_end):
            client_watch, server_watch = poller.add(client_end.fileno()), poller.add(server_end.fileno())

            async def accept() -> None:
                with await accept_tls(server_end, server_context, server_watch) as sock:
                    poller.forget(sock.fileno())
                    sock.send(b"* OK\r\n")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                sock = await connect_tls(
                    client_end, throw_away_ca.client_context(), "localhost", client_watch
                )
                with sock:
                    await _read_greeting(sock, client_watch)
                    poller.forget(sock.fileno())


async def _read_greeting(sock: socket.socket, watch: Watch) -> None:
    while True:
        try:
            assert sock.recv(100) == b"* OK\r\n"
        except OSError:
            await watch.readable()
        else:
            return


async def test_platform_without_epoll_uses_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    await trio.lowlevel.checkpoint()
    monkeypatch.delattr(select, "epoll", raising=False)
    assert open_poller() is TRIO


async def test_long_delivery_continues_in_the_next_turn(  # noqa: ASYNC124 - fixtures want a loop
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Accepts, signals and timeouts wait during delivery. No event is lost or delivered twice."""
    poller = Poller()
    delivered: list[int] = []
    time = 0.0

    class Slow:
        def __init__(self, number: int) -> None:
            self.number = number

        def on_events(self, events: int) -> None:
            nonlocal time
            assert events
            time += 0.001
            delivered.append(self.number)

    monkeypatch.setattr(poller, "clock", lambda: time)
    with ExitStack() as stack:
        for number in range(40):
            ours, theirs = map(stack.enter_context, socket.socketpair())
            poller.add_handler(ours.fileno(), Slow(number))
            theirs.send(b"x")
        poller._take_turns()
        assert 0 < len(delivered) < 40
        while len(delivered) < 40:
            previous = len(delivered)
            poller._take_turns()
            assert len(delivered) > previous
        poller._take_turns()
        assert sorted(delivered) == list(range(40))
        poller._epoll.close()
