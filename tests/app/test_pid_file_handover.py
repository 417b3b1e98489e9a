"""The file with the process id while one process replaces another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mailproxy.app.pid_file import pid_file


def configuration(file: Path) -> Any:
    return SimpleNamespace(process=SimpleNamespace(pid_file=file))


def starting() -> Any:
    """Return the inheritance of a process that replaces none."""
    return SimpleNamespace(is_pending=False)


def replacing(callbacks: list[Callable[[], None]]) -> Any:
    """Return the inheritance of a process that has not taken over yet."""
    return SimpleNamespace(is_pending=True, on_taken_over=callbacks.append)


def write_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def replace_process(file: Path) -> None:
    """Open the file, write it after a line of input, and remove it after another."""
    callbacks: list[Callable[[], None]] = []
    with pid_file(configuration(file), replacing(callbacks)):
        write_line("opened")
        sys.stdin.readline()
        for callback in callbacks:
            callback()
        write_line("written")
        sys.stdin.readline()


def test_process_that_ends_leaves_the_file_to_its_successor(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"from pathlib import Path; from {__name__} import *; replace_process(Path({str(file)!r}))"
    with pid_file(configuration(file), starting()):
        next_process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert next_process.stdin is not None
        assert next_process.stdout is not None
        assert next_process.stdout.readline() == "opened\n"
    assert file.exists()  # the successor writes at any moment
    with next_process:
        next_process.stdin.write("\n")
        next_process.stdin.flush()
        assert next_process.stdout.readline() == "written\n"
        assert file.read_text() == f"{next_process.pid}\n"
    assert not file.exists()


def test_process_removes_the_file_after_its_successor_has_failed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"from pathlib import Path; from {__name__} import *; replace_process(Path({str(file)!r}))"
    with pid_file(configuration(file), starting()):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as failing:
            assert failing.stdout is not None
            assert failing.stdout.readline() == b"opened\n"
            failing.kill()
        assert file.exists()
    assert not file.exists()
