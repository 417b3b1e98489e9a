"""The program without threads, as process 1, and with a server whose name appears later."""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.process.test_process import Echo, configuration, connect_greeted
from tests.support.ports import free_port
from tests.support.program import TIMEOUT_S, Program

pytestmark = pytest.mark.slow

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode != 0,
    reason="needs to make namespaces",
)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def readable_folder() -> Iterator[Path]:
    """A folder that every user may read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, which is then given up: no limit of processes holds for root"
)
def test_sessions_are_served_without_threads(
    echo: Echo, readable_folder: Path, throw_away_ca: ThrowAwayCA
) -> None:
    """Log, look-ups and renewals follow when there are threads again."""
    port, tls_port = free_port(), free_port()
    file = throw_away_ca.issue("localhost").rename(readable_folder / "localhost.pem")
    file.chmod(0o644)
    text = configuration(echo, '[process]\nuser = "nobody"\ncertificate_interval = "100ms"\n').replace(
        "127.0.0.1:0", f"127.0.0.1:{port}"
    )
    name = f"localhost:{echo.address.rpartition(':')[2]}"
    text += f"""
[frontends.named]
backend = "named"
bind = [{{ address = "127.0.0.1:{tls_port}", mode = "tls" }}]
tls = {{ certificates = ["{file}"] }}
[backends.named]
servers = ["{name}"]
"""
    with Program(text, readable_folder, processes=1) as program:
        client = _connect(("127.0.0.1", port))
        assert client.recv(100) == b"* OK\r\n"
        time.sleep(1.0)  # several scans of the files
        client.sendall(b"still here\r\n")
        assert client.recv(100) == b"still here\r\n"
        assert "is ready" not in program.text
        hard_limit = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        # As the same user, because root in a container may not be allowed to.
        subprocess.run(
            [
                "prlimit",
                "--pid",
                str(program.process.pid),
                f"--nproc={hard_limit if hard_limit >= 0 else 'unlimited'}",
            ],
            check=True,
            user="nobody",
            group=pwd.getpwnam("nobody").pw_gid,
            extra_groups=[],
        )
        program.wait_for("is ready")
        program.wait_for("localhost is 127.0.0.1")
        program.wait_for("certificate watcher failed")
        throw_away_ca.issue("localhost").replace(file)
        file.chmod(0o644)
        program.wait_for(rf"taken up: localhost until .*{file}")
        context = throw_away_ca.client_context()
        sock = socket.create_connection(("127.0.0.1", tls_port), timeout=TIMEOUT_S)
        with context.wrap_socket(sock, server_hostname="localhost") as session:
            assert session.recv(100) == b"* OK\r\n"
        client.close()
        assert "Traceback" not in program.text
        assert program.process.poll() is None


def _connect(address: tuple[str, int]) -> socket.socket:
    end = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return socket.create_connection(address, timeout=TIMEOUT_S)
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.02)


@needs_namespaces
@pytest.mark.parametrize("workers", [1, 2])
def test_process_1_reaps_orphans(echo: Echo, tmp_path: Path, workers: int) -> None:
    """As in a container without an init process. ``docker exec`` leaves such processes."""
    orphan = 'for i in 1 2 3; do (sleep 1 &); done; exec "$@"'
    wrapper = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", orphan, "sh"]
    with Program(
        configuration(echo, f"[process]\nworkers = {workers}\n"), tmp_path, wrapper=wrapper
    ) as program:
        client = connect_greeted(program.addresses[0])
        (first,) = _children(program.process.pid)

        def orphans() -> list[int]:
            return [pid for pid in _children(first) if not _name(pid).startswith("mp ")]

        end = time.monotonic() + TIMEOUT_S
        while orphans() and time.monotonic() < end:
            time.sleep(0.05)
        assert orphans() == []
        client.sendall(b"still here\r\n")
        assert client.recv(100) == b"still here\r\n"
        client.close()


@needs_namespaces
@pytest.mark.parametrize("workers", [1, 2])
def test_process_1_follows_signals(echo: Echo, tmp_path: Path, workers: int) -> None:
    """The kernel gives process 1 only signals that it handles. ``docker stop`` sends SIGTERM to it."""
    wrapper = ["unshare", "--pid", "--fork", "--kill-child"]
    text = configuration(echo, f'[process]\nworkers = {workers}\n[log]\nto = "log"\n')
    log = tmp_path / "log"
    with Program(text, tmp_path, wrapper=wrapper) as program:
        program.wait_for("mailproxy is ready", where=log)
        (first,) = _children(program.process.pid)
        assert Path(f"/proc/{first}/status").read_text().partition("NSpid:")[2].split()[:2] == [
            str(first),
            "1",
        ]
        log.rename(tmp_path / "log.1")
        os.kill(first, signal.SIGUSR2)
        program.wait_for("the log was reopened", where=log)
        port = re.findall(r"listens on 127.0.0.1:(\d+)", (tmp_path / "log.1").read_text())[0]
        client = connect_greeted(("127.0.0.1", int(port)))
        os.kill(first, signal.SIGTERM)
        program.wait_for("open sessions .1. have 30s to end", where=log)
        client.sendall(b"still here\r\n")
        assert client.recv(100) == b"still here\r\n"
        os.kill(first, signal.SIGTERM)  # the second one stops now
        assert program.wait() == 0
        assert client.recv(100) == b""
        client.close()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@needs_namespaces
@pytest.mark.parametrize("workers", [1, 2])
def test_server_is_used_soon_after_name_appears(echo: Echo, tmp_path: Path, workers: int) -> None:
    """The default intervals alone are slower: a look-up after 30 s, and two checks of 10 s each."""
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost\n")
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    mounts = f'mount --bind {hosts} /etc/hosts && mount --bind {resolver} /etc/resolv.conf && exec "$@"'
    text = configuration(echo, f"[process]\nworkers = {workers}\n")
    text = text.replace(echo.address, f"late.internal:{echo.address.rpartition(':')[2]}")
    text = text.replace('check = "none"', "")
    with Program(text, tmp_path, wrapper=["unshare", "--mount", "sh", "-c", mounts, "sh"]) as program:
        program.wait_for("late.internal: ")
        (address,) = program.addresses
        program.wait_for("Server b/.* is DOWN")
        with hosts.open("a") as file:
            file.write("127.0.0.1 late.internal\n")
        started_at = time.monotonic()
        program.wait_for("late.internal is 127.0.0.1")
        program.wait_for("Server b/.* is UP")
        with socket.create_connection(address, timeout=TIMEOUT_S) as client:
            assert client.recv(100) == b"* OK\r\n"
        assert time.monotonic() - started_at < 10  # 4 s and a check, with time for a busy machine
