"""The demo as a user meets it: a process whose printed lines work when pasted, and which leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from shutil import which
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = [sys.executable, "-m", "mailproxy", "demo"]
LIMIT_S = 20


class Demo:
    """A running demo; ``words`` is what it printed to begin with."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*DEMO, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        self._limit = threading.Timer(LIMIT_S, self.process.kill)
        self._limit.start()
        self.words = self._read_words()

    def _read_words(self) -> str:
        assert self.process.stdout
        words = ""
        for line in self.process.stdout:
            words += line
            if "Ctrl-C stops" in line:
                break
        return words

    def line(self, start: str) -> str:
        """The first printed line that starts so."""
        return next(line.strip() for line in self.words.splitlines() if line.strip().startswith(start))

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Return the exit code and what was on stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, errors

    def close(self) -> None:
        self._limit.cancel()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    yield running
    running.close()


def paste(line: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], input=typed, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(not which("curl"), reason="curl is not installed")
def test_the_printed_curl_lines_work(demo: Demo) -> None:
    lines = [line.strip() for line in demo.words.splitlines() if line.startswith("  curl ")]
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
def test_the_printed_openssl_line_works(demo: Demo) -> None:
    said = paste(demo.line("openssl "), "a login demo demo\nb select inbox\nc fetch 1 body[]\nd logout\n")
    assert said.returncode == 0
    assert "Subject: Message 1 came through the proxy" in said.stdout
    assert "d OK signed out" in said.stdout
    assert "verify return:1" in said.stderr
    assert "verify error" not in said.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_also_with_a_session_open(demo: Demo, number: signal.Signals) -> None:
    assert list(demo.folder.iterdir())
    address = re.search(r"127\.0\.0\.1:(\d+)  clear", demo.words)
    assert address
    with socket.create_connection(("127.0.0.1", int(address[1])), timeout=LIMIT_S) as client:
        assert client.recv(1000).startswith(b"* OK")
        code, errors = demo.stop(number)
    assert code == 0
    assert "Traceback" not in errors
    assert list(demo.folder.iterdir()) == []


@pytest.mark.slow
def test_taken_ports_are_replaced_unless_they_were_asked_for(demo: Demo, tmp_path: Path) -> None:
    second = Demo(tmp_path)
    ports = [set(re.findall(r"127\.0\.0\.1:(\d+)  ", words)) for words in (demo.words, second.words)]
    assert all(
        re.search(rf"^  127.* \({port} is taken\)$", second.words, re.MULTILINE) for port in (1143, 1993)
    )
    assert len(ports[0]) == len(ports[1]) == 2
    assert not ports[0] & ports[1]
    assert second.stop(signal.SIGINT)[0] == 0
    second.close()
    refused = subprocess.run(
        [*DEMO, "--port-base", min(ports[0])], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) in (1, 2)
    assert refused.stderr.startswith("mailproxy demo: frontends.imap.bind[0]")


@pytest.mark.slow
def test_without_trustme_one_line_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['trustme'] = None; sys.argv[0] = 'mailproxy'; import mailproxy.cli; mailproxy.cli.main()"
    said = subprocess.run(
        [sys.executable, "-c", program, "demo"],
        capture_output=True, text=True, timeout=LIMIT_S, env=os.environ | {"TMPDIR": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert said.returncode == 2
    assert said.stdout == ""
    assert re.fullmatch(r"mailproxy demo: .*trustme.*'mailproxy\[demo\]'.*\n", said.stderr)
    assert list(tmp_path.iterdir()) == []
