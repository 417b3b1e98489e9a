"""The line writer: lines stay whole on full disks and with killed processes, and arrivals are counted."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.log.line_writer import LinesLostError, LineWriter

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log"


@contextlib.contextmanager
def open_writer(file: Path, *, shared: bool = False) -> Iterator[LineWriter]:
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    writer = LineWriter(fd, shared=shared)
    try:
        yield writer
    finally:
        writer.close()
        os.close(fd)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize(
    ("size_limit", "arrived"),
    [(1000, 10), (1001, 10), (1098, 10), (1099, 11), (1100, 11), (50, 0), (0, 0)],
)
def test_failed_write_reports_arrived_lines(file: Path, size_limit: int, arrived: int, shared: bool) -> None:
    with open_writer(file, shared=shared) as writer:
        with file_size_limit(size_limit), pytest.raises(LinesLostError, match="File too large") as caught:
            writer.write([LINE] * 20)
        assert caught.value.arrived == arrived
        writer.write([b"afterwards\n"])
    lines = file.read_bytes().split(b"\n")
    assert lines[-2:] == [b"afterwards", b""]
    assert lines.count(LINE.rstrip(b"\n")) == arrived
    assert all(LINE.startswith(line) for line in lines[:-2])


def test_failed_write_to_unreadable_file_ends_the_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read every file, so the reader is disabled here.
    monkeypatch.setattr(LineWriter, "_open_reader", lambda _: None)
    with open_writer(file) as writer:
        with file_size_limit(150), pytest.raises(LinesLostError):
            writer.write([LINE] * 3)
        writer.write([b"afterwards\n"])
    assert file.read_bytes() == LINE + LINE[:50] + b"\nafterwards\n"


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_torn_line_is_ended_before_next_write(file: Path, shared: bool) -> None:
    file.write_bytes(b"one\ntw")
    with open_writer(file, shared=shared) as writer:
        writer.write([b"three\n", b"four\n"])
        with file.open("ab") as other:
            other.write(b"fi")
        writer.write([b"six\n"])
        writer.write([b"seven\n"])
    assert file.read_bytes() == b"one\ntw\nthree\nfour\nfi\nsix\nseven\n"


def test_lock_held_forever_times_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.log.line_writer._LOCK_TIMEOUT_S", 0.1)
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX);"
        " print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with open_writer(file, shared=True) as writer:
            writer.write([b"all the same\n"])
        holder.kill()
    assert file.read_bytes() == b"all the same\n"


_WRITE_PROGRAM = """
import os, signal, sys
from mailproxy.log import line_writer
from mailproxy.log.line_writer import LineWriter
line_writer._LOCK_TIMEOUT_S = 60  # the other one may have to pause with the lock
writer = LineWriter(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640), shared=True)
line = sys.argv[2].encode() * 999 + b"\\n"
print("begun", flush=True)
for _ in range(30):  # on a busy machine the kill comes late, and the file would fill the memory
    writer.write([line] * 1000)  # 1 MB, written page by page, so the kill happens within a write
signal.pause()
"""


@pytest.mark.slow
def test_killed_writers_of_shared_file_mix_no_lines(file: Path) -> None:
    for round_number in range(6):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITE_PROGRAM, str(file), letter], stdout=subprocess.PIPE
            )
            for letter in "ab"
        ]
        for process in writers:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
        for process in writers:
            # The writers get to different positions. The test waits for no event.
            time.sleep(0.003 * round_number)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    with open_writer(file, shared=True) as writer:
        writer.write([b"the last one\n"])
    lines = file.read_bytes().split(b"\n")
    assert lines[-2:] == [b"the last one", b""]
    mixed = [line[:20] for line in lines[:-2] if len(set(line)) > 1 or len(line) > 999]
    assert not mixed
    torn = [line for line in lines[:-2] if len(line) < 999]
    assert len(torn) <= 12, "at most one for each process"
