"""Several processes look like one to the operator: start, listening, log, signals and end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.test_odd_circumstances import needs_root
from tests.support.program import TIMEOUT_S
from tests.support.worker_group import (
    Client,
    WorkerGroup,
    configuration,
    greeting_servers,
    is_open,
    is_running,
    wait_until,
)

pytestmark = pytest.mark.slow


def assert_stopped(group: WorkerGroup) -> None:
    """Assert that all processes have ended without an unexpected message."""
    pids = list(group._seen_pids)
    assert group.wait() == 0
    assert not any(map(is_running, pids))
    assert len(group.lines("mailproxy has stopped")) == 1
    assert "died" not in group.text
    assert "Traceback" not in group.text


def test_sigterm_drains_and_ends(tmp_path: Path) -> None:
    """No connection is accepted, the Unix socket's path is removed, and open sessions have time to end."""
    path = tmp_path / "imap.sock"
    with greeting_servers("s1") as servers:
        text = configuration(*servers, drain_timeout="30s").replace(
            '"127.0.0.1:0" }', f'"127.0.0.1:0" }}, {{ address = "unix:{path}" }}'
        )
        with WorkerGroup(text, tmp_path) as group:
            clients = [group.connect_to_worker(worker) for worker in (0, 1)]
            assert [client.greeting for client in clients] == ["s1", "s1"]
            for _ in range(6):
                with socket.socket(socket.AF_UNIX) as local:
                    local.connect(str(path))
                    assert local.recv(100) == b"s1\r\n"
            group._seen_pids.update(group.children.values())
            group.send(signal.SIGTERM)
            group.wait_for(r"no more connections are accepted, open sessions .\d. have 30s to end")
            wait_until(lambda: not is_open(group.addresses[0]))
            wait_until(lambda: not path.exists())
            for client in clients:
                assert client.echoes()
                client.close()
            assert_stopped(group)


@pytest.mark.parametrize("variant", ["TERM twice", "the terminal's ^C"])
def test_second_signal_or_sigint_stops_now(tmp_path: Path, variant: str) -> None:
    with greeting_servers("s1") as servers:
        text = configuration(*servers, drain_timeout="30s")
        with WorkerGroup(text, tmp_path, start_new_session=True) as group:
            clients = [group.connect_to_worker(worker) for worker in (0, 1)]
            assert [client.greeting for client in clients] == ["s1", "s1"]
            group._seen_pids.update(group.children.values())
            if variant == "TERM twice":
                group.send(signal.SIGTERM)
                group.wait_for("no more connections are accepted")
                assert all(client.echoes() for client in clients)
                group.send(signal.SIGTERM)
            else:
                os.killpg(group.process.pid, signal.SIGINT)
            assert all(client.is_closed() for client in clients)
            group.wait_for("stopping now, 2 sessions are closed")
            assert_stopped(group)
            assert len(group.lines(" K- ")) == 2


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_every_process_reopens_log(tmp_path: Path, number: signal.Signals) -> None:
    """After the message that the log was reopened, nothing is written to the old file."""
    log, old = tmp_path / "proxy.log", tmp_path / "proxy.log.1"
    with greeting_servers("s1") as servers:
        text = configuration(*servers, more=f'[log]\nformat = "tcplog"\nto = "{log}"')
        with WorkerGroup(text, tmp_path) as group:
            group.output = log
            clients = [group.connect_to_worker(worker) for worker in (0, 1)]
            assert [client.greeting for client in clients] == ["s1", "s1"]
            log.rename(old)
            group.send(number)
            wait_until(log.exists)
            group.wait_for("the log was reopened")
            before = old.read_text()
            for client in clients:
                port = client.sock.getsockname()[1]
                client.close()
                group.wait_for(f"127.0.0.1:{port} .* imap b/s1 ")
            assert len(group.lines("reopened")) == 1
            assert old.read_text() == before


def test_process_started_after_rotation_writes_new_file(tmp_path: Path) -> None:
    log, old = tmp_path / "proxy.log", tmp_path / "proxy.log.1"
    with greeting_servers("s1") as servers:
        text = configuration(*servers, more=f'[log]\nformat = "tcplog"\nto = "{log}"')
        with WorkerGroup(text, tmp_path) as group:
            group.output = log
            group.wait_for("mailproxy is ready")
            addresses = group.addresses
            log.rename(old)
            group.send(signal.SIGUSR2)
            wait_until(log.exists)
            group.wait_for("the log was reopened")
            before = old.read_text()
            group.kill_and_wait("control")
            group.wait_for("control .* was killed by SIGKILL")
            group.kill_and_wait("worker 1")
            group.wait_for("worker 1 .* was killed by SIGKILL")
            for _ in range(12):  # the chance that all go to one worker is 1 in 2048
                client = Client(addresses[0])
                assert client.greeting == "s1"
                port = client.sock.getsockname()[1]
                client.close()
                group.wait_for(f"127.0.0.1:{port} .* imap b/s1 ")
            assert len(group.lines("reopened")) == 1
            assert old.read_text() == before


def test_lines_through_pipe_are_complete(tmp_path: Path) -> None:
    """The pipe is full again and again while both workers write."""
    with greeting_servers("s1") as servers:
        file, reader, writer = tmp_path / "mailproxy.toml", *os.pipe()
        file.write_text(configuration(*servers, more='[log]\nformat = "json"'))
        process = subprocess.Popen([sys.executable, "-m", "mailproxy", "run", str(file)], stderr=writer)
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            try:
                data = pipe.read(4096)
                while b"mailproxy is ready" not in data:
                    data += pipe.read(4096)
                (port,) = map(int, re.findall(rb'"address":"127.0.0.1:(\d+)"', data))
                for _ in range(300):  # of some 450 bytes: twice what a pipe holds
                    client = Client(("127.0.0.1", port))
                    assert client.greeting == "s1"
                    client.close()
                while data.count(b'"event":"session"') < 300:  # at its end it waits 2 s for a reader
                    data += pipe.read(1000)
                process.send_signal(signal.SIGTERM)
                data += b"".join(iter(lambda: pipe.read(1000), b""))
                assert process.wait(TIMEOUT_S) == 0
            finally:
                process.kill()
                process.wait()
        lines = data.decode().splitlines()
        assert [line for line in lines if not re.fullmatch(r'\{"time":".*\}', line)] == []
        assert sum('"event":"session"' in line for line in lines) == 300


def test_port_of_other_program_is_detected(tmp_path: Path) -> None:
    """Even a program of the same user that sets SO_REUSEPORT."""
    with socket.socket() as other, greeting_servers("s1") as servers:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        name = f"127.0.0.1:{other.getsockname()[1]}"
        with WorkerGroup(configuration(*servers).replace("127.0.0.1:0", name), tmp_path) as group:
            assert group.wait() == 2
            assert group.text.startswith(f"{group.file}:")
            assert group.text.strip().endswith(
                f": frontends.imap.bind[0]: cannot listen on {name}: Address already in use"
            )


@needs_root
def test_all_processes_give_up_root(tmp_path: Path) -> None:
    """Also processes that are started later."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(configuration(*servers, user="nobody"), tmp_path) as group,
    ):
        assert group.connect().greeting == "s1"
        names = {"control", "worker 1", "worker 2"}
        wait_until(lambda: set(group.children) == names)  # as without a change of user
        before = group.pids
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: set(group.children) == names and not set(group.pids) & set(before))
        assert group.connect().greeting == "s1"
        for pid in (group.process.pid, *group.pids):
            assert "\nUid:\t65534\t65534\t65534\t65534\n" in Path(f"/proc/{pid}/status").read_text()
        group.send(signal.SIGTERM)
        assert group.wait() == 0


def test_signal_to_child_alone_has_no_effect(tmp_path: Path) -> None:
    with greeting_servers("s1") as servers, WorkerGroup(configuration(*servers), tmp_path) as group:
        clients = [group.connect_to_worker(worker) for worker in (0, 1)]
        assert [client.greeting for client in clients] == ["s1", "s1"]
        before = group.children
        for pid in before.values():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(pid, number)
        group.send(signal.SIGUSR1)
        group.wait_for("SIGUSR1 means nothing here")
        assert group.children == before
        assert all(client.echoes() for client in clients)
