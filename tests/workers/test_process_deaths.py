"""Any process of them is killed: the others go on, and another one takes its place."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

from tests.support.worker_group import Crew, Guest, configuration, greeters, is_there, until


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
            guest = Guest(self.address)
            try:
                guest.greeting  # noqa: B018 - it is received by that
                self.greeted += 1
            except OSError as error:
                self.failures.append(repr(error))
            guest.leave()


def test_a_worker_is_killed(tmp_path: Path) -> None:
    """Those whom it served are lost, at most; who stands in its queue is served by the next one."""
    with greeters("s1") as servers, Crew(configuration(*servers), tmp_path) as crew:
        theirs, its = crew.guest_of(0), crew.guest_of(1)
        assert (theirs.greeting, its.greeting) == ("s1", "s1")
        # Stopped, it accepts nothing any more: so connections that are made now stand in its queue when it dies.
        old = crew.children["worker 2"]
        os.kill(old, signal.SIGSTOP)
        queued = [crew.guest() for _ in range(20)]
        stream = Stream(crew.addresses[0])
        os.kill(old, signal.SIGKILL)
        stream.start()
        assert its.is_closed()
        assert [guest.greeting for guest in queued] == ["s1"] * 20
        until(lambda: stream.greeted > 20)
        stream.is_over = True
        stream.join()
        assert stream.failures == []
        assert theirs.echoes()
        said = crew.wait_for(r"worker 2 .*")
        assert said == f"worker 2 (process {old}) was killed by SIGKILL, 1 sessions are lost; it is replaced"
        for guest in queued:
            guest.leave()
        # Nothing of it stays in the counts.
        until(lambda: re.search(r" imap b/s1 .* 2/2/1/1/0 0/0", crew.text))
        assert len(crew.lines("worker 2")) == len(crew.lines("mailproxy is ready")) == 1


def test_places_of_a_killed_worker_are_free(tmp_path: Path) -> None:
    with (
        greeters("s1") as servers,
        Crew(configuration(*servers, server="max_sessions = 1"), tmp_path) as crew,
    ):
        assert crew.guest_of(1).greeting == "s1"
        waiting = crew.guest_of(0)
        assert not waiting.is_greeted_within(0.05)
        crew.kill("worker 2")
        assert waiting.greeting == "s1"


def test_the_launcher_is_killed(tmp_path: Path) -> None:
    """Its children end as at SIGTERM, and none is left."""
    with greeters("s1") as servers, Crew(configuration(*servers), tmp_path) as crew:
        guest = crew.guest_of(0)
        assert guest.greeting == "s1"
        pids = list(crew.children.values())
        assert len(pids) == 3
        crew.send(signal.SIGKILL)
        crew.process.wait()
        until(lambda: "open sessions (1) have 0.3s to end" in crew.text)
        assert guest.is_closed()
        until(lambda: not any(map(is_there, pids)))
        assert "mailproxy has stopped" in crew.text
        assert "Traceback" not in crew.text


def test_control_is_killed_while_the_others_drain(tmp_path: Path) -> None:
    """Another one sees to the end, and hears the second signal."""
    with greeters("s1") as servers, Crew(configuration(*servers, drain_timeout="30s"), tmp_path) as crew:
        guest = crew.guest_of(0)
        assert guest.greeting == "s1"
        crew.send(signal.SIGTERM)
        crew.wait_for("no more connections are accepted")
        crew.kill("control")
        assert guest.echoes()
        crew.wait_for("control .* was killed by SIGKILL")
        crew.send(signal.SIGTERM)
        assert guest.is_closed()
        assert crew.wait() == 0
        assert len(crew.lines("mailproxy has stopped")) == 1
        assert "Traceback" not in crew.text


def test_control_hangs_while_the_others_are_to_end(tmp_path: Path) -> None:
    """Sessions are told to end without it, and nobody stays."""
    with greeters("s1") as servers, Crew(configuration(*servers, drain_timeout="30s"), tmp_path) as crew:
        guests = [crew.guest_of(worker) for worker in (0, 1)]
        assert [guest.greeting for guest in guests] == ["s1", "s1"]
        pids = list(crew.children.values())
        os.kill(crew.children["control"], signal.SIGSTOP)
        crew.send(signal.SIGTERM)
        until(lambda: not is_open(crew.addresses[0]))
        assert all(guest.echoes() for guest in guests)
        crew.send(signal.SIGTERM)
        assert all(guest.is_closed() for guest in guests)
        assert crew.wait() == 0
        assert not any(map(is_there, pids))
        assert len(crew.lines(" K- ")) == 2
        assert "Traceback" not in crew.text


def is_open(address: tuple[str, int]) -> bool:
    try:
        Guest(address).leave()
    except ConnectionRefusedError:
        return False
    return True


def test_one_that_keeps_dying_is_replaced_ever_more_slowly(tmp_path: Path) -> None:
    with greeters("s1") as servers, Crew(configuration(*servers), tmp_path) as crew:
        crew.wait_for("mailproxy is ready")
        for _ in range(3):
            crew.kill("worker 2")
        until(lambda: len(crew.lines("worker 2 .* was killed")) == 3)
        assert crew.guest_of(0).greeting == crew.guest_of(1).greeting == "s1"
