"""State that workers share: the queue, the stick table, and which servers are down."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.worker_group import LATE_S, Client, WorkerGroup, configuration, greeting_servers

pytestmark = pytest.mark.slow


def test_queue_is_fifo_over_both_workers(tmp_path: Path) -> None:
    """Clients queue at both workers. Slots become free one after another, and at last several at once."""
    with greeting_servers("s1") as servers:
        text = configuration(*servers, server="max_sessions = 2")
        with WorkerGroup(text, tmp_path) as group:
            connected = [group.connect_to_worker(worker) for worker in (0, 1)]
            assert [client.greeting for client in connected] == ["s1", "s1"]
            waiting: list[Client] = []
            for worker in (0, 1, 1, 0, 1, 0, 0, 1):
                waiting.append(group.connect_to_worker(worker))
                assert not waiting[-1].is_greeted_within(0.02)
            waits = []
            for _ in range(4):
                connected.pop(0).close()
                started_at = time.monotonic()
                assert waiting[0].greeting == "s1"
                waits.append(time.monotonic() - started_at)
                connected.append(waiting.pop(0))
                assert not any(client.is_greeted_within(0.01) for client in waiting)
            assert max(waits) < LATE_S
            for client in connected:
                client.close()
            assert [client.greeting for client in waiting[:2]] == ["s1", "s1"]
            assert not any(client.is_greeted_within(0.01) for client in waiting[2:])


def servers_at(group: WorkerGroup, worker: int, sources: Iterable[str]) -> dict[str, str]:
    """Return the server that each client gets at this worker."""
    return {source: group.connect_to_worker(worker, source).greeting for source in sources}


def test_stick_table_is_shared_by_workers(tmp_path: Path) -> None:
    """A worker that replaces another one knows the entries, too."""
    with (
        greeting_servers("s1", "s2", "s3") as servers,
        WorkerGroup(configuration(*servers, backend="stick = {}"), tmp_path) as group,
    ):
        for network in range(5):  # on a busy machine other clients get another try
            # Each client is at one worker first: two that see a new client at the same moment choose for themselves.
            sources = [f"127.0.{network}.{number}" for number in range(2, 14)]
            server_of = {source: group.connect(source).greeting for source in sources}
            assert len(set(server_of.values())) > 1
            time.sleep(0.1)  # the documented limit
            if all(server_of == servers_at(group, worker, sources) for worker in (0, 1)):
                break
        else:
            pytest.fail("the workers do not know each other's clients")
        group.kill_and_wait("worker 1")
        assert server_of == servers_at(group, 0, sources)
        group.kill_and_wait("control")
        group.wait_for("control .* was killed by SIGKILL")
        group.kill_and_wait("worker 2")
        assert server_of == servers_at(group, 1, sources)


CHECKED = 'check = { type = "tcp", interval = "100ms", rise = 1, fall = 1, jitter = 0 }'


def patient_environment(folder: Path) -> dict[str, str]:
    """Have the control process wait for workers that are late, for the numbers of sessions in its lines."""
    (folder / "sitecustomize.py").write_text(
        "from mailproxy.workers.control import publisher\npublisher._ACK_TIMEOUT_S = 20\n"
    )
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_server_goes_down_in_both_workers(tmp_path: Path) -> None:
    """It is logged once, with the numbers of both workers. With ``shutdown-sessions`` its sessions end.

    A new control process changes nothing.
    """
    with greeting_servers("s1", "s2") as servers:
        text = configuration(
            *servers, backend='on_marked_down = "shutdown-sessions"', server="max_sessions = 3"
        )
        text = text.replace('check = "none"', CHECKED)
        with WorkerGroup(text, tmp_path, env=patient_environment(tmp_path)) as group:
            server_of_client = {
                group.connect_to_server(name, worker): name for name in ("s1", "s2") for worker in (0, 1)
            }
            servers[0].close()
            message = group.wait_for("Server b/s1 is DOWN.*")
            assert re.search(
                r"1 active and 0 backup servers left. 2 sessions active, 0 requeued, 0 remaining", message
            )
            for client, server in server_of_client.items():
                assert client.is_closed() if server == "s1" else client.echoes()
            group.kill_and_wait("control")
            group.wait_for("control .* was killed by SIGKILL")
            last = group.connect_to_worker(0)
            assert last.greeting == "s2"
            queued = [group.connect_to_worker(worker) for worker in (1, 0)]  # only for s2
            assert not any(client.is_greeted_within(0.05) for client in queued)
            servers[0].open()
            message = group.wait_for("Server b/s1 is UP.*")
            assert re.search(
                r"2 active and 0 backup servers online. 2 sessions requeued, 0 total in queue", message
            )
            assert [client.greeting for client in queued] == ["s1", "s1"]
            assert len(group.lines("is DOWN")) == len(group.lines("is UP")) == 1
            servers[1].close()
            group.wait_for("Server b/s2 is DOWN")
            servers[1].open()


def test_connect_failures_count_over_both_workers(tmp_path: Path) -> None:
    """Three failures in a row. The checks in between pass, because they connect to another port."""
    with greeting_servers("s1", "s2", "well") as servers:
        check_port = servers[2].port
        text = configuration(
            *servers[:2],
            backend='observe = "connect"\nerror_limit = 3\nerror_clients = 1',
            server="max_sessions = 9",
        ).replace(
            'check = "none"',
            f'check = {{ type = "tcp", interval = "60s", rise = 1, fall = 1, port = {check_port} }}',
        )
        with WorkerGroup(text, tmp_path) as group:
            servers[0].close()
            while not group.lines("is DOWN"):
                for worker in (0, 1):  # every second session is for s1
                    client = group.connect_to_worker(worker)
                    assert client.greeting == "s2"
                    client.sock.close()
            group.wait_for(
                r"Server b/s1 is DOWN, reason: Health analyze, info: .Detected 3 consecutive errors"
            )
            assert [group.connect_to_worker(worker).greeting for worker in (0, 1, 0, 1)] == ["s2"] * 4
            assert len(group.lines("is DOWN")) == 1
            servers[0].open()
