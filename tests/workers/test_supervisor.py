"""When the launcher starts children again, and what control adds up of what they counted."""

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
from mailproxy.pool import Counts
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_backend
from mailproxy.proxy.process import max_sessions, max_sessions_per_process, worker_count
from mailproxy.workers.control.worker_handle import PendingAcks, WorkerHandle
from mailproxy.workers.counters import Totals, apply_counters, changed_counters
from mailproxy.workers.messages import WorkerChannel, decode, open_channel
from mailproxy.workers.scoreboard import Scoreboard
from mailproxy.workers.supervisor import Supervisor, _Child
from tests.support.startup_config import startup_config


def test_who_keeps_dying_is_replaced_ever_more_slowly() -> None:
    role, now, pauses = (
        _Child(0, Scoreboard(startup_config(), 2, max_sessions_per_worker=10).counters(0)),
        100.0,
        [],
    )
    for _ in range(9):
        role.started_at = now
        role.on_exit(now + 0.5)
        pauses.append(round(role.start_due - (now + 0.5), 3))
        now = role.start_due
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    role.started_at = now
    role.on_exit(now + 5.0)
    assert role.start_due == now + 5.0, "it lived long enough"


def test_a_line_that_cannot_be_handed_over_now_is_later() -> None:
    setup: Any = SimpleNamespace(
        slots=[()], scoreboard=Scoreboard(startup_config(), 1, max_sessions_per_worker=10)
    )
    launcher, (controls, control), (workers, worker) = Supervisor(setup), channel_pair(), channel_pair()
    with controls, control, workers, worker:
        launcher._check_due = float("inf")  # at heartbeats
        launcher._control.pid, launcher._control.channel = 1, controls
        role = launcher._workers[0]
        role.pid, role.channel = 2, workers
        while try_send(controls, b"x" * 10_000):
            pass  # it hangs
        launcher._start_due_children()
        assert not role.is_connected
        assert 0.0 < launcher._seconds_to_wait() <= 1.0
        with contextlib.suppress(BlockingIOError):
            while control.recv(20_000):
                pass
        launcher._start_due_children()
        assert not role.is_connected, "not all the time"
        role.connect_due = 0.0
        launcher._start_due_children()
        assert role.is_connected
        assert decode(control.recv(1000)) == WorkerChannel(0, 2)
        assert launcher._seconds_to_wait() > 1.0


@pytest.mark.parametrize(("workers", "count"), [(1, 1), (3, 3), ("auto", 2)])
def test_bounds_are_for_all_workers(workers: object, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {4, 5})
    config = startup_config(process__workers=workers)
    assert worker_count(config) == count
    assert max_sessions(config) == count * max_sessions_per_process()
    assert max_sessions(startup_config(process__workers=workers, process__max_sessions=7)) == 7


@pytest.fixture
def links() -> Iterator[list[WorkerHandle]]:
    """Two workers, of whose lines nothing is needed."""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        log = Log([Output(StreamTarget(2))])
        yield [WorkerHandle(open_channel(one, log), 0, 0), WorkerHandle(open_channel(other, log), 1, 0)]


def backends() -> dict[str, Backend]:
    config = startup_config(backends__dovecot__servers=["192.0.2.1:143", "192.0.2.2:143"])
    return {"dovecot": make_backend(config.backends["dovecot"], {}, Log([Output(StreamTarget(2))]))}


def test_counts_are_those_of_all_and_stay_when_a_worker_is_gone(links: list[WorkerHandle]) -> None:
    of_control, of_worker = backends(), backends()
    totals = Totals(of_control)
    told: dict[tuple[str, int], Counts] = {}
    server = of_worker["dovecot"].servers[1]
    server.counts.sessions, server.counts.most_sessions, server.counts.retries = 3, 2, 1
    of_control["dovecot"].servers[1].counts.checks = 5
    for message in changed_counters(of_worker.values(), told):
        for link in links:
            apply_counters(link.counts, message)
    assert list(changed_counters(of_worker.values(), told)) == [], "it has been told"
    counts = [link.counts for link in links]
    both = Counts(sessions=6, most_sessions=2, retries=2, checks=5)
    assert totals.of("dovecot", 1, counts) == both
    assert totals.of("dovecot", 0, counts) == Counts()
    totals.absorb(counts.pop())
    assert totals.of("dovecot", 1, counts) == both
    assert totals.sessions(counts) == 6


async def test_who_does_not_answer_in_time_is_not_waited_for_again(links: list[WorkerHandle]) -> None:
    quick, slow = links
    asking = PendingAcks({quick, slow})
    asking.ack(quick, 2)
    await asking.wait(0.01)
    assert (asking.requeued, quick.is_unresponsive, slow.is_unresponsive) == (2, False, True)
    await PendingAcks(set()).wait(60)
