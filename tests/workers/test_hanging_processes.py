"""Hanging processes are detected by their heartbeat and replaced. Workers do not wait for a hung control."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from mailproxy.workers.supervision.watchdog import Pulse
from tests.support.worker_group import WorkerGroup, configuration, greeting_servers, is_running, pause

pytestmark = pytest.mark.slow

DETECTION_S = 10.0  # the documented limit
ENDLESS_LOOP = """
import signal

def hang(*_):
    while True:
        pass

signal.signal(signal.SIGVTALRM, hang)
"""


def environment(folder: Path, code: str) -> dict[str, str]:
    """Return an environment in which each Python process runs this code at its start."""
    (folder / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.parametrize("variant", ["stopped", "in an endless loop"])
def test_hung_worker_is_replaced_and_queue_served(tmp_path: Path, variant: str) -> None:
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers), tmp_path, env=environment(tmp_path, ENDLESS_LOOP)) as group,
    ):
        other_client, lost_client = group.connect_to_worker(0), group.connect_to_worker(1)
        assert (other_client.greeting, lost_client.greeting) == ("s1", "s1")
        old = group.children["worker 2"]
        if variant == "stopped":
            pause(old)
        else:
            os.kill(old, signal.SIGVTALRM)
        started_at = time.monotonic()
        queued = [group.connect() for _ in range(20)]
        assert [client.greeting for client in queued] == ["s1"] * 20
        assert time.monotonic() - started_at < DETECTION_S + 5  # with time for a busy machine
        assert lost_client.is_closed()
        assert other_client.echoes()
        assert group.wait_for(r"worker 2 .*hung.*") == (
            f"worker 2 (process {old}) hung for 7 s and was killed, 1 sessions are lost; it is replaced"
        )
        assert not is_running(old)
        assert group.children["worker 1"] == group.workers[0]


def test_worker_restarted_during_hung_control_serves(tmp_path: Path) -> None:
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        client = group.connect_to_worker(0)
        assert client.greeting == "s1"
        control = group.children["control"]
        pause(control)
        group.kill_and_wait("worker 2")
        # Accepted by the new worker, which waits 3 s for control at most.
        later_client = group.connect_to_worker(1)
        assert later_client.greeting == "s1"
        group.wait_for(f"control .process {control}. hung for 7 s and was killed: another one took its place")
        assert client.echoes()
        assert later_client.echoes()
        group.wait_for(r"worker 2 .* was killed by SIGKILL")
        assert [group.connect_to_worker(worker).greeting for worker in (0, 1)] == ["s1", "s1"]


def test_worker_without_state_does_not_overwrite_state(tmp_path: Path) -> None:
    """The next control takes the state of a down server from the other worker and does not log it again."""
    check = 'check = { type = "tcp", interval = "1h", rise = 1, fall = 1, jitter = 0 }'
    with greeting_servers("s1", "s2") as servers:
        servers[0].close()
        text = configuration(*servers, backend="redispatch = 1").replace('check = "none"', check)
        with WorkerGroup(text, tmp_path) as group:
            group.wait_for("Server b/s1 is DOWN")
            group.wait_for("mailproxy is ready")
            pause(group.children["control"])
            group.kill_and_wait("worker 2")
            assert group.connect_to_worker(1).greeting == "s2"
            group.wait_for("worker 2 serves without the state of servers")
            group.wait_for("control .* hung")
            group.kill_and_wait("control")  # it has made its checks before the next one starts
            group.wait_for("control .* was killed by SIGKILL")
            assert [group.connect_to_worker(worker).greeting for worker in (0, 1)] == ["s2", "s2"]
            assert len(group.lines("is DOWN")) == 1
            assert not group.lines("is UP")
        servers[0].open()


def test_resumed_supervisor_kills_no_child(tmp_path: Path) -> None:
    """As after a suspend: the supervisor cannot judge heartbeats for the time in which it did not run."""
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        clients = [group.connect_to_worker(worker) for worker in (0, 1)]
        assert [client.greeting for client in clients] == ["s1", "s1"]
        pids = dict(group.children)
        for pid in (group.process.pid, *pids.values()):
            pause(pid)
        time.sleep(9)
        for pid in (*pids.values(), group.process.pid):
            os.kill(pid, signal.SIGCONT)
        assert all(client.echoes() for client in clients)
        time.sleep(2)
        assert group.children == pids
        assert not group.lines("hung")


def test_pulse_counts_checks_without_beat() -> None:
    pulse = Pulse()
    assert [pulse.check(beats) for beats in (1, 1, 1, 2, 2)] == [False] * 5
    assert [pulse.check(2) for _ in range(6)] == [False] * 5 + [True]


def test_pulse_waits_longer_for_first_beat() -> None:
    pulse = Pulse()
    assert [pulse.check(0) for _ in range(60)] == [False] * 59 + [True]
