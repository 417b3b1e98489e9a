"""The writer and its targets: real files, pipes and sockets; nobody ever waits for them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from mailproxy.log import Log, Output, SessionRecord, end_reasons, open_target
from mailproxy.log.events import ACCEPT_PAUSED, LINES_LOST, READY, Event
from mailproxy.log.line_writer import LinesLostError
from mailproxy.log.targets import FileTarget, StreamTarget, SyslogTarget, Target
from tests.support.network import needs_ipv6
from tests.support.timeouts import fail_after_timeout, wait_until

CHAT = Event("chat", "debug", meaning="for these tests only")
LINES_MAX = 50_000  # what the log keeps while its target is busy


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


@asynccontextmanager
async def running(log: Log) -> AsyncIterator[None]:
    """A log at work, until the end of the block; what is left is then written as a proxy does it."""
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(log.run)
            yield
            nursery.cancel_scope.cancel()
    finally:
        await log.finish()  # noqa: ASYNC102 - shields itself


class Pipe(StreamTarget):
    """A stream that tells when a thread has lines in its hands: nothing else does while it blocks."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.began = threading.Event()

    def write(self, lines: Sequence[tuple[str, str]]) -> None:
        self.began.set()
        super().write(lines)


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def say(log: Log, *messages: str) -> None:
    for message in messages:
        log.event(READY, message)


def tcplog(target: Target, level: str = "info") -> Log:
    """A log whose events are bare sentences, as if the target wrote dates of its own."""
    target.has_own_date = True
    return Log([Output(target, "tcplog", level)])


def an_ended_session() -> SessionRecord:
    return SessionRecord(
        id=1, accepted=0.0, frontend="fe", bind="B", tls=False, client="127.0.0.1:1", end=end_reasons.STOPPED
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that blocks is waited for no longer than that, here half a second instead of two."""
    monkeypatch.setattr("mailproxy.log.writer._FLUSH_TIMEOUT_S", 0.5)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe that holds 4 KiB."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


def fill(writer: int) -> int:
    """Fill a pipe to the brim; gives the number of bytes."""
    os.set_blocking(writer, False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(writer, b"\n" * 512)
    os.set_blocking(writer, True)
    return count


def read_all(reader: int) -> list[str]:
    """Every line until the pipe's other end is closed."""
    with open(reader, encoding="utf-8", closefd=False) as lines:
        return [line.rstrip("\n") for line in lines if line != "\n"]


# Batches.


async def test_lines_that_come_together_go_out_in_one_write() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        log = tcplog(StreamTarget(there.fileno()))
        async with running(log):
            say(log, *map(str, range(100)))
            await trio.lowlevel.wait_readable(here)
            assert here.recv(65536).decode() == "".join(f"{number}\n" for number in range(100))
            say(log, "later")
            await trio.lowlevel.wait_readable(here)
            assert here.recv(65536) == b"later\n"


async def test_lines_stay_in_order_and_none_is_lost(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    async with running(log):
        for number in range(2000):
            say(log, str(number))
            if number % 100 == 0:
                await trio.sleep(0.001)
    assert (tmp_path / "log").read_text().splitlines() == [str(number) for number in range(2000)]


async def test_lines_come_out_soon_although_nothing_follows(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    async with running(log):
        say(log, "alone")
        with trio.fail_after(2):
            await wait_until((tmp_path / "log").read_text)


# Levels.


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["a word", "ready", "session", "paused", "lost"]),
        ("info", ["ready", "session", "paused", "lost"]),
        ("warning", ["paused", "lost"]),
        ("error", ["lost"]),
    ],
)
async def test_what_is_less_important_than_the_level_is_not_written(
    tmp_path: Path, level: str, written: list[str]
) -> None:
    log = tcplog(FileTarget(tmp_path / "log"), level)
    async with running(log):
        log.event(CHAT, "a word")
        log.event(READY, "ready")
        log.session(an_ended_session())
        log.event(ACCEPT_PAUSED, "paused")
        log.event(LINES_LOST, "lost")
    lines = (tmp_path / "log").read_text().splitlines()
    assert ["session" if " K- " in line else line for line in lines] == written


# Targets.


async def test_standard_error_and_output(capfd: pytest.CaptureFixture[str]) -> None:
    for where in ("stderr", "stdout"):
        log = tcplog(open_target(where, None))
        async with running(log):
            say(log, f"to {where}")
    assert capfd.readouterr() == ("to stdout\n", "to stderr\n")


async def test_a_file_is_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    for message in ("one", "two"):
        log = tcplog(open_target(str(tmp_path / "log"), None))
        async with running(log):
            say(log, message)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_a_file_is_given_to_its_owner_if_it_was_made_here_and_no_link_is_followed(  # noqa: ASYNC124 - its fixtures are Trio's
    tmp_path: Path,
) -> None:
    made, there, link = tmp_path / "made", tmp_path / "there", tmp_path / "link"
    there.touch()
    link.symlink_to(there)
    for file in (made, there):
        open_target(str(file), None, (65534, 65533)).close()
    assert [(file.stat().st_uid, file.stat().st_gid) for file in (made, there)] == [(65534, 65533), (0, 0)]
    with pytest.raises(OSError) as caught:
        open_target(str(link), None, (65534, 65533))
    assert caught.value.errno == errno.ELOOP
    open_target(str(link), None).close()  # without an owner the link is the administrator's own


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_a_folder_with_the_set_group_id_bit_keeps_its_group(  # noqa: ASYNC124 - its fixtures are Trio's
    tmp_path: Path,
) -> None:
    os.chown(tmp_path, 65534, 4)
    os.chmod(tmp_path, 0o2750)  # noqa: PTH101, S103 - pathlib blocks, it is said; and the bit is what is tried
    file = tmp_path / "log"
    open_target(str(file), None, (65534, 65533)).close()
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 4, 0o640)


async def test_a_file_is_reopened_after_it_was_renamed(tmp_path: Path) -> None:
    file, old = tmp_path / "log", tmp_path / "log.1"
    log = tcplog(FileTarget(file))
    async with running(log):
        say(log, "before")
        await wait_until(file.read_text)
        file.rename(old)
        say(log, "between")
        await wait_until(lambda: "between" in old.read_text())
        log.reopen()
        say(log, "after")
        await wait_until(lambda: file.exists() and "after" in file.read_text())
    assert old.read_text() == "before\nbetween\n"
    assert file.read_text() == "after\nthe log was reopened\n"


async def test_reopening_is_done_even_when_there_is_nothing_to_write(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = tcplog(FileTarget(file), "error")
    async with running(log):
        file.rename(tmp_path / "log.1")
        log.reopen()
        await wait_until(file.exists)


async def test_a_file_that_cannot_be_reopened_is_kept(tmp_path: Path) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    log = tcplog(FileTarget(folder / "log"))
    async with running(log):
        folder.rename(moved)
        log.reopen()
        await wait_until((moved / "log").read_text)
        say(log, "still here")
    first, second = (moved / "log").read_text().splitlines()
    assert first.startswith("the log cannot be reopened: ")
    assert "No such file or directory" in first
    assert first.endswith("; the old file is kept")
    assert second == "still here"


async def test_reopening_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    before = descriptors()
    async with running(log):
        for number in range(5):
            log.reopen()
            say(log, str(number))
            await wait_until(lambda number=number: f"{number}\n" in (tmp_path / "log").read_text())  # type: ignore[misc]
        assert descriptors() <= before + 2  # epoll and its wake-up
    assert descriptors() < before + 2


# A target that blocks.


async def test_a_full_pipe_does_not_hold_the_loop_up(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    # Should the loop be held up all the same, this thread ends it, and the test fails.
    rescue = threading.Timer(5, lambda: os.read(reader, 2**20))
    rescue.start()
    try:
        log = tcplog(StreamTarget(writer))
        async with running(log):
            say(log, *map(str, range(3000)))
            turns, end = 0, time.monotonic() + 0.3
            while time.monotonic() < end:
                await trio.lowlevel.checkpoint()
                turns += 1
            assert turns > 100
            assert not select.select([], [writer], [], 0)[1]  # it is full indeed
            lines = b""
            while not lines.endswith(b"\n2999\n"):
                await trio.lowlevel.wait_readable(reader)
                lines += os.read(reader, 65536)
        assert rescue.is_alive()
    finally:
        rescue.cancel()
    assert lines[filled:].split() == [str(number).encode() for number in range(3000)]


async def test_what_is_too_much_while_it_blocks_is_counted_and_said(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fill(writer)
    target = Pipe(writer)
    log = tcplog(target)
    async with running(log):
        say(log, "in the writer's hands")
        await wait_until(target.began.is_set)
        say(log, *map(str, range(LINES_MAX + 123)))
        assert log.lost == 123
        lines = b""
        while not lines.endswith(b" log lines were lost\n"):
            await trio.lowlevel.wait_readable(reader)
            lines += os.read(reader, 65536)
    assert lines.split(b"\n")[-3:] == [str(LINES_MAX - 1).encode(), b"123 log lines were lost", b""]
    assert lines.split().count(b"lost") == 1


@pytest.mark.slow
async def test_a_target_that_blocks_for_ever_does_not_keep_the_proxy_from_ending(
    pipe: tuple[int, int], impatient: None
) -> None:
    _, writer = pipe
    fill(writer)
    target = Pipe(writer)
    log = tcplog(target)
    async with running(log):
        say(log, "never seen")
        await wait_until(target.began.is_set)
        began = trio.current_time()
    assert trio.current_time() - began < 5


async def test_reopening_a_pipe_without_a_reader_does_not_keep_the_proxy_from_ending(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = tcplog(FileTarget(file))
    file.unlink()
    os.mkfifo(file)  # opening it waits for a reader
    rescue = threading.Timer(6, lambda: os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK)))
    rescue.start()
    try:
        async with running(log):
            log.reopen()
            await trio.sleep(0.1)  # it is being opened now; whether it is or will be makes no difference
            began = trio.current_time()
        assert trio.current_time() - began < 3
    finally:
        rescue.cancel()
        rescue.join()


# A target that fails.


async def test_a_full_disk_loses_lines_and_says_how_many_when_it_has_room_again(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.symlink_to("/dev/full")
    log = tcplog(FileTarget(file))
    async with running(log):
        say(log, "1", "2", "3")
        await wait_until(lambda: log.lost == 3)
        say(log, "4", "5")
        await wait_until(lambda: log.lost >= 5)
        file.unlink()
        log.reopen()
        say(log, "6")
        await wait_until(lambda: file.exists() and file.read_text())
    assert file.read_text().splitlines() == ["6", "the log was reopened", "5 log lines were lost"]


async def test_a_closed_pipe_harms_nobody(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    log = tcplog(StreamTarget(writer))
    async with running(log):
        say(log, "to nobody")
        await wait_until(lambda: log.lost == 1)


async def test_a_pipe_that_somebody_made_nonblocking_gets_every_line(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    target = Pipe(writer)
    log = tcplog(target)
    lines: list[str] = []

    def read() -> None:
        lines.extend(read_all(reader))

    async with trio.open_nursery() as nursery:
        async with running(log):
            say(log, *map(str, range(5000)))
            await wait_until(target.began.is_set)
            nursery.start_soon(trio.to_thread.run_sync, read)
        os.close(writer)
    assert lines == [str(number) for number in range(5000)]


# Last words.


async def test_what_is_left_is_written_at_the_end(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    async with running(log):
        pass
    say(log, "too late")
    assert (tmp_path / "log").read_text() == ""

    log = tcplog(FileTarget(tmp_path / "log"))
    async with running(log):
        say(log, "last words")
    assert (tmp_path / "log").read_text() == "last words\n"


async def test_last_words_are_written_although_all_is_cancelled(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    with trio.CancelScope() as scope:
        scope.cancel()
        say(log, "last words")
        await log.finish()
    assert (tmp_path / "log").read_text() == "last words\n"


async def test_the_target_is_closed_at_the_end(tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "log")
    async with running(tcplog(target)):
        pass
    with pytest.raises(LinesLostError, match="Bad file descriptor"):
        target.write([("info", "x")])


class SlowToReopen(FileTarget):
    """A file on a disk that has to spin up first, so that something can come in between for certain."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.began, self.spinning = threading.Event(), threading.Event()

    def reopen(self) -> None:
        self.began.set()
        assert self.spinning.wait(5)
        super().reopen()


async def test_being_stopped_while_it_reopens_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "log"
    target = SlowToReopen(file)
    log = tcplog(target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        say(log, "last words")
        log.reopen()
        await wait_until(target.began.is_set)
        nursery.cancel_scope.cancel()
        target.spinning.set()
    began = trio.current_time()
    await log.finish()
    assert trio.current_time() - began < 1
    assert "last words" in file.read_text().splitlines()


@pytest.mark.slow
async def test_no_line_disappears_unsaid_while_it_reopens_for_long(tmp_path: Path, impatient: None) -> None:
    file = tmp_path / "log"
    target = SlowToReopen(file)
    log = tcplog(target)
    async with running(log):
        log.reopen()
        say(log, "meanwhile")
        await wait_until(target.began.is_set)
        await trio.sleep(0.7)  # longer than the log waits for a target
        target.spinning.set()
        say(log, "afterwards")
        await wait_until(lambda: "afterwards" in file.read_text())
    written = file.read_text()
    assert "meanwhile" in written or "1 log lines were lost" in written


# Syslog.

DATAGRAM = re.compile(
    rb"<(?P<priority>\d+)>(?P<date>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) mailproxy\[(?P<pid>\d+)\]: (?P<line>.*)\Z"
)


def check_datagram(datagram: bytes, priority: int, line: bytes) -> None:
    """The form that HAProxy's ``log 127.0.0.1:514 local0`` has: ``<134>Nov 22 16:45:57 haproxy[8367]: …``."""
    parts = DATAGRAM.fullmatch(datagram)
    assert parts, datagram
    assert (int(parts["priority"]), parts["line"], int(parts["pid"])) == (priority, line, os.getpid())
    now = time.time()
    around = {time.strftime("%b %e %H:%M:%S", time.localtime(now - ago)).encode() for ago in range(5)}
    assert parts["date"] in around


@pytest.fixture(params=["IPv4", pytest.param("IPv6", marks=needs_ipv6), "Unix"])
def syslog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Target]]:
    """A syslog socket, and the target that leads there."""
    where: tuple[str, int] | str
    if request.param == "Unix":
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        where = str(tmp_path / "log")
        receiver.bind(where)
    else:
        host, family = {"IPv4": ("127.0.0.1", socket.AF_INET), "IPv6": ("::1", socket.AF_INET6)}[
            request.param
        ]
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        receiver.bind((host, 0))
        where = (host, receiver.getsockname()[1])
    receiver.setblocking(False)
    with receiver:
        yield receiver, open_target("syslog:…", where)


async def receive(receiver: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(receiver)
    return receiver.recv(65536)


async def test_syslog_gets_a_datagram_a_line_as_from_haproxy(syslog: tuple[socket.socket, Target]) -> None:
    receiver, target = syslog
    log = tcplog(target, "debug")
    async with running(log):
        log.session(an_ended_session())
        log.event(READY, "mailproxy is ready")
        log.event(ACCEPT_PAUSED, "frontend imap cannot accept")
        log.event(LINES_LOST, "3 log lines were lost")
        log.event(CHAT, "a word with \u00e9")
        first = await receive(receiver)
        assert first.endswith(b" fe fe/<NOSRV> -1/-1/0 0 K- 0/0/0/0/0 0/0")
        check_datagram(first, 134, first.split(b": ", 1)[1])
        check_datagram(await receive(receiver), 134, b"mailproxy is ready")
        check_datagram(await receive(receiver), 132, b"frontend imap cannot accept")
        check_datagram(await receive(receiver), 131, b"3 log lines were lost")
        check_datagram(await receive(receiver), 135, b"a word with \xc3\xa9")


async def test_syslog_that_was_restarted_gets_what_follows(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = tcplog(SyslogTarget(path))
    async with running(log):
        for message in ("before", "after"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
                receiver.bind(path)
                receiver.setblocking(False)
                say(log, message)
                check_datagram(await receive(receiver), 134, message.encode())
            os.unlink(path)  # noqa: PTH108 - as syslog itself does it


async def test_syslog_that_is_not_there_harms_nobody_and_is_told_when_it_comes(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = tcplog(SyslogTarget(path))
    async with running(log):
        say(log, "to nobody")
        await wait_until(lambda: log.lost == 1)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(path)
            receiver.setblocking(False)
            say(log, "to somebody")
            check_datagram(await receive(receiver), 134, b"to somebody")
            check_datagram(await receive(receiver), 131, b"1 log lines were lost")
