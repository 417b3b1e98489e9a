"""The admin socket of a proxy with two workers: sums over them, and wishes that outlive processes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin_client import TIMEOUT_S, ask, stat
from tests.support.worker_group import GreetingServer, WorkerGroup, configuration, wait_until


@pytest.fixture
def servers() -> Iterator[tuple[GreetingServer, GreetingServer]]:
    both = GreetingServer("s1"), GreetingServer("s2")
    yield both
    for server in both:
        server.close()


@pytest.fixture
def group(servers: tuple[GreetingServer, GreetingServer], tmp_path: Path) -> Iterator[WorkerGroup]:
    text = configuration(*servers, more=f'[admin]\nsocket = "{tmp_path / "admin.sock"}"')
    with WorkerGroup(text, tmp_path) as group:
        group.wait_for("mailproxy is ready")
        yield group


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


def test_figures_are_sums_over_all_workers(group: WorkerGroup, path: Path) -> None:
    clients = [group.connect_to_worker(worker) for worker in (0, 1)]
    for client in clients:
        assert client.greeting in ("s1", "s2")
        assert client.echoes()
    rows = stat(path)
    figures = rows["imap", "FRONTEND"]
    assert (figures["scur"], figures["bin"]) == ("2", "24")
    # Two greetings and echoes, and the greetings of connections that another worker got.
    assert int(figures["bout"]) >= 32
    for client in clients:
        client.close()
    ended = wait_until(lambda: row if (row := stat(path)["imap", "FRONTEND"])["scur"] == "0" else None)
    assert (ended["bin"], ended["bout"]) == (figures["bin"], figures["bout"])
    assert rows["b", "BACKEND"]["stot"] == str(int(rows["b", "s1"]["stot"]) + int(rows["b", "s2"]["stot"]))


def test_wishes_outlive_workers_and_control(group: WorkerGroup, path: Path) -> None:
    commands = "set server b/s1 state drain; set weight b/s2 7; set maxconn server b/s2 40; set maxconn frontend imap 90"
    ask(path, commands)
    for name in ("worker 1", "control", "worker 2"):
        group.kill_and_wait(name)
        rows = wait_until(lambda: _stat_or_none(path))
        assert rows["b", "s1"]["status"] == "DRAIN"
        assert (rows["b", "s2"]["weight"], rows["b", "s2"]["slim"]) == ("7", "40")
        assert rows["imap", "FRONTEND"]["slim"] == "90"
    for worker in (0, 1):
        assert group.connect_to_worker(worker).greeting == "s2"


def _stat_or_none(path: Path) -> dict[tuple[str, str], dict[str, str]] | None:
    try:
        return stat(path)
    except OSError:  # the next control process has not accepted yet
        return None


def test_paused_frontend_stays_paused_in_a_new_worker(group: WorkerGroup, path: Path) -> None:
    assert ask(path, "disable frontend imap") == "\n"
    with pytest.raises(ConnectionRefusedError):
        group.connect()
    group.kill_and_wait("worker 1")
    group.wait_for("worker 1 .* is replaced")
    with pytest.raises(ConnectionRefusedError):
        group.connect()
    assert ask(path, "enable frontend imap") == "\n"
    wait_until(lambda: _is_served(group))


def _is_served(group: WorkerGroup) -> bool:
    try:
        return group.connect_to_worker(0).greeting in ("s1", "s2")
    except OSError:
        return False


def test_session_is_listed_and_ended_in_its_worker(group: WorkerGroup, path: Path) -> None:
    clients = [group.connect_to_worker(worker) for worker in (0, 1)]
    for client in clients:
        assert client.greeting in ("s1", "s2")
    lines = ask(path, "show sess").strip().splitlines()
    ids = {line.split("src=")[1].split()[0]: line.partition(":")[0] for line in lines}
    for client in clients:
        host, port = client.sock.getsockname()
        assert ask(path, f"shutdown session {ids[f'{host}:{port}']}") == "\n"
        assert client.is_closed()
    assert ask(path, "shutdown session 0x1") == "No such session (use 'show sess').\n\n"


def test_sessions_of_a_server_end_in_all_workers(group: WorkerGroup, path: Path) -> None:
    clients = [group.connect_to_server("s1", worker) for worker in (0, 1)]
    other = group.connect_to_server("s2", 0)
    assert ask(path, "shutdown sessions server b/s1") == "\n"
    assert all(client.is_closed() for client in clients)
    assert other.echoes()


def test_drain_ends_sessions_within_its_time(group: WorkerGroup, path: Path) -> None:
    clients = [group.connect_to_server("s1", worker) for worker in (0, 1)]
    assert ask(path, "drain server b/s1 within 500ms") == "\n"
    assert "server b/s1 left=2 " in ask(path, "show drain")
    assert all(client.is_closed() for client in clients)
    assert stat(path)["b", "s1"]["status"] == "DRAIN"
    wait_until(lambda: ask(path, "show drain") == "\n")


def test_socket_is_gone_after_the_end(group: WorkerGroup, path: Path) -> None:
    group.process.terminate()
    group.process.wait(15)
    assert not path.exists()


def test_explain_reads_what_the_workers_share(
    servers: tuple[GreetingServer, GreetingServer], tmp_path: Path
) -> None:
    text = configuration(*servers, more=f'[admin]\nsocket = "{tmp_path / "admin.sock"}"')
    text = text.replace("roundrobin", "leastconn")
    limited = text.replace("[frontends.imap]", "[frontends.imap]\nmax_sessions_per_client = 2", 1)
    with WorkerGroup(limited, tmp_path) as group:
        group.wait_for("mailproxy is ready")
        question = f"explain client=127.0.0.1 port={group.addresses[0][1]} format=json"
        first = group.connect()
        greeted_by = first.greeting
        answer = json.loads(ask(tmp_path / "admin.sock", question))
        # The server without a session is next for balance leastconn, whatever worker has the other session.
        other = "s2" if greeted_by == "s1" else "s1"
        assert (answer["frontend"], answer["server"], answer["end"]) == ("imap", other, None)
        second = group.connect()
        answer = wait_until(
            lambda: found if (found := json.loads(ask(tmp_path / "admin.sock", question)))["end"] else None
        )
        assert (answer["server"], answer["end"]) == (None, "client-limit")
        first.close()
        second.close()


class Follower:
    """A client of ``tail`` in JSON."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(path))
        self.sock.sendall(b"tail format=json\n")
        self.lines = self.sock.makefile()

    def next(self, event: str) -> dict[str, Any]:
        for line in self.lines:
            value: dict[str, Any] = json.loads(line)
            if value["event"] == event:
                return value
        raise EOFError

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.sock.close()


def test_tail_follows_all_workers_and_new_ones(group: WorkerGroup, path: Path) -> None:
    with Follower(path) as follower:
        ask(path, "set server b/s1 weight 2; set server b/s1 state drain")
        assert follower.next("server-state")["server"] == "s1"
        for worker in (0, 1):
            group.connect_to_worker(worker).close()
            assert follower.next("session")["server"] == "s2"
        group.kill_and_wait("worker 1")
        assert follower.next("worker-died")["slot"] == 1
        wait_until(lambda: "worker 1" in group.children or None)
        ended = wait_until(lambda: _follow_session_of(group, follower))
        assert ended["frontend"] == "imap"


def _follow_session_of(group: WorkerGroup, follower: Follower) -> dict[str, Any]:
    group.connect_to_worker(0).close()
    return follower.next("session")


def test_followers_one_after_another_get_the_same(group: WorkerGroup, path: Path) -> None:
    with Follower(path) as follower:
        ask(path, "set server b/s1 state drain")
        follower.next("server-state")
    ask(path, "set server b/s2 weight 3")  # with no follower
    with Follower(path) as follower, Follower(path) as other:
        ask(path, "set server b/s1 state ready")
        group.connect().close()
        assert follower.next("session")["id"] == other.next("session")["id"]
