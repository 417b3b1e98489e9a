"""Any of the processes is killed: the others continue, and a new one replaces it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.support.worker_group import (
    Client,
    WorkerGroup,
    configuration,
    greeting_servers,
    is_open,
    is_running,
    pause,
    wait_until,
)

pytestmark = pytest.mark.slow


class ClientStream(threading.Thread):
    """Clients that connect one after another without a pause.

    ``failures`` has an error for each client that was not greeted.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.failures: list[str] = []
        self.greeted = 0
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            client = Client(self.address)
            try:
                client.greeting  # noqa: B018 - the property receives
                self.greeted += 1
            except OSError as error:
                self.failures.append(repr(error))
            client.close()


def no_others_count(group: WorkerGroup) -> bool:
    """Whether a new session and the other client's are all that count: those of the killed worker do no longer."""
    client = group.connect()
    assert client.greeting == "s1"
    client.close()
    return bool(group.lines(r" imap b/s1 .* 2/2/1/1/0 0/0"))


def test_killed_worker_loses_own_sessions_only(tmp_path: Path) -> None:
    """At most its own sessions are lost. The next worker serves the connections in its accept queue."""
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        other_client, lost_client = group.connect_to_worker(0), group.connect_to_worker(1)
        assert (other_client.greeting, lost_client.greeting) == ("s1", "s1")
        # The stopped worker accepts nothing, so new connections are in its accept queue when it dies.
        old = group.children["worker 2"]
        pause(old)
        queued = [group.connect() for _ in range(20)]
        stream = ClientStream(group.addresses[0])
        os.kill(old, signal.SIGKILL)
        stream.start()
        assert lost_client.is_closed()
        assert [client.greeting for client in queued] == ["s1"] * 20
        wait_until(lambda: stream.greeted > 20)
        stream.is_over = True
        stream.join()
        assert stream.failures == []
        assert other_client.echoes()
        message = group.wait_for(r"worker 2 .*")
        assert (
            message == f"worker 2 (process {old}) was killed by SIGKILL, 1 sessions are lost; it is replaced"
        )
        for client in queued:
            client.close()
        wait_until(lambda: no_others_count(group))
        assert len(group.lines("worker 2")) == len(group.lines("mailproxy is ready")) == 1


def test_slots_of_killed_worker_are_free(tmp_path: Path) -> None:
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, server="max_sessions = 1"), tmp_path) as group,
    ):
        assert group.connect_to_worker(1).greeting == "s1"
        waiting = group.connect_to_worker(0)
        assert not waiting.is_greeted_within(0.05)
        group.kill_and_wait("worker 2")
        assert waiting.greeting == "s1"


def test_children_drain_when_supervisor_is_killed(tmp_path: Path) -> None:
    """The children end as after SIGTERM, and none is left."""
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        client = group.connect_to_worker(0)
        assert client.greeting == "s1"
        pids = list(group.children.values())
        assert len(pids) == 3
        group.send(signal.SIGKILL)
        group.process.wait()
        wait_until(lambda: "open sessions (1) have 0.3s to end" in group.text)
        assert client.is_closed()
        wait_until(lambda: not any(map(is_running, pids)))
        assert "mailproxy has stopped" in group.text
        assert "Traceback" not in group.text


def test_control_killed_during_drain_is_replaced(tmp_path: Path) -> None:
    """The new control process finishes the drain and handles the second signal."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, drain_timeout="30s"), tmp_path) as group,
    ):
        client = group.connect_to_worker(0)
        assert client.greeting == "s1"
        group.send(signal.SIGTERM)
        group.wait_for("no more connections are accepted")
        group.kill_and_wait("control")
        assert client.echoes()
        group.wait_for("control .* was killed by SIGKILL")
        group.send(signal.SIGTERM)
        assert client.is_closed()
        assert group.wait() == 0
        assert len(group.lines("mailproxy has stopped")) == 1
        assert "Traceback" not in group.text


def test_workers_stop_although_control_hangs(tmp_path: Path) -> None:
    """Sessions end without control, and no process is left."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, drain_timeout="30s"), tmp_path) as group,
    ):
        clients = [group.connect_to_worker(worker) for worker in (0, 1)]
        assert [client.greeting for client in clients] == ["s1", "s1"]
        pids = list(group.children.values())
        pause(group.children["control"])
        group.send(signal.SIGTERM)
        wait_until(lambda: not is_open(group.addresses[0]))
        assert all(client.echoes() for client in clients)
        group.send(signal.SIGTERM)
        assert all(client.is_closed() for client in clients)
        assert group.wait() == 0
        assert not any(map(is_running, pids))
        assert len(group.lines(" K- ")) == 2
        assert "Traceback" not in group.text


def test_worker_dying_repeatedly_is_replaced(tmp_path: Path) -> None:
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        group.wait_for("mailproxy is ready")
        for _ in range(3):
            group.kill_and_wait("worker 2")
        wait_until(lambda: len(group.lines("worker 2 .* was killed")) == 3)
        assert group.connect_to_worker(0).greeting == group.connect_to_worker(1).greeting == "s1"
