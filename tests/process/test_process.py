"""The program as an operator sees it: signals, exit codes, log files, descriptors."""

from __future__ import annotations

import fcntl
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.support.ports import free_port
from tests.support.program import Program

FRONTEND = """
[frontends.imap]
protocol = "tcp"
backend = "b"
[[frontends.imap.bind]]
address = "127.0.0.1:0"
"""


class Echo(threading.Thread):
    """A server that greets and echoes, on every connection."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.closing = False

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve_connection, args=(connection,), daemon=True).start()

    @staticmethod
    def serve_connection(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"* OK\r\n")
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                pass

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.join()  # before the descriptor is another socket's
        self.listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


def configuration(echo: Echo, more: str = "") -> str:
    return f'{more}\n{FRONTEND}\n[backends.b]\nservers = ["{echo.address}"]\ncheck = "none"\n'


def connect_greeted(address: tuple[str, int]) -> socket.socket:
    client = socket.create_connection(address, timeout=10)
    assert client.recv(100) == b"* OK\r\n"
    return client


def test_sigterm_drains_and_ends(echo: Echo, tmp_path: Path) -> None:
    with Program(configuration(echo), tmp_path) as program:
        client = connect_greeted(program.addresses[0])
        program.send(signal.SIGTERM)
        program.wait_for("no more connections are accepted, open sessions .1. have 30s to end")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(program.addresses[0], timeout=10)
        client.sendall(b"still here\r\n")
        assert client.recv(100) == b"still here\r\n"
        client.close()
        assert program.wait() == 0
        assert "client-closed" in program.text
        assert "Traceback" not in program.text


@pytest.mark.parametrize(
    "numbers", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGINT]]
)
def test_second_signal_or_sigint_stops_now(echo: Echo, tmp_path: Path, numbers: list[signal.Signals]) -> None:
    with Program(configuration(echo), tmp_path) as program:
        client = connect_greeted(program.addresses[0])
        *first, last = numbers
        for number in first:
            program.send(number)
            program.wait_for("no more connections are accepted")
        program.send(last)
        assert client.recv(100) == b""
        client.close()
        assert program.wait() == 0
        assert " stopped after" in program.text
        assert "Traceback" not in program.text


def test_drain_timeout_ends_sessions(echo: Echo, tmp_path: Path) -> None:
    text = configuration(echo, '[process]\ndrain_timeout = "200ms"\n[log]\nformat = "tcplog"')
    with Program(text, tmp_path) as program:
        client = connect_greeted(program.addresses[0])
        program.send(signal.SIGTERM)
        assert client.recv(100) == b""
        client.close()
        assert program.wait() == 0
        assert " 6 K- 1/1/0/0/0 0/0" in program.text


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_log_file_is_reopened(echo: Echo, tmp_path: Path, number: signal.Signals) -> None:
    log, old = tmp_path / "proxy.log", tmp_path / "proxy.log.1"
    with Program(configuration(echo, f'[log]\nto = "{log.name}"'), tmp_path) as program:
        program.wait_for("mailproxy is ready", where=log)
        port = int(program.wait_for(r"127.0.0.1:(\d+)", where=log).rpartition(":")[2])
        log.rename(old)
        connect_greeted(("127.0.0.1", port)).close()
        program.send(number)
        program.wait_for("the log was reopened", where=log)
        client = connect_greeted(("127.0.0.1", port))
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        client.close()
        program.wait_for("client-closed", where=log)
        assert log.stat().st_mode & 0o007 == 0, "other users must not read client addresses"
        assert program.text == ""


def test_sighup_reloads_certificates(echo: Echo, tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    file = throw_away_ca.issue("localhost")
    text = configuration(echo, f"""
[process]
certificate_interval = "1h"
[frontends.tls]
protocol = "tcp"
backend = "b"
tls = {{ certificates = ["{file}"] }}
bind = [{{ address = "127.0.0.1:0", mode = "tls" }}]
""")  # fmt: skip
    with Program(text, tmp_path) as program:
        address = program.addresses[0]
        before = ssl.get_server_certificate(address, ca_certs=str(throw_away_ca.pem))
        throw_away_ca.issue("localhost").replace(file)
        program.send(signal.SIGHUP)
        program.wait_for(rf"taken up: \S+ until \d{{4}}-\d\d-\d\d \({file}\)")
        assert ssl.get_server_certificate(address, ca_certs=str(throw_away_ca.pem)) != before


def test_faulty_configuration_is_reported(tmp_path: Path) -> None:
    with Program('[process]\nworkers = "many"\n[frontend.x]\n', tmp_path) as program:
        assert program.wait() == 2
        lines = program.text.splitlines()
    assert lines == [
        f"{program.file}:1:1: frontends: has no frontend: at least one is needed",
        f'{program.file}:2:1: process.workers: "many" is not allowed: a whole number from 1, or "auto"',
        f"{program.file}:3:2: frontend: unknown key, did you mean frontends?",
    ]
    assert "Traceback" not in program.text


def test_address_in_use_is_reported(echo: Echo, tmp_path: Path) -> None:
    text = configuration(echo).replace(echo.address, "192.0.2.1:143").replace("127.0.0.1:0", echo.address)
    with Program(text, tmp_path) as program:
        assert program.wait() == 2
        assert program.text.startswith(f"{program.file}:")
        assert program.text.strip().endswith(
            f": frontends.imap.bind[0]: cannot listen on {echo.address}: Address already in use"
        )


def test_accepting_pauses_without_descriptors(echo: Echo, tmp_path: Path) -> None:
    """Accepting pauses and resumes, existing sessions continue, and each change is logged once."""
    text = configuration(echo, "[process]\nmax_sessions = 1000")
    with Program(text, tmp_path, descriptors=40) as program:
        address = program.addresses[0]
        first = connect_greeted(address)
        crowd = [socket.create_connection(address, timeout=10) for _ in range(40)]
        program.wait_for("frontend imap cannot accept: Too many open files")
        first.sendall(b"a NOOP\r\n")
        assert first.recv(100) == b"a NOOP\r\n"
        for client in crowd:
            client.close()
        while "frontend imap accepts again" not in program.text:  # logged after two seconds without an error
            with socket.create_connection(address, timeout=10) as client:
                client.recv(100)
            time.sleep(0.05)
        first.sendall(b"b NOOP\r\n")
        assert first.recv(100) == b"b NOOP\r\n"
        first.close()
        assert program.text.count("cannot accept") == 1
        assert "Traceback" not in program.text


def test_full_stderr_pipe_does_not_stop_sessions(echo: Echo, tmp_path: Path) -> None:
    """A full pipe stops only the log."""
    file = tmp_path / "mailproxy.toml"
    port = free_port()
    file.write_text(
        configuration(echo, '[log]\nformat = "json"')
        .replace("127.0.0.1:0", f"127.0.0.1:{port}")
        .replace('backend = "b"', 'backend = "b"\nlog_null = true')
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "mailproxy", "run", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        while b"ready" not in process.stderr.readline():
            pass
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        for _ in range(40):  # lines of 500 bytes are more than the pipe holds
            connect_greeted(("127.0.0.1", port)).close()
        client = connect_greeted(("127.0.0.1", port))
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        client.close()
        process.send_signal(signal.SIGTERM)
        process.wait(15)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]


def test_version_and_help() -> None:
    for argument, words in {"--version": "mailproxy 0.1.0", "--help": "check", "-h": "run"}.items():
        completed = subprocess.run(
            [sys.executable, "-m", "mailproxy", argument], capture_output=True, text=True
        )
        assert completed.returncode == 0
        assert words in completed.stdout
    completed = subprocess.run([sys.executable, "-m", "mailproxy", "fly"], capture_output=True, text=True)
    assert completed.returncode == 2
    assert "Traceback" not in completed.stderr
