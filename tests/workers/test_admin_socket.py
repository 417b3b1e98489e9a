"""The admin socket of a proxy with two workers: sums over them, and wishes that outlive processes."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin_client import ask, stat, states
from tests.support.ports import free_port
from tests.support.program import TIMEOUT_S
from tests.support.worker_group import GreetingServer, WorkerGroup, configuration, wait_until

pytestmark = pytest.mark.slow


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
    # A worker that is late answers without the bytes of open sessions.
    figures = wait_until(lambda: row if (row := stat(path)["imap", "FRONTEND"])["bin"] == "24" else None)
    assert figures["scur"] == "2"
    # Two greetings and echoes, and the greetings of connections that another worker got.
    assert int(figures["bout"]) >= 32
    for client in clients:
        client.close()
    ended = wait_until(lambda: row if (row := stat(path)["imap", "FRONTEND"])["scur"] == "0" else None)
    assert (ended["bin"], ended["bout"]) == (figures["bin"], figures["bout"])
    rows = stat(path)
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


def test_check_port_outlives_control(servers: tuple[GreetingServer, ...], tmp_path: Path, path: Path) -> None:
    """The next control process checks there, too."""
    check = 'check = { type = "tcp", interval = "100ms", fall = 1, rise = 1 }'
    text = configuration(*servers, server=check, more=f'[admin]\nsocket = "{path}"')
    with WorkerGroup(text, tmp_path) as group:
        group.wait_for("mailproxy is ready")
        assert ask(path, f"set server b/s1 check-port {free_port()}") == "\n"
        group.wait_for("Server b/s1 is DOWN")
        group.kill_and_wait("control")
        rows = wait_until(lambda: _states_or_none(path))
        assert rows["b/s1"]["srv_check_port"] != "0"
        group.wait_for("control .* another one took its place")
        time.sleep(0.5)
        assert stat(path)["b", "s1"]["status"] == "DOWN"
        assert stat(path)["b", "s2"]["status"] == "UP"


def test_stopping_and_down_outlive_workers_and_control(group: WorkerGroup, path: Path) -> None:
    ask(path, "set server b/s1 health down")
    for name in ("worker 1", "control", "worker 2"):
        group.kill_and_wait(name)
        assert wait_until(lambda: _stat_or_none(path))["b", "s1"]["status"] == "DOWN"
    assert [group.connect_to_worker(worker).greeting for worker in (0, 1)] == ["s2", "s2"]
    ask(path, "set server b/s1 health up; set server b/s2 health stopping")
    for name in ("worker 1", "control", "worker 2"):
        group.kill_and_wait(name)
        rows = wait_until(lambda: _stat_or_none(path))
        assert (rows["b", "s1"]["status"], rows["b", "s2"]["status"]) == ("no check", "NOLB")
    assert [group.connect_to_worker(worker).greeting for worker in (0, 1)] == ["s1", "s1"]


def _states_or_none(path: Path) -> dict[str, dict[str, str]] | None:
    try:
        return states(path)
    except OSError:
        return None


def test_events_and_maxima_of_all_processes(group: WorkerGroup, path: Path) -> None:
    clients = [group.connect_to_worker(worker) for worker in (0, 1)]
    for client in clients:
        assert client.greeting
        client.close()
    wait_until(lambda: stat(path)["imap", "FRONTEND"]["scur"] == "0")
    assert stat(path)["imap", "FRONTEND"]["smax"] != "0"
    assert ask(path, "clear counters") == "\n"
    rows = stat(path)
    assert {row["smax"] for row in rows.values()} == {"0"}
    assert rows["b", "BACKEND"]["ttime_max"] == "0"
    assert ask(path, "set server b/s1 state maint") == "\n"
    group.wait_for("Server b/s1 is going DOWN for maintenance")
    lines = ask(path, "show events").strip().splitlines()
    assert "Server b/s1 is going DOWN for maintenance" in lines[-1]
    assert sum("mailproxy is ready" in line for line in lines) == 1
    dates = [line[:23] for line in lines]
    assert dates == sorted(dates)


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
    assert ask(path, "drain server b/s1 within 5s") == "\n"
    assert "server b/s1 left=2 " in ask(path, "show drain")
    assert all(client.is_closed() for client in clients)
    assert stat(path)["b", "s1"]["status"] == "DRAIN"
    wait_until(lambda: ask(path, "show drain") == "\n")


def test_socket_is_gone_after_the_end(group: WorkerGroup, path: Path) -> None:
    group.process.terminate()
    group.wait()
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


# Clients that mean no good, and the files of sockets: with workers, and in one process as a program.


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def program(
    request: pytest.FixtureRequest, servers: tuple[GreetingServer, GreetingServer], tmp_path: Path
) -> Iterator[WorkerGroup]:
    text = configuration(
        *servers, workers=request.param, more=f'[admin]\nsocket = "{tmp_path / "admin.sock"}"'
    )
    with WorkerGroup(text, tmp_path) as each:
        each.wait_for("mailproxy is ready")
        yield each


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT_S)
    client.connect(str(path))
    return client


def assert_unharmed(program: WorkerGroup, path: Path) -> None:
    assert ask(path, "show cli level") == "admin\n\n"
    client = program.connect()
    assert client.greeting in ("s1", "s2")
    assert "helper-failed" not in program.text
    assert "Traceback" not in program.text


def test_garbage_does_no_harm(program: WorkerGroup, path: Path) -> None:
    rng = random.Random(7)  # noqa: S311 - noise, and no secrets
    for length in (1, 10, 100, 1000, 10_000):
        noise = rng.randbytes(length)
        with connect(path) as client, suppress(OSError):
            client.sendall(noise)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    assert_unharmed(program, path)


def test_hundred_clients_at_once_are_served(program: WorkerGroup, path: Path) -> None:
    clients = [connect(path) for _ in range(100)]
    for client in clients:
        client.sendall(b"show info\n")
    for client in clients:
        with client, client.makefile("rb") as answer:
            assert b"Name: HAProxy" in answer.read()
    assert_unharmed(program, path)


def test_client_that_never_reads_does_no_harm(program: WorkerGroup, path: Path) -> None:
    with connect(path) as client:
        client.settimeout(1.0)
        with suppress(OSError):
            while True:
                client.sendall(b"show stat typed\n" * 500)
        assert_unharmed(program, path)


def test_gigabyte_without_line_end_does_no_harm(program: WorkerGroup, path: Path) -> None:
    sent, block = 0, b"a" * (1 << 20)
    with connect(path) as client, suppress(OSError):
        while sent < 1 << 30:
            client.sendall(block)
            sent += len(block)
    assert sent < 1 << 30
    assert_unharmed(program, path)


@pytest.mark.parametrize("workers", [1, 2])
def test_stale_socket_is_replaced_and_a_live_one_is_not(
    servers: tuple[GreetingServer, GreetingServer], tmp_path: Path, path: Path, workers: int
) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    text = configuration(*servers, workers=workers, more=f'[admin]\nsocket = "{path}"')
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with WorkerGroup(text, tmp_path / "first") as first:
        first.wait_for("mailproxy is ready")
        inode = path.stat().st_ino
        with WorkerGroup(text, tmp_path / "second") as second:
            assert second.wait() == 2
            assert f"cannot listen on {path}: Address already in use" in second.text
        assert path.stat().st_ino == inode
        assert ask(path, "show cli level") == "admin\n\n"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("mode", ["0666", "0662", "0777"])
def test_socket_that_every_user_may_write_is_refused_at_the_start(
    servers: tuple[GreetingServer, GreetingServer], tmp_path: Path, path: Path, workers: int, mode: str
) -> None:
    text = configuration(*servers, workers=workers, more=f'[admin]\nsocket = "{path}"\nmode = "{mode}"')
    with WorkerGroup(text, tmp_path) as program:
        assert program.wait() == 2
        assert "admin.mode" in program.text
    assert not path.exists()
