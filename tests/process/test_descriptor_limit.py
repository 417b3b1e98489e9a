"""The limit on open files: raised at the start, with a message if the sessions need more descriptors."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.support.program import Program

pytestmark = pytest.mark.slow

SOFT, HARD = 512, 2048
TEXT = """
[process]
drain_timeout = 1
{process}
[frontends.imap]
bind = ["127.0.0.1:0"]
backend = "b"
[backends.b]
check = false
servers = ["127.0.0.1:9"]
"""


def run(folder: Path, process: str) -> Program:
    return Program(TEXT.format(process=process), folder, descriptors=(SOFT, HARD))


def processes(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@pytest.mark.parametrize(
    ("process", "limit"),
    [
        ("", HARD),
        ("workers = 2", HARD),
        ("raise_descriptor_limit = false", SOFT),
        ("raise_descriptor_limit = false\nworkers = 2", SOFT),
    ],
)
def test_soft_limit_is_raised_in_every_process(tmp_path: Path, process: str, limit: int) -> None:
    with run(tmp_path, process) as program:
        program.wait_for("mailproxy is ready")
        limits = {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in processes(program.process.pid)}
        assert limits == {(limit, HARD)}
        assert "descriptors" not in program.text
        program.send(signal.SIGTERM)
        assert program.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_too_few_descriptors_are_logged_at_start(tmp_path: Path, workers: int) -> None:
    with run(tmp_path, f"workers = {workers}\nmax_sessions = 10000") as program:
        program.wait_for("mailproxy is ready")
        needed = 10000 // workers * 2 + 200
        in_workers = f", in each of {workers} workers" if workers > 1 else ""
        message = (
            f"10000 sessions need {needed} descriptors{in_workers}, and the limit here is {HARD}: raise it"
        )
        assert program.text.count(message) == 1
        os.kill(program.process.pid, signal.SIGTERM)
        assert program.wait() == 0
