"""Reload with one process and with two workers: what stays, what the operator gets to know."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.support.admin_client import ask, stat, states
from tests.support.ports import are_listening
from tests.support.worker_group import (
    Client,
    GreetingServer,
    WorkerGroup,
    configuration,
    greeting_servers,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def servers() -> Iterator[list[GreetingServer]]:
    with greeting_servers("a", "b", "c") as three:
        yield three


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def make_text(folder: Path, *servers: GreetingServer, more: str = "", **keys: object) -> str:
    return configuration(*servers, more=f'[admin]\nsocket = "{folder}/admin"\n{more}', **keys)  # type: ignore[arg-type]


def ctl(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mailproxy", "ctl", "-s", str(folder / "admin"), *command],
        capture_output=True,
        text=True,
        check=False,
    )


def reload(group: WorkerGroup, text: str) -> str:
    group.edit(text)
    answer = ask(group.file.parent / "admin", "reload")
    assert "reloaded in" in answer, answer
    return answer


def test_faulty_file_changes_nothing(servers: list[GreetingServer], tmp_path: Path, workers: int) -> None:
    text = make_text(tmp_path, *servers[:1], workers=workers)
    with WorkerGroup(text, tmp_path) as group:
        client = group.connect()
        assert client.greeting == "a"
        group.edit(
            text.replace('balance = "roundrobin"', 'balance = "robin"').replace(
                'protocol = "tcp"', "protocl = 1"
            )
        )
        answer = ctl(tmp_path, "reload")
        assert answer.returncode == 1
        for fault in ("backends.b.balance", "frontends.imap.protocl"):
            assert re.search(rf"mailproxy.toml:\d+:\d+: {fault}", answer.stdout + answer.stderr)
            assert fault in group.wait_for("reload failed, .*")
        taken = servers[1].port
        group.edit(
            text
            + f'[frontends.more]\nprotocol = "tcp"\nbackend = "b"\nbind = ["127.0.0.1:{taken}", "192.0.2.1:25143"]\n'
        )
        answer = ctl(tmp_path, "reload")
        assert answer.returncode == 1
        assert f"cannot listen on 127.0.0.1:{taken}: Address already in use" in answer.stderr
        assert "cannot listen on 192.0.2.1:25143: Cannot assign requested address" in answer.stderr
        assert group.connect().greeting == "a"
        assert client.echoes()
        group.edit(make_text(tmp_path, servers[1], workers=workers))
        answer = ctl(tmp_path, "reload")
        assert answer.returncode == 0
        assert (
            f"+ server b/b 127.0.0.1:{servers[1].port}\n- " not in answer.stdout
        )  # what is gone comes first
        assert f"- server b/a 127.0.0.1:{servers[0].port}\n" in answer.stdout
        assert group.connect().greeting == "b"
        report = ask(tmp_path / "admin", "show reload")
        assert re.search(r"^last: \S+ by admin socket, made$", report, re.MULTILINE)
        assert "made: 1\nfailed: 2\n" in report
        assert report.count("generation 2") == (1 if workers == 1 else 3)
        group.send(signal.SIGHUP)
        wait_until(lambda: "by SIGHUP, made" in ask(tmp_path / "admin", "show reload"))


def test_settings_of_the_operator_stay(servers: list[GreetingServer], tmp_path: Path, workers: int) -> None:
    """Until the file's own value changes. A paused frontend stays paused, and its socket does not listen."""
    more = '[frontends.other]\nprotocol = "tcp"\nbackend = "b"\nbind = ["127.0.0.2:0"]\n'
    keys = {"workers": workers, "max_sessions": 100}
    text = make_text(tmp_path, *servers, more=more, **keys)
    admin = tmp_path / "admin"
    with WorkerGroup(text, tmp_path) as group:
        paused = group.addresses[1]
        for command in (
            "disable frontend other", "set maxconn global 50", "set maxconn frontend imap 40",
            "set maxconn server b/a 30", "set weight b/a 7", "set server b/b state drain",
            "set server b/c state maint",
        ):  # fmt: skip
            assert ask(admin, command) == "\n", command
        reload(group, text.replace('"roundrobin"', '"leastconn"'))
        for worker in (1, 2):
            with pytest.raises(ConnectionRefusedError):
                group.connect(bind=1)
            figures, state = stat(admin), states(admin)
            assert figures["other", "FRONTEND"]["status"] == "PAUSED"
            assert figures["imap", "FRONTEND"]["slim"] == "40"
            assert (figures["b", "a"]["slim"], state["b/a"]["srv_uweight"]) == ("30", "7")
            assert state["b/b"]["srv_admin_state"] == "8"
            assert int(state["b/c"]["srv_admin_state"]) & 1
            assert "Maxconn: 50\n" in ask(admin, "show info")
            assert {group.connect().greeting for _ in range(6)} == {"a"}
            if workers == 1:
                break
            # Neither its replacement accepts there, nor a third worker.
            group.kill_and_wait(f"worker {worker}")
            reload(group, text.replace("workers = 2", f"workers = {worker + 2}"))
        assert not are_listening([paused])
        changed = text.replace("max_sessions = 100", "max_sessions = 200").replace(
            f'127.0.0.1:{servers[0].port}"', f'127.0.0.1:{servers[0].port}", weight = 3'
        )
        reload(group, changed)
        assert states(admin)["b/a"]["srv_uweight"] == "3"
        assert "Maxconn: 200\n" in ask(admin, "show info")
        assert stat(admin)["b", "a"]["slim"] == "30"
        assert ask(admin, "enable frontend other") == "\n"
        assert group.connect(bind=1).greeting == "a"


def test_counters_carry_over_by_name(servers: list[GreetingServer], tmp_path: Path, workers: int) -> None:
    text = make_text(tmp_path, *servers[:2], workers=workers)
    admin = tmp_path / "admin"
    with WorkerGroup(text, tmp_path) as group:
        for _ in range(6):
            client = group.connect()
            client.greeting  # noqa: B018 - it is read
            client.close()
        wait_until(lambda: stat(admin)["imap", "FRONTEND"]["stot"] == "6")
        before = {name: int(stat(admin)["b", name]["stot"]) for name in ("a", "b")}
        assert sum(before.values()) == 6
        moved = text.replace(str(servers[1].port), str(servers[2].port))
        reload(group, moved.replace("[frontends.imap]", "[frontends.imap]\nmax_sessions = 9"))
        figures = stat(admin)
        assert figures["imap", "FRONTEND"]["stot"] == "6"
        assert figures["b", "BACKEND"]["stot"] == "6"
        assert {name: int(figures["b", name]["stot"]) for name in before} == before
        for _ in range(4):
            group.connect().greeting  # noqa: B018 - it is read
        wait_until(lambda: stat(admin)["b", "BACKEND"]["scur"] == "4")
        figures = stat(admin)
        assert int(figures["b", "a"]["stot"]) + int(figures["b", "b"]["stot"]) == 10
        assert all(int(figures["b", name]["stot"]) >= number for name, number in before.items())
        reload(group, text.replace('name = "b"', 'name = "d"'))
        assert ("b", "b") not in stat(admin)
        assert stat(admin)["b", "d"]["stot"] == "0"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_key_that_the_new_user_cannot_read_is_a_fault(
    servers: list[GreetingServer], workers: int, throw_away_ca: ThrowAwayCA
) -> None:
    with TemporaryDirectory() as name:  # which that user may enter
        folder = Path(name)
        folder.chmod(0o755)
        first = throw_away_ca.issue("127.0.0.1", folder=folder)
        first.chmod(0o644)
        text = make_text(folder, servers[0], workers=workers, user="nobody").replace(
            'address = "127.0.0.1:0"',
            f'address = "127.0.0.1:0", mode = "tls", tls.certificates = ["{first}"]',
        )
        with WorkerGroup(text, folder) as group:
            address = group.addresses[0]
            secret = folder / "secret.pem"
            secret.write_bytes(first.read_bytes())
            secret.chmod(0o600)
            group.edit(text.replace(str(first), str(secret)))
            group.file.chmod(0o644)
            answer = ctl(folder, "reload")
            assert answer.returncode == 1
            assert f"{secret}: Permission denied" in answer.stderr
            with (
                socket.create_connection(address) as sock,
                throw_away_ca.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as client,
            ):
                assert client.recv(10) == b"a\r\n"


def test_spent_room_is_a_fault(servers: list[GreetingServer], tmp_path: Path) -> None:
    """Each address of a server takes room in the shared memory."""
    text = make_text(tmp_path, servers[0])
    with WorkerGroup(text, tmp_path) as group:
        assert group.connect().greeting == "a"
        for number in (1, 2):
            entries = "".join(
                f'[[backends.b.servers]]\nname = "s{index}"\naddress = "192.0.2.{number}:{index}"\nstate = "maint"\n'
                for index in range(1, 901)
            )
            group.edit(re.sub(r"(?m)^servers = .*", "", text).replace("[admin]", f"{entries}[admin]"))
            answer = ctl(tmp_path, "reload")
            assert answer.returncode == number - 1, answer.stdout + answer.stderr
            fault = "has no room for more frontends, backends or servers: this needs a restart"
            assert (fault in answer.stderr) == (number == 2)
        assert "made: 1\nfailed: 1\n" in ask(tmp_path / "admin", "show reload")
        assert reload(group, text)
        assert group.connect().greeting == "a"


def test_too_many_workers_are_a_fault_of_their_key(servers: list[GreetingServer], tmp_path: Path) -> None:
    text = make_text(tmp_path, servers[0])
    with WorkerGroup(text, tmp_path) as group:
        assert group.connect().greeting == "a"
        group.edit(text.replace("workers = 2", "workers = 9"))
        answer = ctl(tmp_path, "reload")
    line = text[: text.index("workers = 2")].count("\n") + 1
    assert f":{line}:1: process.workers: more than 8 workers need a restart" in answer.stderr


def test_limit_is_exact_over_reloads(servers: list[GreetingServer], tmp_path: Path) -> None:
    """Sessions of all workers, before and after the reload, count together."""
    text = make_text(tmp_path, servers[0], server="max_sessions = 4", backend='timeouts = { queue = "30s" }')
    with WorkerGroup(text, tmp_path) as group:
        first = [group.connect_to_worker(number % 2) for number in range(3)]
        assert [client.greeting for client in first] == ["a"] * 3
        reload(group, text.replace('"roundrobin"', '"leastconn"').replace("workers = 2", "workers = 3"))
        assert group.connect().greeting == "a"
        waiting = group.connect()
        assert not waiting.is_greeted_within(0.3)
        first[0].close()
        assert waiting.greeting == "a"


def test_limit_per_client_can_be_added(servers: list[GreetingServer], tmp_path: Path) -> None:
    """Clients count when they send their PROXY header, so connections that miss a worker do not."""
    bind = 'address = "127.0.0.1:0"'
    text = make_text(tmp_path, servers[0]).replace(bind, f'{bind}, accept_proxy = ["127.0.0.0/8"]')
    with WorkerGroup(text, tmp_path) as group:
        group.wait_for("is ready")
        limited = text.replace("[frontends.imap]", "[frontends.imap]\nmax_sessions_per_client = 2")
        reload(group, limited)
        clients = [group.connect_to_worker(number) for number in (0, 1)]
        assert [announced(client).greeting for client in clients] == ["a", "a"]
        assert announced(group.connect()).is_closed()
        reload(group, limited.replace("client = 2", "client = 3"))
        assert announced(group.connect()).greeting == "a"
        assert announced(group.connect()).is_closed()


def announced(client: Client) -> Client:
    """Send the PROXY header of one and the same client."""
    client.sock.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 993\r\n")
    return client


def test_removed_server_is_drained_in_all_workers(servers: list[GreetingServer], tmp_path: Path) -> None:
    text = make_text(tmp_path, servers[0], drain_timeout="500ms")
    with WorkerGroup(text, tmp_path) as group:
        clients = [group.connect_to_worker(number) for number in (0, 1)]
        assert [client.greeting for client in clients] == ["a", "a"]
        reload(group, make_text(tmp_path, servers[1], drain_timeout="500ms"))
        assert group.connect().greeting == "b"
        assert all(client.is_closed() for client in clients)


def test_worker_that_cannot_follow_is_replaced(servers: list[GreetingServer], tmp_path: Path) -> None:
    """It has no descriptors for the new sockets; the next one begins with the new configuration."""
    text = make_text(tmp_path, servers[0])
    with WorkerGroup(text, tmp_path) as group:
        assert group.connect().greeting == "a"
        pid = group.children["worker 1"]
        subprocess.run(["prlimit", f"--pid={pid}", "--nofile=5"], check=True)
        reload(group, make_text(tmp_path, servers[1]))
        wait_until(lambda: group.children.get("worker 1", pid) != pid)
        wait_until(lambda: {group.connect().greeting for _ in range(8)} == {"b"})
        group.wait_for("worker-died|worker 1 .*exit code 1")


def test_supervisor_without_descriptors_goes_on(servers: list[GreetingServer], tmp_path: Path) -> None:
    text = make_text(tmp_path, servers[0])
    with WorkerGroup(text, tmp_path) as group:
        client = group.connect()
        assert client.greeting == "a"
        pid, control = group.process.pid, group.children["control"]
        subprocess.run(["prlimit", f"--pid={pid}", "--nofile=5:9999"], check=True)
        group.edit(make_text(tmp_path, servers[1]))
        ask(tmp_path / "admin", "reload")
        wait_until(lambda: "control" not in group.children or group.children["control"] != control)
        assert client.echoes()
        assert group.connect().greeting == "a"
        subprocess.run(["prlimit", f"--pid={pid}", "--nofile=9999:9999"], check=True)
        wait_until(lambda: group.children.get("control", control) != control)
        reload(group, group.file.read_text())
        assert group.connect().greeting == "b"
        assert client.echoes() or client.is_closed()


def test_log_targets_change_in_all_processes(servers: list[GreetingServer], tmp_path: Path) -> None:
    text = make_text(tmp_path, servers[0])
    log = tmp_path / "other.log"
    with WorkerGroup(text, tmp_path) as group:
        address = group.addresses[0]
        reload(group, text.replace('format = "tcplog"', f'format = "tcplog"\nto = "{log}"'))
        for number in (0, 1):
            client = group.connect_to_worker(number)
            client.greeting  # noqa: B018 - it is read
            client.close()
        wait_until(lambda: log.exists() and log.read_text().count("imap b/a") >= 2)
        assert address == group.addresses[0]
        os.kill(group.children["worker 1"], signal.SIGKILL)
        wait_until(lambda: "was killed by SIGKILL" in log.read_text())


def test_signals_in_a_row_are_all_answered(servers: list[GreetingServer], tmp_path: Path) -> None:
    text = make_text(tmp_path, servers[0])
    with WorkerGroup(text, tmp_path) as group:
        assert group.connect().greeting == "a"
        for number in range(10):
            group.edit(text.replace('"300ms"', f'"{number + 1}s"'))
            group.send(signal.SIGHUP)
            time.sleep(0.02)
        group.wait_for("drain_timeout: .* -> 10s")
        assert group.connect().greeting == "a"
        assert not group.lines("failed|died")
