"""The log writer and its targets, with real files, pipes and sockets: the event loop never waits for them."""

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
import trio.testing

from mailproxy.log import Log, Output, SessionRecord, end_reasons, open_target
from mailproxy.log.events import ACCEPT_PAUSED, LINES_LOST, READY, Event
from mailproxy.log.line_writer import LinesLostError
from mailproxy.log.targets import FileTarget, StreamTarget, SyslogTarget, Target
from tests.support.network import needs_ipv6
from tests.support.timeouts import TIMEOUT_S, fail_after_timeout, wait_until

DEBUG_EVENT = Event("test-event", "debug", meaning="for these tests only")
LINES_MAX = 50_000  # the number of lines that the log keeps while its target is busy


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


@asynccontextmanager
async def running(log: Log) -> AsyncIterator[None]:
    """Run a log until the end of the block, then write the remaining lines as a proxy does."""
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(log.run)
            yield
            nursery.cancel_scope.cancel()
    finally:
        await log.finish()  # noqa: ASYNC102 - shields itself


class ObservedPipe(StreamTarget):
    """A stream with an event for the start of a write, since nothing else shows it while the write blocks."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.started = threading.Event()

    def write(self, lines: Sequence[tuple[str, str]]) -> None:
        self.started.set()
        super().write(lines)


def descriptors() -> int:
    """Return the number of open descriptors."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def log_messages(log: Log, *messages: str) -> None:
    for message in messages:
        log.event(READY, message)


def tcplog(target: Target, level: str = "info") -> Log:
    """Return a log without dates in its events, as if the target wrote its own dates."""
    target.has_own_date = True
    return Log([Output(target, "tcplog", level)])


def ended_session() -> SessionRecord:
    return SessionRecord(
        id=1, accepted=0.0, frontend="fe", bind="B", tls=False, client="127.0.0.1:1", end=end_reasons.STOPPED
    )


@pytest.fixture
def short_flush_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeout for a blocked target from 2 s to 0.5 s."""
    monkeypatch.setattr("mailproxy.log.writer._FLUSH_TIMEOUT_S", 0.5)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe that holds 4 KiB."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for deadline in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(deadline)


def fill(writer: int) -> int:
    """Fill a pipe, and return the number of bytes."""
    os.set_blocking(writer, False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(writer, b"\n" * 512)
    os.set_blocking(writer, True)
    return count


def read_all(reader: int) -> list[str]:
    """Return every line until the other end of the pipe is closed."""
    with open(reader, encoding="utf-8", closefd=False) as lines:
        return [line.rstrip("\n") for line in lines if line != "\n"]


# Batches.


async def test_pending_lines_go_out_in_one_write() -> None:
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with receiver, sender:
        log = tcplog(StreamTarget(sender.fileno()))
        async with running(log):
            log_messages(log, *map(str, range(100)))
            await trio.lowlevel.wait_readable(receiver)
            assert receiver.recv(65536).decode() == "".join(f"{number}\n" for number in range(100))
            log_messages(log, "later")
            await trio.lowlevel.wait_readable(receiver)
            assert receiver.recv(65536) == b"later\n"


async def test_lines_stay_in_order(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    async with running(log):
        for number in range(2000):
            log_messages(log, str(number))
            if number % 100 == 0:
                await trio.sleep(0.001)
    assert (tmp_path / "log").read_text().splitlines() == [str(number) for number in range(2000)]


async def test_single_line_is_written_soon(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    async with running(log):
        log_messages(log, "alone")
        with trio.fail_after(10):
            await wait_until((tmp_path / "log").read_text)


# Levels.


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "ready", "session", "paused", "lost"]),
        ("info", ["ready", "session", "paused", "lost"]),
        ("warning", ["paused", "lost"]),
        ("error", ["lost"]),
    ],
)
async def test_events_below_the_level_are_not_written(tmp_path: Path, level: str, written: list[str]) -> None:
    log = tcplog(FileTarget(tmp_path / "log"), level)
    async with running(log):
        log.event(DEBUG_EVENT, "debug")
        log.event(READY, "ready")
        log.session(ended_session())
        log.event(ACCEPT_PAUSED, "paused")
        log.event(LINES_LOST, "lost")
    lines = (tmp_path / "log").read_text().splitlines()
    assert ["session" if " K- " in line else line for line in lines] == written


# Targets.


async def test_standard_error_and_output(capfd: pytest.CaptureFixture[str]) -> None:
    for target_name in ("stderr", "stdout"):
        log = tcplog(open_target(target_name, None))
        async with running(log):
            log_messages(log, f"to {target_name}")
    assert capfd.readouterr() == ("to stdout\n", "to stderr\n")


async def test_file_is_appended_with_mode_0640(tmp_path: Path) -> None:
    for message in ("one", "two"):
        log = tcplog(open_target(str(tmp_path / "log"), None))
        async with running(log):
            log_messages(log, message)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_only_new_files_get_the_owner(  # noqa: ASYNC124 - its fixtures are Trio's
    tmp_path: Path,
) -> None:
    new_file, existing, link = tmp_path / "made", tmp_path / "there", tmp_path / "link"
    existing.touch()
    link.symlink_to(existing)
    for file in (new_file, existing):
        open_target(str(file), None, (65534, 65533)).close()
    assert [(file.stat().st_uid, file.stat().st_gid) for file in (new_file, existing)] == [
        (65534, 65533),
        (0, 0),
    ]
    with pytest.raises(OSError) as caught:
        open_target(str(link), None, (65534, 65533))
    assert caught.value.errno == errno.ELOOP
    open_target(str(link), None).close()  # without an owner, a link may be followed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_setgid_folder_decides_the_group(  # noqa: ASYNC124 - its fixtures are Trio's
    tmp_path: Path,
) -> None:
    os.chown(tmp_path, 65534, 4)
    os.chmod(tmp_path, 0o2750)  # noqa: PTH101, S103 - the lint rule calls pathlib blocking, and the bit is tested
    file = tmp_path / "log"
    open_target(str(file), None, (65534, 65533)).close()
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 4, 0o640)


async def test_renamed_file_is_reopened(tmp_path: Path) -> None:
    file, old = tmp_path / "log", tmp_path / "log.1"
    log = tcplog(FileTarget(file))
    async with running(log):
        log_messages(log, "before")
        await wait_until(file.read_text)
        file.rename(old)
        log_messages(log, "between")
        await wait_until(lambda: "between" in old.read_text())
        log.reopen()
        log_messages(log, "after")
        await wait_until(lambda: file.exists() and "after" in file.read_text())
    assert old.read_text() == "before\nbetween\n"
    assert file.read_text() == "after\nthe log was reopened\n"


async def test_reopen_works_without_lines_to_write(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = tcplog(FileTarget(file), "error")
    async with running(log):
        file.rename(tmp_path / "log.1")
        log.reopen()
        await wait_until(file.exists)


async def test_failed_reopen_keeps_the_old_file(tmp_path: Path) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    log = tcplog(FileTarget(folder / "log"))
    async with running(log):
        folder.rename(moved)
        log.reopen()
        await wait_until((moved / "log").read_text)
        log_messages(log, "still here")
    first, second = (moved / "log").read_text().splitlines()
    assert first.startswith("the log cannot be reopened: ")
    assert "No such file or directory" in first
    assert first.endswith("; the old file is kept")
    assert second == "still here"


async def test_reopen_leaves_no_open_descriptor(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    before = descriptors()
    async with running(log):
        for number in range(5):
            log.reopen()
            log_messages(log, str(number))
            await wait_until(lambda number=number: f"{number}\n" in (tmp_path / "log").read_text())  # type: ignore[misc]
        assert descriptors() <= before + 2  # epoll and its wakeup
    assert descriptors() < before + 2


# A target that blocks.


async def test_full_pipe_does_not_block_the_loop(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    # If the event loop blocks all the same, this thread unblocks it, and the test fails.
    rescue = threading.Timer(TIMEOUT_S / 2, lambda: os.read(reader, 2**20))
    rescue.start()
    try:
        log = tcplog(StreamTarget(writer))
        async with running(log):
            log_messages(log, *map(str, range(3000)))
            turns, deadline = 0, time.monotonic() + 0.3
            while time.monotonic() < deadline or turns < 100:
                await trio.lowlevel.checkpoint()
                turns += 1
            assert rescue.is_alive()
            assert not select.select([], [writer], [], 0)[1]  # the pipe is full
            lines = b""
            while not lines.endswith(b"\n2999\n"):
                await trio.lowlevel.wait_readable(reader)
                lines += os.read(reader, 65536)
        assert rescue.is_alive()
    finally:
        rescue.cancel()
    assert lines[filled:].split() == [str(number).encode() for number in range(3000)]


async def test_lines_lost_while_blocked_are_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fill(writer)
    target = ObservedPipe(writer)
    log = tcplog(target)
    async with running(log):
        log_messages(log, "being written")
        await wait_until(target.started.is_set)
        log_messages(log, *map(str, range(LINES_MAX + 123)))
        assert log.lost == 123
        lines = b""
        while not lines.endswith(b" log lines were lost\n"):
            await trio.lowlevel.wait_readable(reader)
            lines += os.read(reader, 65536)
    assert lines.split(b"\n")[-3:] == [str(LINES_MAX - 1).encode(), b"123 log lines were lost", b""]
    assert lines.split().count(b"lost") == 1


@pytest.mark.slow
async def test_blocked_target_does_not_prevent_shutdown(
    pipe: tuple[int, int], short_flush_timeout: None
) -> None:
    _, writer = pipe
    fill(writer)
    target = ObservedPipe(writer)
    log = tcplog(target)
    async with running(log):
        log_messages(log, "never seen")
        await wait_until(target.started.is_set)
        started_at = trio.current_time()
    assert trio.current_time() - started_at < 5


async def test_blocked_reopen_does_not_prevent_shutdown(tmp_path: Path, short_flush_timeout: None) -> None:
    file = tmp_path / "log"
    log = tcplog(FileTarget(file))
    file.unlink()
    os.mkfifo(file)  # opening it waits for a reader
    rescue = threading.Timer(TIMEOUT_S, lambda: os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK)))
    rescue.start()
    try:
        async with running(log):
            log.reopen()
            await trio.sleep(0.1)  # the file is being opened now or soon; both are right
            started_at = trio.current_time()
        assert trio.current_time() - started_at < 3
    finally:
        rescue.cancel()
        rescue.join()


# A target that fails.


async def test_lines_lost_on_full_disk_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.symlink_to("/dev/full")
    log = tcplog(FileTarget(file))
    async with running(log):
        log_messages(log, "1", "2", "3")
        await wait_until(lambda: log.lost == 3)
        log_messages(log, "4", "5")
        await wait_until(lambda: log.lost >= 5)
        file.unlink()
        log.reopen()
        log_messages(log, "6")
        await wait_until(lambda: file.exists() and file.read_text())
    assert file.read_text().splitlines() == ["6", "the log was reopened", "5 log lines were lost"]


async def test_closed_pipe_loses_lines_only(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    log = tcplog(StreamTarget(writer))
    async with running(log):
        log_messages(log, "unread")
        await wait_until(lambda: log.lost == 1)


async def test_nonblocking_pipe_gets_every_line(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    target = ObservedPipe(writer)
    log = tcplog(target)
    lines: list[str] = []

    def read() -> None:
        lines.extend(read_all(reader))

    async with trio.open_nursery() as nursery:
        async with running(log):
            log_messages(log, *map(str, range(5000)))
            await wait_until(target.started.is_set)
            nursery.start_soon(trio.to_thread.run_sync, read)
        os.close(writer)
    assert lines == [str(number) for number in range(5000)]


# The end of the log.


async def test_remaining_lines_are_written_at_the_end(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    async with running(log):
        pass
    log_messages(log, "too late")
    assert (tmp_path / "log").read_text() == ""

    log = tcplog(FileTarget(tmp_path / "log"))
    async with running(log):
        log_messages(log, "last line")
    assert (tmp_path / "log").read_text() == "last line\n"


async def test_finish_writes_lines_despite_cancellation(tmp_path: Path) -> None:
    log = tcplog(FileTarget(tmp_path / "log"))
    with trio.CancelScope() as scope:
        scope.cancel()
        log_messages(log, "last line")
        await log.finish()
    assert (tmp_path / "log").read_text() == "last line\n"


async def test_target_is_closed_at_the_end(tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "log")
    async with running(tcplog(target)):
        pass
    with pytest.raises(LinesLostError, match="Bad file descriptor"):
        target.write([("info", "x")])


class SlowReopenFile(FileTarget):
    """A file whose reopening waits for an event, so that a test can act in between."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.started, self.may_reopen = threading.Event(), threading.Event()

    def reopen(self) -> None:
        self.started.set()
        assert self.may_reopen.wait(TIMEOUT_S)
        super().reopen()


async def test_stop_during_reopen_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.log.writer._FLUSH_TIMEOUT_S", TIMEOUT_S)
    file = tmp_path / "log"
    target = SlowReopenFile(file)
    log = tcplog(target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        log_messages(log, "last line")
        log.reopen()
        await wait_until(target.started.is_set)
        nursery.cancel_scope.cancel()
        target.may_reopen.set()
    started_at = trio.current_time()
    await log.finish()
    assert trio.current_time() - started_at < TIMEOUT_S / 2
    assert "last line" in file.read_text().splitlines()


async def test_finish_takes_two_seconds_in_total(
    tmp_path: Path, pipe: tuple[int, int], mock_clock: trio.testing.MockClock
) -> None:
    """This holds for a target that blocks twice: a reopening takes 1.9 seconds, then a write blocks."""
    reader, writer = pipe
    fill(writer)
    target = SlowReopenFile(tmp_path / "log")
    blocked = ObservedPipe(writer)
    target.write = blocked.write  # type: ignore[method-assign]
    log = tcplog(target)
    log.reopen()
    log_messages(log, "never written")

    async def finish() -> None:
        await log.finish()
        finished.append(trio.current_time())

    finished: list[float] = []
    started_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(finish)
        await trio.to_thread.run_sync(target.started.wait)
        mock_clock.jump(1.9)
        target.may_reopen.set()
        await trio.to_thread.run_sync(blocked.started.wait)
        mock_clock.jump(0.2)
        await trio.testing.wait_all_tasks_blocked(0.05)
        mock_clock.jump(5)
    os.read(reader, 65536)  # the blocked write ends
    assert finished == [started_at + 1.9 + 0.2]


@pytest.mark.slow
async def test_lines_lost_in_slow_reopen_are_counted(tmp_path: Path, short_flush_timeout: None) -> None:
    file = tmp_path / "log"
    target = SlowReopenFile(file)
    log = tcplog(target)
    async with running(log):
        log.reopen()
        log_messages(log, "meanwhile")
        await wait_until(target.started.is_set)
        await trio.sleep(0.7)  # longer than the timeout for a blocked target
        target.may_reopen.set()
        log_messages(log, "afterwards")
        await wait_until(lambda: "afterwards" in file.read_text())
    written = file.read_text()
    assert "meanwhile" in written or "1 log lines were lost" in written


# Syslog.

DATAGRAM = re.compile(
    rb"<(?P<priority>\d+)>(?P<date>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) mailproxy\[(?P<pid>\d+)\]: (?P<line>.*)\Z"
)


def check_datagram(datagram: bytes, priority: int, line: bytes) -> None:
    """Compare with HAProxy's form for ``log 127.0.0.1:514 local0``.

    An example is ``<134>Nov 22 16:45:57 haproxy[8367]: …``.
    """
    parts = DATAGRAM.fullmatch(datagram)
    assert parts, datagram
    assert (int(parts["priority"]), parts["line"], int(parts["pid"])) == (priority, line, os.getpid())
    now = time.time()
    recent_dates = {time.strftime("%b %e %H:%M:%S", time.localtime(now - ago)).encode() for ago in range(5)}
    assert parts["date"] in recent_dates


@pytest.fixture(params=["IPv4", pytest.param("IPv6", marks=needs_ipv6), "Unix"])
def syslog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Target]]:
    """A syslog socket, and the target that sends to it."""
    target_name: tuple[str, int] | str
    if request.param == "Unix":
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        target_name = str(tmp_path / "log")
        receiver.bind(target_name)
    else:
        host, family = {"IPv4": ("127.0.0.1", socket.AF_INET), "IPv6": ("::1", socket.AF_INET6)}[
            request.param
        ]
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        receiver.bind((host, 0))
        target_name = (host, receiver.getsockname()[1])
    receiver.setblocking(False)
    with receiver:
        yield receiver, open_target("syslog:…", target_name)


async def receive(receiver: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(receiver)
    return receiver.recv(65536)


async def test_syslog_datagrams_have_haproxy_form(syslog: tuple[socket.socket, Target]) -> None:
    receiver, target = syslog
    log = tcplog(target, "debug")
    async with running(log):
        log.session(ended_session())
        log.event(READY, "mailproxy is ready")
        log.event(ACCEPT_PAUSED, "frontend imap cannot accept")
        log.event(LINES_LOST, "3 log lines were lost")
        log.event(DEBUG_EVENT, "debug with \u00e9")
        first = await receive(receiver)
        assert first.endswith(b" fe fe/<NOSRV> -1/-1/0 0 K- 0/0/0/0/0 0/0")
        check_datagram(first, 134, first.split(b": ", 1)[1])
        check_datagram(await receive(receiver), 134, b"mailproxy is ready")
        check_datagram(await receive(receiver), 132, b"frontend imap cannot accept")
        check_datagram(await receive(receiver), 131, b"3 log lines were lost")
        check_datagram(await receive(receiver), 135, b"debug with \xc3\xa9")


async def test_restarted_syslog_gets_later_lines(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = tcplog(SyslogTarget(path))
    async with running(log):
        for message in ("before", "after"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
                receiver.bind(path)
                receiver.setblocking(False)
                log_messages(log, message)
                check_datagram(await receive(receiver), 134, message.encode())
            os.unlink(path)  # noqa: PTH108 - as syslog does


async def test_missing_syslog_gets_lost_count_later(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = tcplog(SyslogTarget(path))
    async with running(log):
        log_messages(log, "unread")
        await wait_until(lambda: log.lost == 1)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(path)
            receiver.setblocking(False)
            log_messages(log, "received")
            check_datagram(await receive(receiver), 134, b"received")
            check_datagram(await receive(receiver), 131, b"1 log lines were lost")
