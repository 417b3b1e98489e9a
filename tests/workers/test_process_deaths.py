"""Any process of them is killed: the others go on, and another one takes its place."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

from tests.support.worker_group import (
    Client,
    WorkerGroup,
    configuration,
    greeting_servers,
    is_running,
    wait_until,
)


class Stream(threading.Thread):
    """Clients who come one after the other, without a pause; ``failures`` of those that were not greeted."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.failures: list[str] = []
        self.greeted = 0
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            guest = Client(self.address)
            try:
                guest.greeting  # noqa: B018 - it is received by that
                self.greeted += 1
            except OSError as error:
                self.failures.append(repr(error))
            guest.close()


def test_a_worker_is_killed(tmp_path: Path) -> None:
    """Those whom it served are lost, at most; who stands in its queue is served by the next one."""
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        theirs, its = group.connect_to_worker(0), group.connect_to_worker(1)
        assert (theirs.greeting, its.greeting) == ("s1", "s1")
        # Stopped, it accepts nothing any more: so connections that are made now stand in its queue when it dies.
        old = group.children["worker 2"]
        os.kill(old, signal.SIGSTOP)
        queued = [group.connect() for _ in range(20)]
        stream = Stream(group.addresses[0])
        os.kill(old, signal.SIGKILL)
        stream.start()
        assert its.is_closed()
        assert [guest.greeting for guest in queued] == ["s1"] * 20
        wait_until(lambda: stream.greeted > 20)
        stream.is_over = True
        stream.join()
        assert stream.failures == []
        assert theirs.echoes()
        said = group.wait_for(r"worker 2 .*")
        assert said == f"worker 2 (process {old}) was killed by SIGKILL, 1 sessions are lost; it is replaced"
        for guest in queued:
            guest.close()
        # Nothing of it stays in the counts.
        wait_until(lambda: re.search(r" imap b/s1 .* 2/2/1/1/0 0/0", group.text))
        assert len(group.lines("worker 2")) == len(group.lines("mailproxy is ready")) == 1


def test_places_of_a_killed_worker_are_free(tmp_path: Path) -> None:
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, server="max_sessions = 1"), tmp_path) as group,
    ):
        assert group.connect_to_worker(1).greeting == "s1"
        waiting = group.connect_to_worker(0)
        assert not waiting.is_greeted_within(0.05)
        group.kill_and_wait("worker 2")
        assert waiting.greeting == "s1"


def test_the_launcher_is_killed(tmp_path: Path) -> None:
    """Its children end as at SIGTERM, and none is left."""
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        guest = group.connect_to_worker(0)
        assert guest.greeting == "s1"
        pids = list(group.children.values())
        assert len(pids) == 3
        group.send(signal.SIGKILL)
        group.process.wait()
        wait_until(lambda: "open sessions (1) have 0.3s to end" in group.text)
        assert guest.is_closed()
        wait_until(lambda: not any(map(is_running, pids)))
        assert "mailproxy has stopped" in group.text
        assert "Traceback" not in group.text


def test_control_is_killed_while_the_others_drain(tmp_path: Path) -> None:
    """Another one sees to the end, and hears the second signal."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, drain_timeout="30s"), tmp_path) as group,
    ):
        guest = group.connect_to_worker(0)
        assert guest.greeting == "s1"
        group.send(signal.SIGTERM)
        group.wait_for("no more connections are accepted")
        group.kill_and_wait("control")
        assert guest.echoes()
        group.wait_for("control .* was killed by SIGKILL")
        group.send(signal.SIGTERM)
        assert guest.is_closed()
        assert group.wait() == 0
        assert len(group.lines("mailproxy has stopped")) == 1
        assert "Traceback" not in group.text


def test_control_hangs_while_the_others_are_to_end(tmp_path: Path) -> None:
    """Sessions are told to end without it, and nobody stays."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, drain_timeout="30s"), tmp_path) as group,
    ):
        guests = [group.connect_to_worker(worker) for worker in (0, 1)]
        assert [guest.greeting for guest in guests] == ["s1", "s1"]
        pids = list(group.children.values())
        os.kill(group.children["control"], signal.SIGSTOP)
        group.send(signal.SIGTERM)
        wait_until(lambda: not is_open(group.addresses[0]))
        assert all(guest.echoes() for guest in guests)
        group.send(signal.SIGTERM)
        assert all(guest.is_closed() for guest in guests)
        assert group.wait() == 0
        assert not any(map(is_running, pids))
        assert len(group.lines(" K- ")) == 2
        assert "Traceback" not in group.text


def is_open(address: tuple[str, int]) -> bool:
    try:
        Client(address).close()
    except ConnectionRefusedError:
        return False
    return True


def test_one_that_keeps_dying_is_replaced_ever_more_slowly(tmp_path: Path) -> None:
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        group.wait_for("mailproxy is ready")
        for _ in range(3):
            group.kill_and_wait("worker 2")
        wait_until(lambda: len(group.lines("worker 2 .* was killed")) == 3)
        assert group.connect_to_worker(0).greeting == group.connect_to_worker(1).greeting == "s1"
