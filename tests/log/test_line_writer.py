"""Lines stay whole on full disks and when processes that share a file are killed; how many arrived is known."""

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
def opened(file: Path, *, shared: bool = False) -> Iterator[LineWriter]:
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    writer = LineWriter(fd, shared=shared)
    try:
        yield writer
    finally:
        writer.close()
        os.close(fd)


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize(
    ("room", "arrived"),
    [(1000, 10), (1001, 10), (1098, 10), (1099, 11), (1100, 11), (50, 0), (0, 0)],
)
def test_a_write_that_fails_says_how_many_lines_arrived_whole(
    file: Path, room: int, arrived: int, shared: bool
) -> None:
    with opened(file, shared=shared) as writer:
        with no_file_longer_than(room), pytest.raises(LinesLostError, match="File too large") as caught:
            writer.write([LINE] * 20)
        assert caught.value.arrived == arrived
        writer.write([b"afterwards\n"])
    lines = file.read_bytes().split(b"\n")
    assert lines[-2:] == [b"afterwards", b""]
    assert lines.count(LINE.rstrip(b"\n")) == arrived
    assert all(LINE.startswith(line) for line in lines[:-2])


def test_a_file_that_may_not_be_read_is_torn_by_no_write_either(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LineWriter, "_open_reader", lambda _: None)  # root may read everything
    with opened(file) as writer:
        with no_file_longer_than(150), pytest.raises(LinesLostError):
            writer.write([LINE] * 3)
        writer.write([b"afterwards\n"])
    assert file.read_bytes() == LINE + LINE[:50] + b"\nafterwards\n"


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_what_a_killed_process_has_left_is_no_part_of_the_next_line(file: Path, shared: bool) -> None:
    file.write_bytes(b"one\ntw")
    with opened(file, shared=shared) as writer:
        writer.write([b"three\n", b"four\n"])
        with file.open("ab") as other:
            other.write(b"fi")
        writer.write([b"six\n"])
        writer.write([b"seven\n"])
    assert file.read_bytes() == b"one\ntw\nthree\nfour\nfi\nsix\nseven\n"


def test_a_lock_that_is_never_given_back_holds_nobody_up_for_ever(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.log.line_writer._LOCK_TIMEOUT_S", 0.1)
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX);"
        " print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with opened(file, shared=True) as writer:
            writer.write([b"all the same\n"])
        holder.kill()
    assert file.read_bytes() == b"all the same\n"


_WRITING = """
import os, sys
from mailproxy.log.line_writer import LineWriter
writer = LineWriter(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640), shared=True)
line = sys.argv[2].encode() * 999 + b"\\n"
print("begun", flush=True)
while True:
    writer.write([line] * 1000)  # 1 MB, page by page: it is killed in the midst of it
"""


@pytest.mark.slow
def test_processes_that_share_a_file_are_killed_and_no_two_lines_become_one(file: Path) -> None:
    for turn in range(6):
        writers = [
            subprocess.Popen([sys.executable, "-c", _WRITING, str(file), letter], stdout=subprocess.PIPE)
            for letter in "ab"
        ]
        for each in writers:
            assert each.stdout is not None
            assert each.stdout.readline() == b"begun\n"
        for each in writers:
            time.sleep(0.003 * turn)  # so that they are at different places; nothing is waited for
            each.send_signal(signal.SIGKILL)
            each.wait()
            assert each.stdout is not None
            each.stdout.close()
    with opened(file, shared=True) as writer:
        writer.write([b"the last one\n"])
    lines = file.read_bytes().split(b"\n")
    assert lines[-2:] == [b"the last one", b""]
    mixed = [line[:20] for line in lines[:-2] if len(set(line)) > 1 or len(line) > 999]
    assert not mixed
    torn = [line for line in lines[:-2] if len(line) < 999]
    assert len(torn) <= 12, "one for each process at most"
