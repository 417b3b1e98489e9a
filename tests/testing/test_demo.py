"""The demo: its printed commands work when pasted, and it leaves no files behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.http_client import request
from tests.support.ports import first_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = [sys.executable, "-m", "mailproxy", "demo"]
LIMIT_S = 60


class Demo:
    """A running demo; ``output`` is what it printed at the start."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*DEMO, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        self._timeout = threading.Timer(LIMIT_S, self.process.kill)
        self._timeout.start()
        self.output = self._read_output()

    def _read_output(self) -> str:
        assert self.process.stdout
        output = ""
        for line in self.process.stdout:
            output += line
            if "Ctrl-C stops" in line:
                break
        return output

    def line(self, start: str) -> str:
        """Return the first printed line that begins with ``start``."""
        return next(line.strip() for line in self.output.splitlines() if line.strip().startswith(start))

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal, and return the exit code and the text on stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, errors

    def close(self) -> None:
        self._timeout.cancel()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return an empty folder with a short path. A socket's path has at most 107 bytes."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def demo(folder: Path) -> Iterator[Demo]:
    demo = Demo(folder, "--port-base", str(first_free_port(3)))  # other tests may run a demo at the same time
    yield demo
    demo.close()


def paste(line: str, input_text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], input=input_text, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(not which("curl"), reason="curl is not installed")
def test_printed_curl_commands_work(demo: Demo) -> None:
    lines = [line.strip() for line in demo.output.splitlines() if line.startswith("  curl ")]
    assert len(lines) == 3
    message, mailboxes, clear = (paste(line) for line in lines)
    assert [message.returncode, mailboxes.returncode, clear.returncode] == [0, 0, 0]
    assert "Subject: Message 1 came through the proxy" in message.stdout
    assert mailboxes.stdout.splitlines() == ['* LIST () "/" "INBOX"']
    assert "Subject: Message 2 came through the proxy" in clear.stdout
    greetings = paste(demo.line("for ")).stdout
    assert set(re.findall(r"\] (d[12]) ready", greetings)) == {"d1", "d2"}
    code, errors = demo.stop(signal.SIGTERM)
    assert code == 0
    assert len(re.findall(r"imaps? -> demo/d[12] ", errors)) == 7


@pytest.mark.slow
@pytest.mark.skipif(not which("openssl"), reason="openssl is not installed")
def test_printed_openssl_command_works(demo: Demo) -> None:
    result = paste(demo.line("openssl "), "a login demo demo\nb select inbox\nc fetch 1 body[]\nd logout\n")
    assert result.returncode == 0
    assert "Subject: Message 1 came through the proxy" in result.stdout
    assert "d OK signed out" in result.stdout
    assert "verify return:1" in result.stderr
    assert "verify error" not in result.stderr


@pytest.mark.slow
def test_printed_ways_to_look_and_act_work(demo: Demo) -> None:
    port = urlsplit(demo.line("http://")).port
    assert port
    page = request(port, "/")
    assert (page.status, "<title>" in page.text) == (200, True)
    top, drain = (line.strip() for line in demo.output.splitlines() if "/mailproxy " in line)
    assert paste(drain).returncode == 0
    snapshot = paste(f"{top} | cat")  # no terminal: one snapshot
    assert snapshot.returncode == 0
    assert re.search(r"demo/d1\s+DRAIN", snapshot.stdout)
    assert "demo/d1" in demo.stop(signal.SIGTERM)[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_demo_with_open_session(demo: Demo, number: signal.Signals) -> None:
    assert list(demo.folder.iterdir())
    address = re.search(r"127\.0\.0\.1:(\d+)  clear", demo.output)
    assert address
    with socket.create_connection(("127.0.0.1", int(address[1])), timeout=LIMIT_S) as client:
        assert client.recv(1000).startswith(b"* OK")
        code, errors = demo.stop(number)
    assert code == 0
    assert "Traceback" not in errors
    assert list(demo.folder.iterdir()) == []


@pytest.mark.slow
def test_occupied_ports_are_replaced_unless_requested(folder: Path) -> None:
    demos = [Demo(folder), Demo(folder)]
    ports = [set(re.findall(r"127\.0\.0\.1:(\d+)[/ ]", demo.output)) for demo in demos]
    for port in (1143, 1993):
        assert re.search(rf"^  127.* \({port} is taken\)$", demos[1].output, re.MULTILINE)
    assert len(ports[0]) == len(ports[1]) == 3
    assert not ports[0] & ports[1]
    result = subprocess.run(
        [*DEMO, "--port-base", min(ports[0])], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) in (1, 2)
    assert result.stderr.startswith("mailproxy demo: frontends.imap.bind[0]")
    for demo in demos:
        assert demo.stop(signal.SIGINT)[0] == 0
        demo.close()


@pytest.mark.slow
def test_missing_trustme_is_explained_in_one_line(tmp_path: Path) -> None:
    program = "import sys; sys.modules['trustme'] = None; sys.argv[0] = 'mailproxy'; import mailproxy.cli; mailproxy.cli.main()"
    result = subprocess.run(
        [sys.executable, "-c", program, "demo"],
        capture_output=True, text=True, timeout=LIMIT_S, env=os.environ | {"TMPDIR": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"mailproxy demo: .*trustme.*'mailproxy\[demo\]'.*\n", result.stderr)
    assert list(tmp_path.iterdir()) == []
