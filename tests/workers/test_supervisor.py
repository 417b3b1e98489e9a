"""When the supervisor restarts children, and how control adds up the workers' counters."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mailproxy.ipc.channel import channel_pair, try_send
from mailproxy.log import Log, Output
from mailproxy.log.targets import StreamTarget
from mailproxy.proxy.process import max_sessions, max_sessions_per_process, worker_count
from mailproxy.workers.control.worker_handle import PendingAcks, WorkerHandle
from mailproxy.workers.messages import WorkerChannel, decode, open_channel
from mailproxy.workers.scoreboard import Scoreboard
from mailproxy.workers.supervision.child_process import ChildProcess
from mailproxy.workers.supervisor import Supervisor
from tests.support.startup_config import startup_config


def test_restart_pauses_grow_until_child_lives() -> None:
    child, now, pauses = (
        ChildProcess(0, Scoreboard(startup_config(), 2, max_sessions_per_worker=10).counters(0)),
        100.0,
        [],
    )
    for _ in range(9):
        child.started_at = now
        child.on_exit(now + 0.5)
        pauses.append(round(child.start_due - (now + 0.5), 3))
        now = child.start_due
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    child.started_at = now
    child.on_exit(now + 5.0)
    assert child.start_due == now + 5.0, "the child lived long enough"


def test_channel_is_handed_over_later_if_full() -> None:
    setup: Any = SimpleNamespace(
        slots=[()],
        scoreboard=Scoreboard(startup_config(), 1, max_sessions_per_worker=10),
        config=startup_config(),
        start=None,
    )
    supervisor, (control_end, control), (workers, worker) = Supervisor(setup), channel_pair(), channel_pair()
    with control_end, control, workers, worker:
        supervisor._check_due = float("inf")  # no check of heartbeats
        supervisor._control.pid, supervisor._control.channel = 1, control_end
        child = supervisor._workers[0]
        child.pid, child.channel = 2, workers
        while try_send(control_end, b"x" * 10_000):
            pass  # the control process hangs
        supervisor._start_due_children()
        assert not child.is_connected
        assert 0.0 < supervisor._seconds_to_wait() <= 1.0
        with contextlib.suppress(BlockingIOError):
            while control.recv(20_000):
                pass
        supervisor._start_due_children()
        assert not child.is_connected, "not before connect_due"
        child.connect_due = 0.0
        supervisor._start_due_children()
        assert child.is_connected
        assert decode(control.recv(1000)) == WorkerChannel(0, 2)
        assert supervisor._seconds_to_wait() > 1.0


@pytest.mark.parametrize(("workers", "count"), [(1, 1), (3, 3), ("auto", 2)])
def test_session_limit_is_for_all_workers(
    workers: object, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {4, 5})
    config = startup_config(process__workers=workers)
    assert worker_count(config) == count
    assert max_sessions(config) == count * max_sessions_per_process()
    assert max_sessions(startup_config(process__workers=workers, process__max_sessions=7)) == 7


@pytest.fixture
def handles() -> Iterator[list[WorkerHandle]]:
    """Yield the handles of two workers whose channels are not used."""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        log = Log([Output(StreamTarget(2))])
        yield [WorkerHandle(open_channel(one, log), 0, 0), WorkerHandle(open_channel(other, log), 1, 0)]


async def test_unresponsive_worker_is_awaited_once(handles: list[WorkerHandle]) -> None:
    responsive, slow = handles
    pending_acks = PendingAcks({responsive, slow})
    pending_acks.ack(responsive, 2)
    await pending_acks.wait(0.01)
    assert (pending_acks.requeued, responsive.is_unresponsive, slow.is_unresponsive) == (2, False, True)
    await PendingAcks(set()).wait(60)
