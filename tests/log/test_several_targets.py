"""Several log targets: each has its own format and level, and a failing or blocked one affects no other."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from mailproxy.log import Log, Output, open_target
from mailproxy.log import formats as lines
from mailproxy.log.events import ACCEPT_PAUSED, READY
from mailproxy.log.targets import FileTarget, SyslogTarget
from tests.log.test_writer import ended_session, receive, running
from tests.support.timeouts import fail_after_timeout, wait_until


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


class BlockedFile(FileTarget):
    """A file whose disk does not answer until ``may_write`` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.started, self.may_write = threading.Event(), threading.Event()

    def write(self, lines: Sequence[tuple[str, str]]) -> None:
        self.started.set()
        assert self.may_write.wait(20)
        super().write(lines)


async def test_each_target_has_its_own_format_and_level(tmp_path: Path) -> None:
    text, machine, warnings = (tmp_path / name for name in ("text", "json", "warnings"))
    log = Log(
        [
            Output(FileTarget(text)),
            Output(FileTarget(machine), "json", "debug"),
            Output(FileTarget(warnings), "tcplog", "warning"),
        ]
    )
    async with running(log):
        log.session(ended_session())
        log.event(READY, "mailproxy is ready")
        log.event(ACCEPT_PAUSED, "frontend imap cannot accept")
    assert [line[30:].partition(" ")[0] for line in text.read_text().splitlines()] == [
        "fe",
        "info:",
        "warning:",
    ]
    events = [json.loads(line)["event"] for line in machine.read_text().splitlines()]
    assert events == ["session", "ready", "accept-paused"]
    assert [line.partition("] ")[2] for line in warnings.read_text().splitlines()] == [
        "frontend imap cannot accept"
    ]


async def test_session_is_formatted_once_per_format(  # noqa: ASYNC124 - its fixtures are Trio's
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = []

    def count(record: object) -> str:
        records.append(record)
        return "line"

    monkeypatch.setattr("mailproxy.log.writer.FORMATS", {"json": (count, lines.json_event)})
    log = Log([Output(FileTarget(tmp_path / name), "json") for name in "abc"])
    log.session(ended_session())
    assert len(records) == 1


async def test_failing_target_is_reported_by_the_others(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.symlink_to("/dev/full")
    log = Log([Output(FileTarget(bad), name=str(bad)), Output(FileTarget(good), "json")])
    async with running(log):
        log.event(READY, "first")
        await wait_until(lambda: "log-not-written" in good.read_text())
        log.event(READY, "second")
        await wait_until(lambda: log.lost == 2)
        bad.unlink()
        log.reopen()
        log.event(READY, "third")
        await wait_until(lambda: bad.exists() and "third" in bad.read_text())
    entries = [json.loads(line) for line in good.read_text().splitlines()]
    failed = [line for line in entries if line["event"] == "log-not-written"]
    assert [(line["to"], line["reason"]) for line in failed] == [
        (str(bad), "[Errno 28] No space left on device")
    ]
    assert {"first", "second", "third", "the log was reopened"} <= {line["message"] for line in entries}
    assert "lines-lost" not in {line["event"] for line in entries}
    assert "2 log lines were lost" in bad.read_text()


async def test_blocked_target_does_not_block_others(tmp_path: Path) -> None:
    blocked, good = BlockedFile(tmp_path / "stuck"), tmp_path / "good"
    log = Log([Output(blocked), Output(FileTarget(good))])
    try:
        async with running(log):
            log.event(READY, "first")
            await wait_until(blocked.started.is_set)
            log.event(READY, "second")
            await wait_until(lambda: "second" in good.read_text())
            good.rename(tmp_path / "old")
            log.reopen()
            log.event(READY, "third")
            await wait_until(lambda: good.exists() and "third" in good.read_text())
            blocked.may_write.set()
    finally:
        blocked.may_write.set()
    written = (tmp_path / "stuck").read_text()
    assert [word in written for word in ("first", "second", "third")] == [True] * 3


async def test_all_targets_are_reopened_and_log_it_once(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    log = Log([Output(FileTarget(file)) for file in files])
    async with running(log):
        for file in files:
            file.rename(file.with_suffix(".old"))
        log.reopen()
        await log.wait_reopened()
        await wait_until(lambda: all("reopened" in file.read_text() for file in files))
    assert [file.read_text().count("the log was reopened") for file in files] == [1, 1]


async def test_failed_reopen_is_reported_in_all_targets(tmp_path: Path) -> None:
    gone, good = tmp_path / "gone", tmp_path / "good"
    gone.mkdir()
    log = Log([Output(FileTarget(gone / "log")), Output(FileTarget(good))])
    async with running(log):
        gone.rename(tmp_path / "moved")
        log.reopen()
        await wait_until(lambda: "cannot be reopened" in good.read_text())
    assert str(gone / "log") in good.read_text()
    assert "was reopened" not in good.read_text()
    assert "cannot be reopened" in (tmp_path / "moved" / "log").read_text()


@pytest.mark.parametrize(
    ("facility", "number"), [("mail", 2), ("daemon", 3), ("authpriv", 10), ("local7", 23)]
)
async def test_syslog_gets_facility_and_tag_of_its_output(tmp_path: Path, facility: str, number: int) -> None:
    path = str(tmp_path / "syslog")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.setblocking(False)
        target = open_target(f"syslog:{path}", path, facility=facility, tag="mp/imap")
        log = Log([Output(target, "text")])
        async with running(log):
            log.event(ACCEPT_PAUSED, "frontend imap cannot accept")
            datagram = (await receive(receiver)).decode()
    assert datagram.startswith(f"<{number * 8 + 4}>")
    assert datagram.endswith(f" mp/imap[{os.getpid()}]: warning: frontend imap cannot accept")


async def test_syslog_and_file_have_one_date_each(tmp_path: Path) -> None:
    path = str(tmp_path / "syslog")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.setblocking(False)
        log = Log([Output(SyslogTarget(path), "tcplog"), Output(FileTarget(tmp_path / "log"), "tcplog")])
        async with running(log):
            log.event(READY, "mailproxy is ready")
            datagram = (await receive(receiver)).decode()
    assert datagram.endswith(f"mailproxy[{os.getpid()}]: mailproxy is ready")
    line = (tmp_path / "log").read_text()
    assert line.startswith("[")
    assert line.endswith("] mailproxy is ready\n")
