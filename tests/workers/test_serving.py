"""Several workers serve like one process, and counts and limits cover all of them."""

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


def test_workers_serve_and_count_together(tmp_path: Path) -> None:
    """Listening is logged once. The counts of tcplog cover both workers, like those of one process."""
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        clients = [group.connect_to_worker(worker) for worker in (0, 1, 0, 1)]
        assert [client.greeting for client in clients] == ["s1"] * 4
        for remaining in (4, 3, 2, 1):
            clients.pop().close()
            group.wait_for(rf" imap b/s1 .* -- {remaining}/{remaining}/{remaining - 1}/{remaining - 1}/0 0/0")
        # The process that forks has neither threads nor an event loop, because its children would inherit them.
        assert "\nThreads:\t1\n" in Path(f"/proc/{group.process.pid}/status").read_text()
        assert not any("eventpoll" in link for link in descriptor_targets(group.process.pid))
        assert len(group.lines("listens on")) == len(group.lines("mailproxy is ready")) == 1
        group.send(signal.SIGTERM)
        assert group.wait() == 0
        assert len(group.lines("mailproxy has stopped")) == 1
        assert "Traceback" not in group.text


def test_session_ids_are_unique(tmp_path: Path) -> None:
    """Also after a worker was replaced within the second of its start."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, more='[log]\nformat = "json"'), tmp_path) as group,
    ):
        for _ in range(2):
            for worker in (0, 1, 0):
                client = group.connect_to_worker(worker)
                assert client.greeting == "s1"
                client.close()
            group.kill_and_wait("worker 1")
        for worker in (0, 1):
            group.connect_to_worker(worker).close()
        group.send(signal.SIGTERM)
        assert group.wait() == 0
        ids = re.findall(r'"event":"session".*"id":"(\w+)"', group.text)
        assert len(ids) >= 4  # those of a killed worker may be missing
        assert len(set(ids)) == len(ids)


def test_server_limit_covers_both_workers(tmp_path: Path) -> None:
    """The session at the other worker is queued and gets the slot as soon as it is free."""
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


@pytest.mark.parametrize("table", ["process", "frontend"])
def test_full_limit_stops_accepting_in_both_workers(tmp_path: Path, table: str) -> None:
    with greeting_servers("s1") as servers:
        text = configuration(*servers)
        header = "[process]" if table == "process" else "[frontends.imap]"
        text = text.replace(header, f"{header}\nmax_sessions = 2")
        with WorkerGroup(text, tmp_path) as group:
            first, second = group.connect_to_worker(0), group.connect_to_worker(1)
            assert (first.greeting, second.greeting) == ("s1", "s1")
            crowd = [group.connect() for _ in range(8)]  # at both workers
            group.wait_for(r"2 sessions, as many as (process|frontends\.imap)\.max_sessions allows")
            assert not any(client.is_greeted_within(0.02) for client in crowd)
            first.close()
            wait_until(lambda: sum(client.is_greeted_within(0.01) for client in crowd) in (1, 2))
            second.close()
            wait_until(lambda: sum(client.is_greeted_within(0.01) for client in crowd) in (2, 3))


async def test_serve_inside_other_program_rejects_workers() -> None:
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
