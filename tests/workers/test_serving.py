"""Several workers serve as one: both do, and counts and limits are over both."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

import mailproxy
from tests.support.worker_group import (
    WorkerGroup,
    configuration,
    descriptor_targets,
    greeting_servers,
    wait_until,
)


def test_both_serve_and_count_together(tmp_path: Path) -> None:
    """It is said once where they listen; the counts of tcplog are over both, as those of a single process are."""
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        guests = [group.connect_to_worker(worker) for worker in (0, 1, 0, 1)]
        assert [guest.greeting for guest in guests] == ["s1"] * 4
        for left in (4, 3, 2, 1):
            guests.pop().close()
            group.wait_for(rf" imap b/s1 .* {left}/{left}/{left - 1}/{left - 1}/0 0/0")
        # Who forks has neither threads nor a loop, or its children would have halves of them.
        assert "\nThreads:\t1\n" in Path(f"/proc/{group.process.pid}/status").read_text()
        assert not any("eventpoll" in link for link in descriptor_targets(group.process.pid))
        assert len(group.lines("listens on")) == len(group.lines("mailproxy is ready")) == 1
        group.send(signal.SIGTERM)
        assert group.wait() == 0
        assert len(group.lines("mailproxy has stopped")) == 1
        assert "Traceback" not in group.text


def test_sessions_have_numbers_of_their_own(tmp_path: Path) -> None:
    """Also after one of the workers was replaced within the second of its start."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, more='[log]\nformat = "json"'), tmp_path) as group,
    ):
        for _ in range(2):
            for worker in (0, 1, 0):
                guest = group.connect_to_worker(worker)
                assert guest.greeting == "s1"
                guest.close()
            group.kill_and_wait("worker 1")
        for worker in (0, 1):
            group.connect_to_worker(worker).close()
        group.send(signal.SIGTERM)
        assert group.wait() == 0
        ids = re.findall(r'"event":"session".*"id":"(\w+)"', group.text)
        assert len(ids) >= 4  # those of a worker that was killed may be missing
        assert len(set(ids)) == len(ids)


def test_a_server_has_no_more_sessions_than_it_may_have(tmp_path: Path) -> None:
    """Whoever comes to the other worker waits, and has the place as soon as it is free."""
    with greeting_servers("s1") as servers:
        text = configuration(*servers, server="max_sessions = 1")
        with WorkerGroup(text, tmp_path) as group:
            first = group.connect_to_worker(0)
            assert first.greeting == "s1"
            second = group.connect_to_worker(1)
            assert not second.is_greeted_within(0.2)
            first.close()
            assert second.greeting == "s1"
            group.wait_for(r" imap b/s1 .* 2/2/1/0/0 0/0")


@pytest.mark.parametrize("where", ["process", "frontend"])
def test_over_the_limit_accepting_waits_in_both(tmp_path: Path, where: str) -> None:
    with greeting_servers("s1") as servers:
        text = configuration(*servers)
        place = "[process]" if where == "process" else "[frontends.imap]"
        text = text.replace(place, f"{place}\nmax_sessions = 2")
        with WorkerGroup(text, tmp_path) as group:
            first, second = group.connect_to_worker(0), group.connect_to_worker(1)
            assert (first.greeting, second.greeting) == ("s1", "s1")
            crowd = [group.connect() for _ in range(8)]  # at both
            group.wait_for(r"2 sessions, as many as (process|frontends\.imap)\.max_sessions allows")
            assert not any(guest.is_greeted_within(0.02) for guest in crowd)
            first.close()
            wait_until(lambda: sum(guest.is_greeted_within(0.01) for guest in crowd) in (1, 2))
            second.close()
            wait_until(lambda: sum(guest.is_greeted_within(0.01) for guest in crowd) in (2, 3))


async def test_there_is_one_process_inside_another_program() -> None:
    config = mailproxy.from_mapping(
        {
            "process": {"workers": 2},
            "frontends": {"f": {"backend": "b", "bind": [{"address": "127.0.0.1:0"}]}},
            "backends": {"b": {"servers": ["127.0.0.1:9"]}},
        }
    )
    with pytest.raises(
        mailproxy.ConfigError, match=r"process\.workers: 2: inside another program there is one process"
    ):
        await mailproxy.serve(config)
