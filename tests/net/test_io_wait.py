"""The poller inside trio's wait: what trio must not miss, what the relay must not wait for, and falling back."""

from __future__ import annotations

import queue
import select
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock, wait_all_tasks_blocked

from mailproxy.net.poller import Poller, io_wait
from mailproxy.net.poller.io_wait import IoWait
from tests.support.socket_pair import sockets
from tests.support.timeouts import fail_after_timeout

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")
MS = 0.001


@define
class Call:
    """An event handler, and deferred work, that calls a function."""

    function: Callable[[], object]

    def on_events(self, _: int) -> None:
        self.function()

    def run(self) -> None:
        self.function()


@define(eq=False)
class WaitCounter(trio.abc.Instrument):
    """Counts trio's waits, and the steps of tasks."""

    begun: int = 0
    ended: int = 0
    steps: int = 0

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's interface
        assert self.begun == self.ended
        self.begun += 1

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's interface
        self.ended += 1
        assert self.begun == self.ended

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self.steps += 1


@contextmanager
def counted_waits() -> Iterator[WaitCounter]:
    counter = WaitCounter()
    trio.lowlevel.add_instrument(counter)
    yield counter
    trio.lowlevel.remove_instrument(counter)


@asynccontextmanager
async def running() -> AsyncIterator[Poller]:
    poller = Poller()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_after_timeout)
        await nursery.start(poller.serve)
        yield poller
        nursery.cancel_scope.cancel()


def is_inside(poller: Poller) -> bool:
    return poller._trio_fd != -1


# What does not concern trio.


async def test_events_pass_without_trio() -> None:
    """A hundred messages run no task and end no wait of trio. Its instruments see one long wait."""
    async with running() as poller:
        with sockets() as (ours, theirs):
            done = trio.Event()
            remaining = 100

            def answer() -> None:
                nonlocal remaining
                ours.recv(10)
                remaining -= 1
                if remaining:
                    theirs.send(b"x")
                else:
                    done.set()

            poller.add_handler(ours.fileno(), Call(answer))
            theirs.send(b"x")
            with counted_waits() as counter:
                await done.wait()
    assert is_inside(poller) is False, "trio waits by itself again"
    assert remaining == 0
    assert counter.steps <= 2
    assert counter.begun <= 2


async def test_silence_ends_no_wait() -> None:
    async with running() as poller:
        with ExitStack() as stack:
            for _ in range(100):
                ours, _ = stack.enter_context(sockets())
                poller.add_handler(ours.fileno(), Call(lambda: None))
            await wait_all_tasks_blocked()
            turns = poller.turns
            with counted_waits() as counter:
                await trio.sleep(0.1)
    assert counter.begun <= 2
    assert poller.turns == turns


# What trio must not miss.


async def test_task_that_a_handler_wakes_runs() -> None:
    """Not only tasks that wait at the poller: also those that wait for an event, or that are cancelled."""
    async with running() as poller:
        with sockets() as (ours, theirs):
            for wake in ("set", "cancel"):
                event, scope = trio.Event(), trio.CancelScope()
                poller.add_handler(ours.fileno(), Call(event.set if wake == "set" else scope.cancel))
                theirs.send(b"x")
                with scope:
                    await event.wait()
                assert scope.cancelled_caught is (wake == "cancel")
                poller.unregister(ours.fileno())


async def test_deadline_that_a_hangup_sets_is_kept() -> None:
    async with running() as poller:
        with sockets() as (ours, theirs), trio.CancelScope() as scope:

            def set_deadline(_: int) -> None:
                scope.deadline = trio.current_time() + 10 * MS

            poller.add(ours.fileno()).on_hangup = set_deadline
            theirs.close()
            await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_threads_and_other_sockets_end_the_wait() -> None:
    async with running() as poller:
        assert is_inside(poller)
        assert await trio.to_thread.run_sync(lambda: 5) == 5
        with sockets() as (ours, theirs):
            thread = threading.Timer(10 * MS, theirs.send, [b"x"])
            thread.start()
            await trio.lowlevel.wait_readable(ours)
            thread.join()


async def test_signal_ends_the_wait() -> None:
    async with running():
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            thread = threading.Timer(10 * MS, signal.pthread_kill, [threading.get_ident(), signal.SIGUSR1])
            thread.start()
            async for number in signals:
                assert number == signal.SIGUSR1
                break
            thread.join()


def test_keyboard_interrupt_leaves_the_delivery_whole() -> None:
    """SIGINT during delivery ends the main task, and nothing in the middle of a session."""
    finished = []

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)
        finished.append(sum(range(1000)))

    async def main() -> None:
        async with running() as poller:
            with sockets() as (ours, theirs):
                poller.add_handler(ours.fileno(), Call(interrupt))
                theirs.send(b"x")
                await trio.sleep_forever()

    previous = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored in the background of a shell
    try:
        with pytest.raises(KeyboardInterrupt):
            _unwrapped(trio.run, main)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert len(finished) == 1


def _unwrapped(function: Callable[..., object], *args: Any) -> None:
    try:
        function(*args)
    except BaseExceptionGroup as group:
        while isinstance(group, BaseExceptionGroup):
            (group,) = group.exceptions
        raise group from None


# Fairness, with a clock that the work moves on.


@define
class SlowWork:
    """Work without an end: deferred, steps of handshakes, or both in turns. A run takes ``unit`` of the clock."""

    poller: Poller
    kinds: str = "deferred"
    unit: float = MS
    time: float = 0.0
    runs: int = 0
    on_run: Callable[[int], object] = field(default=lambda _: None)

    def clock(self) -> float:
        return self.time

    def run(self) -> None:
        self.time += self.unit
        self.runs += 1
        self.queue(self.runs)
        self.on_run(self.runs)

    def queue(self, number: int) -> None:
        if self.kinds == "deferred" or (self.kinds == "both" and number % 2):
            self.poller.defer(self)
        else:
            self.poller.queue_step(self)


@contextmanager
def slow_work(number: int, kinds: str = "deferred") -> Iterator[tuple[Poller, SlowWork]]:
    """A poller outside any loop, with work that never ends."""
    poller = Poller()
    work = SlowWork(poller, kinds)
    poller.clock = work.clock
    for each in range(number):
        work.queue(each)
    try:
        yield poller, work
    finally:
        poller._epoll.close()


each_kind = pytest.mark.parametrize("kinds", ["deferred", "steps", "both"])


@each_kind
async def test_busy_relay_notices_trio_within_5_ms(kinds: str) -> None:
    """Accepts, health checks and signals are descriptors of trio."""
    await trio.lowlevel.checkpoint()
    with slow_work(100, kinds) as (poller, work), sockets() as (trios, peer):
        poller.watch_trio(trios.fileno())
        work.on_run = lambda runs: peer.send(b"x") if runs == 7 else None
        assert poller.wait(1000, ())
        assert poller.is_trio_ready
        assert 7 <= work.runs <= 7 + 5 + 1


@each_kind
async def test_busy_relay_keeps_deadlines_within_5_ms(kinds: str) -> None:
    await trio.lowlevel.checkpoint()
    with slow_work(100, kinds) as (poller, work):
        assert poller.wait(20 * MS, ())
        assert not poller.is_trio_ready
        assert 20 <= work.runs <= 20 + 5 + 1


@each_kind
async def test_busy_relay_lets_woken_tasks_run_within_5_ms(kinds: str) -> None:
    await trio.lowlevel.checkpoint()
    runnable: list[int] = []
    with slow_work(100, kinds) as (poller, work):
        work.on_run = runnable.append
        assert poller.wait(1000, runnable)
        assert work.runs <= 5 + 1


async def test_bulk_of_many_sessions_ends_the_turn() -> None:
    """One event of a bulk transfer takes long. The turn does not deliver sixteen of them, and loses none."""
    await trio.lowlevel.checkpoint()
    delivered: list[int] = []
    with slow_work(1) as (poller, work), ExitStack() as stack:
        for number in range(40):
            ours, theirs = stack.enter_context(sockets())

            def deliver(number: int = number) -> None:
                work.time += MS
                delivered.append(number)

            poller.add_handler(ours.fileno(), Call(deliver))
            theirs.send(b"x")
        while len(delivered) < 40:
            before = len(delivered)
            assert poller.wait(0, ())
            assert 1 <= len(delivered) - before <= 3
    assert sorted(delivered) == list(range(40))


async def test_bulk_in_front_delays_neither_trio_nor_accepts() -> None:
    """All events come with one poll, those of trio and of a listening socket last."""
    await trio.lowlevel.checkpoint()
    accepted: list[int] = []
    with slow_work(1) as (poller, work), ExitStack() as stack:
        pairs = [stack.enter_context(sockets()) for _ in range(42)]
        (listening, _), (trios, _) = pairs[-2:]
        poller.add_listener(listening.fileno()).on_hangup = accepted.append
        poller.watch_trio(trios.fileno())
        for ours, _ in pairs[:-2]:
            poller.add_handler(ours.fileno(), Call(lambda: setattr(work, "time", work.time + MS)))
        for _, theirs in pairs:
            theirs.send(b"x")
        assert poller.wait(1000, ())
        assert poller.is_trio_ready
        assert accepted
        assert work.time <= 5 * MS


async def test_handshakes_do_not_delay_the_relay() -> None:
    """Between the steps of many handshakes, what arrives at other sessions is relayed within 5 ms."""
    await trio.lowlevel.checkpoint()
    with slow_work(1000, "steps") as (poller, work), sockets() as (ours, theirs):
        delivered: list[int] = []
        poller.add_handler(ours.fileno(), Call(lambda: delivered.append(work.runs)))
        work.on_run = lambda runs: theirs.send(b"x") if runs == 7 else None
        while not delivered:
            poller.wait(0, ())
        assert delivered[0] <= 7 + 5


async def test_one_step_is_made_however_busy_the_relay_is() -> None:
    await trio.lowlevel.checkpoint()
    made: list[int] = []
    with slow_work(100) as (poller, work), sockets() as (trios, peer):
        poller.watch_trio(trios.fileno())
        peer.send(b"x")  # trio is ready in each turn, too
        for number in range(10):
            poller.queue_step(Call(lambda number=number: made.append(number)))  # type: ignore[misc]
            poller.queue_step(Call(lambda: setattr(work, "time", work.time + 10 * MS)))
        for number in range(10):
            poller.wait(0, ())
            assert made == list(range(number + 1)), "with no time left, there is one step"
            poller.wait(0, ())
        assert work.runs >= 10


async def test_handshakes_end_when_trio_is_late() -> None:
    """A turn that begins after trio's deadline ends after a millisecond, as without handshakes."""
    await trio.lowlevel.checkpoint()
    for begin in range(40):  # a tenth of a millisecond each: somewhere in a turn
        with slow_work(100, "steps") as (poller, work):
            work.unit = 0.3 * MS
            deadline = 10 * MS + begin * 0.1 * MS
            poller.wait(deadline, ())
            assert deadline <= work.time <= deadline + 5 * MS


async def test_busy_trio_lets_the_relay_work_in_each_round() -> None:
    async with running() as poller:
        with sockets() as (ours, theirs):
            received: list[bytes] = []
            poller.add_handler(ours.fileno(), Call(lambda: received.append(ours.recv(10))))
            for number in range(1, 50):  # this task is always runnable
                theirs.send(b"x")
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                assert len(received) == number


@pytest.mark.parametrize("kind", ["deferred", "steps"])
async def test_endless_work_leaves_trio_its_turns(kind: str) -> None:
    async with running() as poller:
        is_over = False
        queue = poller.defer if kind == "deferred" else poller.queue_step

        def go_on() -> None:
            if not is_over:
                queue(Call(go_on))

        go_on()
        with sockets() as (ours, theirs):
            await trio.sleep(MS)
            theirs.send(b"x")
            await trio.lowlevel.wait_readable(ours)
            assert await trio.to_thread.run_sync(lambda: 5) == 5
        is_over = True


# Where the poller cannot wait in trio's place.


def deliver_one(poller: Poller) -> trio.Event:
    """Have a socket report data, which sets the event that is returned."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    event = trio.Event()

    def receive() -> None:
        ours.recv(10)
        ours.close()
        theirs.close()
        event.set()

    poller.add_handler(ours.fileno(), Call(receive))
    theirs.send(b"x")
    return event


async def test_second_poller_of_a_loop_has_a_task() -> None:
    """Both serve, also when one has ended and another one has come."""
    async with running() as second_lives:
        async with running() as other:
            assert is_inside(second_lives)
            assert not is_inside(other)
            await deliver_one(second_lives).wait()
            await deliver_one(other).wait()
        await deliver_one(second_lives).wait()
    async with running() as first, trio.open_nursery() as nursery:
        poller = Poller()
        await nursery.start(poller.serve)
        assert is_inside(first)
        await deliver_one(poller).wait()
        nursery.cancel_scope.cancel()


async def test_poller_goes_on_in_its_task_after_the_other_one() -> None:
    later = Poller()
    async with trio.open_nursery() as nursery:
        async with running():
            await nursery.start(later.serve)
        await deliver_one(later).wait()
        async with running() as third:
            assert is_inside(third)
            await deliver_one(third).wait()
            await deliver_one(later).wait()
        nursery.cancel_scope.cancel()


def test_clock_of_a_test_falls_back() -> None:
    async def main() -> None:
        async with running() as poller:
            assert not is_inside(poller)
            await deliver_one(poller).wait()
            await trio.sleep(1)

    trio.run(main, clock=MockClock(autojump_threshold=0.05))


def test_guest_mode_falls_back() -> None:
    """The host's loop, not trio, decides when the wait ends."""
    calls: queue.Queue[Callable[[], object]] = queue.Queue()
    outcomes: list[Any] = []

    async def main() -> bool:
        async with running() as poller:
            await deliver_one(poller).wait()
            await trio.sleep(MS)
            return is_inside(poller)

    trio.lowlevel.start_guest_run(main, run_sync_soon_threadsafe=calls.put, done_callback=outcomes.append)
    while not outcomes:
        calls.get(timeout=10)()
    assert outcomes[0].unwrap() is False


def parts(**changes: Any) -> SimpleNamespace:
    """A runner as ``io_wait`` expects it, with changes; None takes an attribute away."""
    names: dict[str, Any] = {
        "is_guest": False,
        "clock": SystemClock(),
        "io_manager": EpollIOManager(),
        "runq": [],
    }
    names.update(changes)
    return SimpleNamespace(**{name: value for name, value in names.items() if value is not None})


class SystemClock:
    pass


class EpollIOManager:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._epoll.close()

    def get_events(self, timeout: float) -> None: ...

    def process_events(self, events: object) -> None: ...


class WithoutEpoll(EpollIOManager):
    def __init__(self) -> None: ...


WithoutEpoll.__name__ = "EpollIOManager"


@pytest.mark.parametrize(
    "changes",
    [
        {"is_guest": True},
        {"is_guest": None},
        {"clock": MockClock()},
        {"io_manager": object()},
        {"io_manager": WithoutEpoll()},
        {"runq": None},
        {"runq": 5},
    ],
    ids=["guest", "no is_guest", "clock", "no epoll manager", "no epoll", "no runq", "other runq"],
)
async def test_other_trio_is_noticed(changes: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()
    assert io_wait.is_suitable(parts())
    assert not io_wait.is_suitable(parts(**changes))


async def test_trio_that_does_not_call_is_noticed() -> None:
    """The one part that no look at attributes can tell: ``trio.run`` could keep the method that it calls."""
    poller = Poller()
    with sockets() as (ours, _):
        poller.watch_trio(ours.fileno())
        wait = IoWait(poller, parts())
        assert not await wait.try_out()
        assert not is_inside(poller)
    poller._epoll.close()


async def test_poller_that_cannot_nest_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(40, "Too many levels of symbolic links")

    monkeypatch.setattr(Poller, "watch_trio", refuse)
    async with running() as poller:
        assert not is_inside(poller)
        await deliver_one(poller).wait()


# Faults.


async def test_exception_in_the_wait_is_raised_by_the_poller() -> None:
    """Trio's loop goes on, and waits by itself."""
    poller = Poller()
    with sockets() as (ours, theirs):
        poller.add_handler(ours.fileno(), Call(lambda: 1 // 0))
        theirs.send(b"x")
        with pytest.raises(ZeroDivisionError):
            await poller.serve()
        await trio.sleep(MS)
        await trio.to_thread.run_sync(lambda: None)
    async with running() as other:
        assert is_inside(other)


async def test_cancelled_start_leaves_trio_alone() -> None:
    poller = Poller()
    with trio.CancelScope() as scope:
        scope.cancel()
        await poller.serve()
    async with running() as other:
        assert is_inside(other)
