"""The file with the process id."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_process import Echo, configuration
from tests.support.program import Program

pytestmark = pytest.mark.slow

WORKERS = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


def pid_configuration(echo: Echo, workers: int, file: str = "pid") -> str:
    return configuration(echo, f'[process]\nworkers = {workers}\npid_file = "{file}"\n')


@WORKERS
def test_pid_file_names_the_process_until_its_end(echo: Echo, tmp_path: Path, workers: int) -> None:
    with Program(pid_configuration(echo, workers), tmp_path) as program:
        program.wait_for("mailproxy is ready")
        assert (tmp_path / "pid").read_text() == f"{program.process.pid}\n"
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mailproxy.toml", "output"]


@WORKERS
def test_file_of_a_killed_process_is_replaced(echo: Echo, tmp_path: Path, workers: int) -> None:
    (tmp_path / "pid").write_text("1\n")
    (tmp_path / ".pid.new").write_text("")  # it was killed while it wrote
    with Program(pid_configuration(echo, workers), tmp_path) as program:
        program.wait_for("mailproxy is ready")
        assert (tmp_path / "pid").read_text() == f"{program.process.pid}\n"


def test_file_of_the_next_process_stays(echo: Echo, tmp_path: Path) -> None:
    """Another instance starts while this one drains."""
    with Program(pid_configuration(echo, 1), tmp_path) as program:
        program.wait_for("mailproxy is ready")
        (tmp_path / "next").write_text("4711\n")
        (tmp_path / "next").rename(tmp_path / "pid")
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert (tmp_path / "pid").read_text() == "4711\n"


@WORKERS
def test_pid_file_is_left_alone_by_a_start_that_fails(echo: Echo, tmp_path: Path, workers: int) -> None:
    (tmp_path / "pid").write_text("4711\n")
    text = pid_configuration(echo, workers).replace("127.0.0.1:0", echo.address)  # which is in use
    with Program(text, tmp_path) as program:
        assert program.wait() == 2
    assert (tmp_path / "pid").read_text() == "4711\n"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("missing/pid", "there is no folder {folder}/missing"),
        (".", "{folder}: is no regular file"),
        ("/proc/pid", None),
    ],
)
def test_impossible_pid_file_is_a_fault(echo: Echo, tmp_path: Path, file: str, reason: str | None) -> None:
    with Program(pid_configuration(echo, 1, file), tmp_path) as program:
        assert program.wait() == 2
        assert "mailproxy.toml:3:1: process.pid_file: " in program.text
        if reason is not None:
            assert reason.format(folder=tmp_path) in program.text


@WORKERS
def test_start_that_fails_leaves_no_socket_file(echo: Echo, tmp_path: Path, workers: int) -> None:
    """The pid file is written when all sockets are open."""
    text = pid_configuration(echo, workers, "/proc/pid") + f'[admin]\nsocket = "{tmp_path}/admin.sock"\n'
    with Program(text, tmp_path) as program:
        assert program.wait() == 2
        assert "process.pid_file: /proc/pid: " in program.text
    assert not (tmp_path / "admin.sock").exists()
