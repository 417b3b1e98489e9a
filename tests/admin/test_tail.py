"""The command ``tail``: ends of sessions and events, live, filtered, and never at the cost of a session."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from attrs import define

from mailproxy.log import EventRecord, LostRecords, Record, RecordBuffer
from mailproxy.log.events import READY
from tests.admin.conftest import Administered

TIMEOUT_S = 30.0


@define
class TailClient:
    """A client that follows, line by line."""

    stream: trio.SocketStream
    received: bytes = b""

    async def line(self) -> str:
        with trio.fail_after(TIMEOUT_S):
            while b"\n" not in self.received:
                data = await self.stream.receive_some()
                if not data:
                    raise EOFError
                self.received += data
        line, _, self.received = self.received.partition(b"\n")
        return line.decode()


@asynccontextmanager
async def tail(administered: Administered, filters: str = "") -> AsyncIterator[TailClient]:
    log = administered.harness.proxies[0]._process.service.log
    before = len(log._subscribers)
    async with await trio.open_unix_socket(administered.path) as stream:
        await stream.send_all(f"tail {filters}\n".encode())
        with trio.fail_after(TIMEOUT_S):
            while len(log._subscribers) == before:  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.001)
        yield TailClient(stream)


async def session(administered: Administered) -> str:
    """Make a session, and return the name of its server."""
    async with await administered.harness.dial(administered.harness.proxies[0]) as client:
        return (await client.receive_line()).decode().strip()


async def wait_for_subscribers(administered: Administered, number: int) -> None:
    log = administered.harness.proxies[0]._process.service.log
    with trio.fail_after(TIMEOUT_S):
        while len(log._subscribers) != number:  # noqa: ASYNC110 - a count, not an event
            await trio.sleep(0.01)


async def test_ends_of_sessions_and_state_changes_come_live(administered: Administered) -> None:
    async with tail(administered) as client:
        server = await session(administered)
        line = await client.line()
        assert re.match(
            rf"[-0-9]+ [:.0-9]+\+\d\d:\d\d f -> b/{server} 127.0.0.1:\d+ client-closed after ", line
        )
        identity = (await administered.harness.session())["id"]
        assert line.endswith(f" id={identity}")
        await administered.ask("set server b/s1 state maint")
        assert "warning: Server b/s1 is going DOWN for maintenance" in await client.line()


async def test_filters_choose_by_server_frontend_and_end(administered: Administered) -> None:
    async with tail(administered, "server=b/s2 end=client-closed") as client:
        servers = [await session(administered) for _ in range(4)]
        await administered.ask("set server b/s2 state drain")
        lines = [await client.line() for _ in range(servers.count("s2"))]
        assert all("b/s2" in line for line in lines)
        await administered.ask("set server b/s2 state ready")
        await session(administered)
        await session(administered)
        assert "b/s2" in await client.line()
    async with tail(administered, "server=b/s1") as client:
        await administered.ask("set server b/s2 state drain")
        await administered.ask("set server b/s1 state drain")
        assert "Server b/s1" in await client.line()
    await administered.ask("set server b/s1 state ready")
    proxy = administered.harness.proxies[0]
    async with (
        tail(administered, "frontend=f end=killed") as client,
        await administered.harness.dial(proxy) as held,
    ):
        await held.receive_line()
        number = next(iter(proxy._process.service.registry.sessions))
        await session(administered)
        await administered.ask(f"shutdown session {number:x}")
        assert (await client.line()).endswith(f"id={number:x}")


async def test_formats_are_those_of_the_log(administered: Administered) -> None:
    async with tail(administered, "format=json") as client:
        server = await session(administered)
        value = json.loads(await client.line())
        assert (value["event"], value["server"], value["end"]) == ("session", server, "client-closed")
        await administered.ask("set server b/s1 state maint")
        value = json.loads(await client.line())
        assert (value["event"], value["server"], value["state"]) == ("server-state", "s1", "maint")
    async with tail(administered, "format=tcplog color=on") as client:
        await session(administered)
        assert re.fullmatch(r"\x1b\[32m127\.0\.0\.1:\d+ \[.*\] f b/s2 .* -- .*\x1b\[0m", await client.line())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("frontend=none", "No such frontend."),
        ("server=b/none", "No such server."),
        ("server=s1", "Require 'backend/server'."),
        ("end=tired", "No such end reason. They are: client-closed,"),
        ("format=xml", "format is one of text, json, tcplog."),
        ("f", "Unexpected 'f'."),
        ("color=pink", "color is on or off."),
    ],
)
async def test_unknown_filters_are_refused(administered: Administered, words: str, message: str) -> None:
    assert message in await administered.ask(f"tail {words}")


async def test_level_user_may_not_follow(administered: Administered) -> None:
    assert "Permission denied" in await administered.ask("user;tail")


async def test_line_or_leaving_ends_it_and_nothing_is_left(administered: Administered) -> None:
    async with tail(administered) as client:
        await client.stream.send_all(b"\n")
        assert await client.line() == ""
        with pytest.raises(EOFError):
            await client.line()
    async with tail(administered):
        pass
    await wait_for_subscribers(administered, 0)


async def test_prompt_goes_on_after_a_tail(administered: Administered) -> None:
    async with await trio.open_unix_socket(administered.path) as stream:
        await stream.send_all(b"prompt\ntail\n")
        await wait_for_subscribers(administered, 1)
        client = TailClient(stream)
        await session(administered)
        assert await client.line() == ""
        assert "client-closed" in await client.line()
        await stream.send_all(b"\nshow version\n")
        assert await client.line() == ""
        assert re.fullmatch(r"> [0-9.a-z]+", await client.line())


async def test_client_that_sends_nothing_more_still_reads(
    administered: Administered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.admin.runtime.server._GONE_INTERVAL_S", 0.01)
    async with tail(administered) as client:
        await client.stream.send_eof()
        await trio.sleep(0.05)
        await session(administered)
        assert "client-closed" in await client.line()
    await wait_for_subscribers(administered, 0)


async def test_silence_does_not_end_it(administered: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.admin.runtime.call.IDLE_TIMEOUT_S", 0.05)
    async with tail(administered) as client:
        await trio.sleep(0.2)
        await session(administered)
        assert "client-closed" in await client.line()


async def test_number_of_tails_is_bounded(
    administered: Administered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.admin.runtime.tail._STREAMS_MAX", 2)
    async with tail(administered), tail(administered):
        assert "There are 2 tails already." in await administered.ask("tail")


async def test_slow_reader_loses_lines_and_sessions_go_on(administered: Administered) -> None:
    log = administered.harness.proxies[0]._process.service.log
    async with tail(administered, "format=json") as client:
        sent = 0
        for _ in range(40):
            for _ in range(100):
                log.event(READY, "x" * 1000)
                sent += 1
            await trio.lowlevel.checkpoint()
        with trio.fail_after(TIMEOUT_S):
            await session(administered)
        received, lost, session_lines = 0, 0, 0
        while received + lost + session_lines < sent + 1:
            value = json.loads(await client.line())
            if value["event"] == "lines-lost":
                lost += value["lost"]
                assert value["message"] == f"{value['lost']} lines lost: this client reads too slowly"
            elif value["event"] == "session":
                session_lines += 1
            else:
                received += 1
        assert lost > 0
        assert received > 500


async def test_buffer_counts_what_does_not_fit() -> None:
    buffer = RecordBuffer(2, lambda record: isinstance(record, EventRecord) and record.message != "no")
    records: list[Record] = [EventRecord(READY, text, {}, 0.0) for text in ("1", "no", "2", "3")]
    for record in records:
        buffer.add(record)
    buffer.add(LostRecords(5))
    assert await buffer.take() == ((records[0], records[2]), 6)
    with trio.move_on_after(0.01) as scope:
        await buffer.take()
    assert scope.cancelled_caught


# mailproxy ctl tail


@pytest.mark.slow
async def test_ctl_follows_until_interrupted(administered: Administered) -> None:
    command = [
        sys.executable,
        "-m",
        "mailproxy",
        "ctl",
        "-s",
        str(administered.path),
        "tail",
        "--end",
        "client-closed",
    ]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        )
        assert process.stdout is not None
        await wait_for_subscribers(administered, 1)
        await session(administered)
        text = b""
        with trio.fail_after(TIMEOUT_S):
            while not text.endswith(b"\n"):
                text += await process.stdout.receive_some()
        assert b"client-closed" in text
        assert b"\x1b" not in text
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "is_colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
async def test_ctl_colors_a_terminal(
    administered: Administered, environment: dict[str, str], is_colored: bool
) -> None:
    command = [
        sys.executable,
        "-m",
        "mailproxy",
        "ctl",
        "-s",
        str(administered.path),
        "tail",
        "--frontend",
        "f",
    ]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220 - it goes on beside this task
        command, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", **environment}
    )
    os.close(theirs)
    try:
        await wait_for_subscribers(administered, 1)
        await session(administered)
        with trio.fail_after(TIMEOUT_S):
            await trio.lowlevel.wait_readable(ours)
        text = os.read(ours, 4096)
    finally:
        process.terminate()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + TIMEOUT_S):
            await trio.to_thread.run_sync(process.wait)
        os.close(ours)
    assert b"client-closed" in text
    assert (b"\x1b[32m" in text) is is_colored


def ctl(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailproxy", "ctl", "-s", str(path), "tail", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
async def test_ctl_reports_refusals(administered: Administered) -> None:
    result = await trio.to_thread.run_sync(ctl, administered.path, "--end", "tired")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("No such end reason.")
    result = await trio.to_thread.run_sync(ctl, administered.path, "--colour")
    assert result.returncode == 2
    result = await trio.to_thread.run_sync(ctl, administered.path, "--help")
    assert "--frontend F" in result.stdout


@pytest.mark.slow
def test_ctl_prints_lines_that_begin_with_an_address_in_brackets(tmp_path: Path) -> None:
    line = b"[2001:db8::9]:5 [22/Nov/2026:14:46:22.419] f b/s1 0/0/1 2 -- 1/1/0/0/0 0/0\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mailproxy",
                "ctl",
                "-s",
                str(tmp_path / "s"),
                "tail",
                "--format",
                "tcplog",
            ],
            stdout=subprocess.PIPE,
        )
        with process, sock.accept()[0] as connection:
            connection.sendall(b"\n" + line)
            connection.shutdown(socket.SHUT_WR)
            assert process.communicate(timeout=TIMEOUT_S)[0] == line


@pytest.mark.slow
def test_ctl_without_a_proxy_fails(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
    result = ctl(tmp_path / "s")
    assert result.returncode == 1
    assert "is the proxy running" in result.stderr
