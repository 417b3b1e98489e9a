"""What the systemd unit forbids is not needed."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.process.test_process import Echo
from tests.support.program import TIMEOUT_S, Program

DENY = [sys.executable, str(Path(__file__).parents[1] / "support" / "programs" / "deny_write_execute.py")]
IS_SUPPORTED = subprocess.run([*DENY, "/bin/true"], check=False).returncode == 0


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


@pytest.mark.skipif(not IS_SUPPORTED, reason="needs Linux 6.3")
def test_memory_can_be_denied_here() -> None:
    """Otherwise the test below shows nothing."""
    make = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
    result = subprocess.run([*DENY, sys.executable, "-c", make], capture_output=True, text=True, check=False)
    assert "PermissionError" in result.stderr


@pytest.mark.skipif(not IS_SUPPORTED, reason="needs Linux 6.3")
@pytest.mark.parametrize("workers", [1, 2])
def test_no_memory_is_writable_and_executable(
    echo: Echo, tmp_path: Path, throw_away_ca: ThrowAwayCA, workers: int
) -> None:
    """MemoryDenyWriteExecute=: also TLS with certificates of both sides, whose libraries are not Python's."""
    text = f"""
        [process]
        workers = {workers}
        state_file = "state"
        [admin]
        socket = "admin.sock"
        [frontends.imap]
        protocol = "imap"
        backend = "b"
        [frontends.imap.tls]
        certificates = ["{throw_away_ca.issue("localhost")}"]
        client_ca = "{throw_away_ca.pem}"
        client_crl = "{throw_away_ca.revoke()}"
        client_verify = "required"
        [[frontends.imap.bind]]
        address = "127.0.0.1:0"
        mode = "tls"
        [backends.b]
        check = "none"
        send_proxy = "none"
        servers = ["localhost:{echo.address.rpartition(":")[2]}"]
    """
    with Program(text, tmp_path, wrapper=DENY) as program:
        context = throw_away_ca.client_context(throw_away_ca.issue_client("alice"))
        sock = socket.create_connection(program.addresses[0], timeout=TIMEOUT_S)
        with context.wrap_socket(sock, server_hostname="localhost") as client:
            assert client.recv(100) == b"* OK\r\n"
        assert "Traceback" not in program.text
        assert "failed" not in program.text
