"""``mailproxy top`` in tmux, 80 columns and 24 lines, with a real proxy of two workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.admin_client import ask, stat
from tests.support.worker_group import GreetingServer, WorkerGroup, configuration, wait_until

pytestmark = [pytest.mark.peers, pytest.mark.slow]


class Terminal:
    """A terminal of tmux in which a command runs."""

    def __init__(self, *command: str, term: str = "xterm-256color") -> None:
        tmux = shutil.which("tmux")
        if tmux is None:
            pytest.skip("tmux is not installed")
        self._tmux = [tmux, "-L", f"top-{os.getpid()}", "-f", "/dev/null"]
        self._environment = {**os.environ, "TERM": "xterm-256color"}
        shell = f"TERM={term} {' '.join(command)}; echo exit code $?; sleep 60"
        self.run("new-session", "-d", "-x", "80", "-y", "24", shell)

    def run(self, *words: str) -> str:
        return subprocess.run(
            [*self._tmux, *words], capture_output=True, text=True, check=True, env=self._environment
        ).stdout

    @property
    def text(self) -> str:
        return self.run("capture-pane", "-p")

    def wait_for(self, words: str) -> str:
        return wait_until(lambda: text if words in (text := self.text) else None)

    def press(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[WorkerGroup]:
    servers = GreetingServer("s1"), GreetingServer("s2")
    text = configuration(*servers, more=f'[admin]\nsocket = "{tmp_path / "admin.sock"}"')
    # The workers take turns apart from each other, and count sessions together.
    with WorkerGroup(text.replace("roundrobin", "leastconn"), tmp_path) as group:
        group.wait_for("mailproxy is ready")
        yield group
    for server in servers:
        server.close()


def top(path: Path, *options: str, term: str = "xterm-256color") -> Terminal:
    words = [sys.executable, "-m", "mailproxy", "top", "-s", str(path), *options]
    return Terminal(*words, term=term)


def test_servers_are_changed_and_sessions_end_by_keys(group: WorkerGroup, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    # One after the other: two workers that choose at the same moment can take the same server.
    assert {group.connect().greeting for _ in range(2)} == {"s1", "s2"}
    terminal = top(path, "--interval", "0.3")
    try:
        text = terminal.wait_for("b/s1")
        assert max(len(line) for line in text.splitlines()) <= 80
        terminal.press("?")
        terminal.wait_for("Escape closes")
        terminal.press("Escape")
        wait_until(lambda: "Escape closes" not in terminal.text)
        terminal.press("Tab", "Tab", "Tab")
        terminal.wait_for("sorted by age")
        terminal.wait_for("b/s1")  # the sessions, which are asked for now
        terminal.press("/")
        terminal.wait_for("Rows that contain")
        terminal.press("s2", "Enter")
        terminal.wait_for("sorted by age, with 's2'")
        wait_until(lambda: "b/s1" not in terminal.text)
        terminal.press("k")
        terminal.wait_for("End session")
        terminal.press("y")
        wait_until(lambda: "srv=s2" not in ask(path, "show sess"))
        terminal.press("1")
        wait_until(lambda: "sorted by age" not in terminal.text)
        terminal.press("Escape")
        terminal.wait_for("b/s1")
        terminal.press("Up", "w")  # the cursor has stayed on s2
        terminal.wait_for("Weight of server b/s1")
        terminal.press("7", "Enter")
        wait_until(lambda: stat(path)["b", "s1"]["weight"] == "7")
        terminal.press("d")
        terminal.wait_for("Drain server b/s1")
        terminal.press("y")
        terminal.wait_for("DRAIN")
        # A drain ends the server's sessions as well.
        wait_until(lambda: "srv=s1" not in ask(path, "show sess"))
        terminal.press("q")
        terminal.wait_for("exit code 0")
    finally:
        terminal.close()


def test_dumb_terminal_gets_one_snapshot(group: WorkerGroup, tmp_path: Path) -> None:
    terminal = top(tmp_path / "admin.sock", term="dumb")
    try:
        text = terminal.wait_for("exit code 0")
    finally:
        terminal.close()
    assert "frontend  status" in text
    assert group.process.poll() is None


def test_pipe_gets_one_snapshot_without_escapes(group: WorkerGroup, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mailproxy", "top", "-s", str(tmp_path / "admin.sock")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "b/s2    no check" in result.stdout
    assert "\x1b" not in result.stdout
    assert group.process.poll() is None
