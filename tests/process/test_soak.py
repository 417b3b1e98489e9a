"""One hundredth of each soak run: mixed bytes, many sessions, idle sessions, few descriptors."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import pytest

BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmark"
PROGRAMS = ("gcc", "openssl", "setpriv", "prlimit")


def missing_program() -> str:
    """Return what this machine lacks, or an empty string."""
    for program in PROGRAMS:
        if not shutil.which(program):
            return f"{program} is not installed"
    completed = subprocess.run(
        ["gcc", "-E", "-"], input=b"#include <openssl/ssl.h>\n", capture_output=True, check=False
    )
    return "libssl-dev is not installed" if completed.returncode else ""


MISSING = missing_program()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING}; scripts/test --peers installs it"),
]


@pytest.mark.parametrize("part", ["bytes", "sessions", "idle", "descriptors"])
def test_part_passes_at_one_hundredth(part: str, tmp_path: Path) -> None:
    graph = tmp_path / "soak.svg"
    completed = subprocess.run(
        [sys.executable, BENCHMARK / "soak.py", "--part", part, "--scale", "0.01", "--graph", graph],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.startswith(part)
    assert " passed: " in completed.stdout
    assert graph.exists() == (part == "sessions")


class CorruptingProxy:
    """A proxy for one session at a time that changes byte 1000 of each direction."""

    def __init__(self, server: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = server
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._server)) as server:
                pairs = ((client, server), (server, client))
                threads = [threading.Thread(target=self._relay, args=pair) for pair in pairs]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        position = 0
        with contextlib.suppress(OSError):  # the other end has detected the change and closed
            while data := bytearray(source.recv(65536)):
                if position <= 1000 < position + len(data):
                    data[1000 - position] ^= 1
                position += len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def test_changed_byte_is_detected(tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    sources = [BENCHMARK / "mixed.c", BENCHMARK / "wire.c"]
    subprocess.run(["gcc", "-O1", "-o", mixed, *sources, "-lssl", "-lcrypto", "-lm"], check=True)
    with subprocess.Popen(
        [mixed, "--bytes", "2000000", "--at-once", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        with CorruptingProxy(int(process.stdout.readline())) as proxy:
            _, errors = process.communicate(f"{proxy.port} {proxy.port}\n", timeout=60)
    assert process.returncode == 1
    assert "received other bytes than were sent" in errors
