"""A process that hangs is noticed by its heartbeat and replaced; a worker does not wait for a control that hangs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from mailproxy.workers.watchdog import Pulse
from tests.support.worker_group import WorkerGroup, configuration, greeting_servers, is_running

NOTICED_S = 10.0  # what is promised
LOOPS_FOR_EVER = """
import signal

def hang(*_):
    while True:
        pass

signal.signal(signal.SIGVTALRM, hang)
"""


def environment(folder: Path, code: str) -> dict[str, str]:
    """One in which each Python runs this code at its start."""
    (folder / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.parametrize("how", ["stopped", "in an endless loop"])
def test_hung_worker_is_replaced_and_its_queue_served(tmp_path: Path, how: str) -> None:
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers), tmp_path, env=environment(tmp_path, LOOPS_FOR_EVER)) as group,
    ):
        theirs, its = group.connect_to_worker(0), group.connect_to_worker(1)
        assert (theirs.greeting, its.greeting) == ("s1", "s1")
        old = group.children["worker 2"]
        os.kill(old, signal.SIGSTOP if how == "stopped" else signal.SIGVTALRM)
        began = time.monotonic()
        queued = [group.connect() for _ in range(20)]
        assert [guest.greeting for guest in queued] == ["s1"] * 20
        assert time.monotonic() - began < NOTICED_S + 5  # a busy machine
        assert its.is_closed()
        assert theirs.echoes()
        assert group.wait_for(r"worker 2 .*hung.*") == (
            f"worker 2 (process {old}) hung for 7 s and was killed, 1 sessions are lost; it is replaced"
        )
        assert not is_running(old)
        assert group.children["worker 1"] == group.workers[0]


def test_hung_control_is_replaced_and_a_worker_that_dies_meanwhile_serves(tmp_path: Path) -> None:
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        guest = group.connect_to_worker(0)
        assert guest.greeting == "s1"
        control = group.children["control"]
        os.kill(control, signal.SIGSTOP)
        group.kill_and_wait("worker 2")
        fresh = group.connect_to_worker(1)  # accepted, which the new worker does after 3 s at the latest
        assert fresh.greeting == "s1"
        group.wait_for(f"control .process {control}. hung for 7 s and was killed: another one took its place")
        assert guest.echoes()
        assert fresh.echoes()
        group.wait_for(r"worker 2 .* was killed by SIGKILL")
        assert [group.connect_to_worker(worker).greeting for worker in (0, 1)] == ["s1", "s1"]


def test_worker_that_serves_without_control_does_not_spread_its_ignorance(tmp_path: Path) -> None:
    """What the others know of a server that is down counts for the next control, and is not said again."""
    check = 'check = { type = "tcp", interval = "1h", rise = 1, fall = 1, jitter = 0 }'
    with greeting_servers("s1", "s2") as servers:
        servers[0].close()
        text = configuration(*servers, backend="redispatch = 1").replace('check = "none"', check)
        with WorkerGroup(text, tmp_path) as group:
            group.wait_for("Server b/s1 is DOWN")
            os.kill(group.children["control"], signal.SIGSTOP)
            group.kill_and_wait("worker 2")
            assert group.connect_to_worker(1).greeting == "s2"
            group.wait_for("worker 2 serves without the state of servers")
            group.wait_for("control .* hung")
            group.kill_and_wait("control")  # it has made its checks by the time that the next one is there
            group.wait_for("control .* was killed by SIGKILL")
            assert [group.connect_to_worker(worker).greeting for worker in (0, 1)] == ["s2", "s2"]
            assert len(group.lines("is DOWN")) == 1
            assert not group.lines("is UP")
        servers[0].open()


def test_launcher_that_was_stopped_kills_nobody(tmp_path: Path) -> None:
    """As after a suspend: for the time in which it did not run, nothing is known of its children."""
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        guests = [group.connect_to_worker(worker) for worker in (0, 1)]
        assert [guest.greeting for guest in guests] == ["s1", "s1"]
        pids = dict(group.children)
        for pid in (group.process.pid, *pids.values()):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(9)
        for pid in (group.process.pid, *pids.values()):
            os.kill(pid, signal.SIGCONT)
        assert all(guest.echoes() for guest in guests)
        time.sleep(2)
        assert group.children == pids
        assert not group.lines("hung")


def test_pulse_counts_looks_without_a_beat() -> None:
    pulse = Pulse()
    assert [pulse.check(beats) for beats in (1, 1, 1, 2, 2)] == [False] * 5
    assert [pulse.check(2) for _ in range(6)] == [False] * 5 + [True]


def test_pulse_before_the_first_beat_is_patient() -> None:
    pulse = Pulse()
    assert [pulse.check(0) for _ in range(60)] == [False] * 59 + [True]
