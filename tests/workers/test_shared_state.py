"""What one worker knows, the others do: who waits, which client has which server, which server is down."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.support.worker_group import LATE_S, Client, WorkerGroup, configuration, greeting_servers


def test_first_come_first_served_over_both(tmp_path: Path) -> None:
    """They wait in turns at either; places come one after the other, and at last several at once."""
    with greeting_servers("s1") as servers:
        text = configuration(*servers, server="max_sessions = 2")
        with WorkerGroup(text, tmp_path) as group:
            there = [group.connect_to_worker(worker) for worker in (0, 1)]
            assert [guest.greeting for guest in there] == ["s1", "s1"]
            waiting: list[Client] = []
            for worker in (0, 1, 1, 0, 1, 0, 0, 1):
                waiting.append(group.connect_to_worker(worker))
                assert not waiting[-1].is_greeted_within(0.02)
            latest = 0.0
            for _ in range(4):
                there.pop(0).close()
                began = time.monotonic()
                assert waiting[0].greeting == "s1"
                latest = max(latest, time.monotonic() - began)
                there.append(waiting.pop(0))
                assert not any(guest.is_greeted_within(0.01) for guest in waiting)
            assert latest < LATE_S
            for guest in there:
                guest.close()
            assert [guest.greeting for guest in waiting[:2]] == ["s1", "s1"]
            assert not any(guest.is_greeted_within(0.01) for guest in waiting[2:])


def test_clients_come_back_to_their_server_by_way_of_either(tmp_path: Path) -> None:
    """And a worker that took the place of another one knows them."""
    with (
        greeting_servers("s1", "s2", "s3") as servers,
        WorkerGroup(configuration(*servers, backend="stick = {}"), tmp_path) as group,
    ):
        sources = [f"127.0.0.{number}" for number in range(2, 8)]
        had = {
            source: group.connect_to_worker(number % 2, source).greeting
            for number, source in enumerate(sources)
        }
        assert set(had.values()) == {"s1", "s2", "s3"}
        time.sleep(0.1)  # what is promised
        assert had == {s: group.connect_to_worker((n + 1) % 2, s).greeting for n, s in enumerate(sources)}
        group.kill_and_wait("worker 1")
        assert had == {source: group.connect_to_worker(0, source).greeting for source in sources}
        group.kill_and_wait("control")
        group.wait_for("control .* was killed by SIGKILL")
        group.kill_and_wait("worker 2")
        assert had == {source: group.connect_to_worker(1, source).greeting for source in sources}


CHECKED = 'check = { type = "tcp", interval = "100ms", rise = 1, fall = 1, jitter = 0 }'


def test_a_server_that_is_down_is_down_in_both(tmp_path: Path) -> None:
    """It is said once, with the figures of both; its sessions end where that is wished. A new control changes nothing."""
    with greeting_servers("s1", "s2") as servers:
        text = configuration(
            *servers, backend='on_marked_down = "shutdown-sessions"', server="max_sessions = 3"
        )
        with WorkerGroup(text.replace('check = "none"', CHECKED), tmp_path) as group:
            at = {group.connect_to_server(name, worker): name for name in ("s1", "s2") for worker in (0, 1)}
            servers[0].close()
            said = group.wait_for("Server b/s1 is DOWN.*")
            assert re.search(
                r"1 active and 0 backup servers left. 2 sessions active, 0 requeued, 0 remaining", said
            )
            for guest, server in at.items():
                assert guest.is_closed() if server == "s1" else guest.echoes()
            group.kill_and_wait("control")
            group.wait_for("control .* was killed by SIGKILL")
            last = group.connect_to_worker(0)
            assert last.greeting == "s2"
            waits = [group.connect_to_worker(worker) for worker in (1, 0)]  # for s2 alone
            assert not any(guest.is_greeted_within(0.05) for guest in waits)
            servers[0].open()
            said = group.wait_for("Server b/s1 is UP.*")
            assert re.search(
                r"2 active and 0 backup servers online. 2 sessions requeued, 0 total in queue", said
            )
            assert [guest.greeting for guest in waits] == ["s1", "s1"]
            assert len(group.lines("is DOWN")) == len(group.lines("is UP")) == 1
            servers[1].close()
            group.wait_for("Server b/s2 is DOWN")
            servers[1].open()


def test_connections_that_fail_count_over_both(tmp_path: Path) -> None:
    """Three in a row; the checks in between say that all is well, since they are made elsewhere."""
    with greeting_servers("s1", "s2", "well") as servers:
        well = servers[2].port
        text = configuration(
            *servers[:2],
            backend='observe = "connect"\nerror_limit = 3\nerror_clients = 1',
            server="max_sessions = 9",
        ).replace(
            'check = "none"',
            f'check = {{ type = "tcp", interval = "60s", rise = 1, fall = 1, port = {well} }}',
        )
        with WorkerGroup(text, tmp_path) as group:
            servers[0].close()
            while not group.lines("is DOWN"):
                for worker in (0, 1):  # the turn comes to s1 at each second one
                    guest = group.connect_to_worker(worker)
                    assert guest.greeting == "s2"
                    guest.sock.close()
            group.wait_for(
                r"Server b/s1 is DOWN, reason: Health analyze, info: .Detected 3 consecutive errors"
            )
            assert [group.connect_to_worker(worker).greeting for worker in (0, 1, 0, 1)] == ["s2"] * 4
            assert len(group.lines("is DOWN")) == 1
            servers[0].open()
