"""What the operator sets of frontends outlives a restart, with a state file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_process import Echo
from tests.support.admin_client import ask, stat
from tests.support.program import Program

pytestmark = pytest.mark.slow

WORKERS = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


def text(echo: Echo, workers: int, process: str = "", more: str = "") -> str:
    return f"""
[process]
workers = {workers}
state_file = "state"
{process}
[admin]
socket = "admin.sock"
[frontends.imap]
backend = "b"
bind = ["127.0.0.1:0"]
{more}
[frontends.other]
backend = "b"
bind = ["127.0.0.1:0"]
[frontends.third]
backend = "b"
bind = ["127.0.0.1:0"]
[backends.b]
check = "none"
servers = ["{echo.address}"]
"""


def limits(path: Path) -> dict[str, tuple[str, str]]:
    """State and limit of each frontend."""
    return {
        name: (row["status"], row["slim"]) for (name, kind), row in stat(path).items() if kind == "FRONTEND"
    }


def change(program: Program, path: Path) -> None:
    program.wait_for("mailproxy is ready")
    commands = "set maxconn frontend imap 90; disable frontend other; shutdown frontend third; set maxconn global 400"
    assert ask(path, commands).strip() == ""
    stop(program)


def stop(program: Program) -> None:
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    assert "Traceback" not in program.text


@WORKERS
def test_frontends_outlive_a_restart(echo: Echo, tmp_path: Path, workers: int) -> None:
    """But for a frontend that was shut down, which is so until a restart."""
    path = tmp_path / "admin.sock"
    with Program(text(echo, workers), tmp_path) as program:
        change(program, path)
    with Program(text(echo, workers), tmp_path) as program:
        program.wait_for("mailproxy is ready")
        assert limits(path) == {"imap": ("OPEN", "90"), "other": ("PAUSED", "400"), "third": ("OPEN", "400")}
        assert ask(path, "enable frontend other").strip() == ""
        assert limits(path)["other"] == ("OPEN", "400")
        stop(program)


@WORKERS
def test_newer_limit_of_the_configuration_wins(echo: Echo, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "admin.sock"
    with Program(text(echo, workers), tmp_path) as program:
        change(program, path)
    changed = text(echo, workers, "max_sessions = 300", "max_sessions = 50")
    with Program(changed, tmp_path) as program:
        program.wait_for("mailproxy is ready")
        assert limits(path) == {"imap": ("OPEN", "50"), "other": ("PAUSED", "300"), "third": ("OPEN", "300")}
        stop(program)
