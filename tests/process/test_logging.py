"""The log of a running program: several targets, a full disk, overload, and an edited configuration."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
from pathlib import Path

import pytest

from tests.support.program import TIMEOUT_S, Program
from tests.support.worker_group import Client, WorkerGroup, configuration, greeting_servers

pytestmark = pytest.mark.slow


def targets(folder: Path) -> str:
    return f"""
[[log.targets]]
to = "{folder}/text"
[[log.targets]]
to = "{folder}/json"
format = "json"
level = "debug"
[[log.targets]]
to = "{folder}/warnings"
format = "tcplog"
level = "warning"
[[log.targets]]
to = "stderr"
format = "tcplog"
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_every_target_has_own_lines(tmp_path: Path, workers: int) -> None:
    count = 12
    with greeting_servers("s1") as servers:
        text = configuration(*servers, more=targets(tmp_path), workers=workers)
        with WorkerGroup(text, tmp_path) as group:
            for _ in range(count):
                client = Client(group.addresses[0])
                assert client.greeting == "s1"
                client.close()
            group.send(signal.SIGUSR1)
            group.wait_for("SIGUSR1 means nothing here", where=tmp_path / "warnings")
            files = [tmp_path / name for name in ("text", "json", "warnings")]
            for file in files:
                file.rename(file.with_suffix(".old"))
            group.send(signal.SIGUSR2)
            for file in files[:2]:
                group.wait_for("the log was reopened", where=file)
            group.send(signal.SIGTERM)
            assert group.wait() == 0
    assert len(re.findall(" imap b/s1 ", group.text)) == count
    written = {file.name: file.with_suffix(".old").read_text() + file.read_text() for file in files}
    assert len(re.findall(r" imap -> b/s1 ", written["text"])) == count
    events = [json.loads(line)["event"] for line in written["json"].splitlines()]
    assert events.count("session") == count
    assert events.count("log-reopened") == 1
    assert events[-1] == "stopped"
    dates = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d\.\d{3}\] "
    assert all(re.match(dates, line) for line in written["warnings"].splitlines())
    assert " imap b/s1 " not in written["warnings"]


def test_lines_written_and_lost_add_up(tmp_path: Path) -> None:
    """The file size limit is set and lifted from outside, so that the process stays the same."""
    log = tmp_path / "log"
    count = 40
    with greeting_servers("s1") as servers, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "syslog"))
        syslog.settimeout(TIMEOUT_S)
        more = f"""
[[log.targets]]
to = "{log}"
format = "json"
[[log.targets]]
to = "syslog:{tmp_path}/syslog"
level = "error"
"""
        with Program(configuration(*servers, more=more, workers=1), tmp_path) as program:
            program.wait_for("mailproxy is ready", where=log)
            address = ("127.0.0.1", int(program.wait_for(r"127.0.0.1:(\d+)", where=log).rpartition(":")[2]))
            pid = program.process.pid
            soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 1700, hard))
            for _ in range(count):
                client = Client(address)
                assert client.greeting == "s1"
                client.close()
            message = syslog.recv(1000).decode()
            assert message.endswith(f"error: the log {log} cannot be written: [Errno 27] File too large")
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
            program.send(signal.SIGTERM)
            assert program.wait() == 0
    complete, torn, lost = 0, 0, 0
    events = set()
    for line in log.read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            assert line.startswith('{"time":')
            assert line.count('"time":') == 1, "two messages in a line"
            torn += 1
            continue
        events.add(event["event"])
        complete += event["event"] == "session"
        lost += event.get("lost", 0)
    assert {"draining", "stopped"} <= events, "these lines must be written once there is room"
    assert torn <= 1
    assert lost > 0
    assert complete + lost == count


def test_end_of_overload_is_logged(tmp_path: Path) -> None:
    """With its duration and the number of connections that were accepted late."""
    with (
        greeting_servers("s1") as servers,
        Program(configuration(*servers, workers=1, max_sessions=2), tmp_path) as program,
    ):
        address = program.addresses[0]
        clients = [Client(address) for _ in range(2)]
        assert [client.greeting for client in clients] == ["s1", "s1"]
        assert "accepting waits" not in program.text, "at the limit, but no connection waits"
        clients += [Client(address) for _ in range(3)]
        program.wait_for(
            r"there are 2 sessions, as many as process\.max_sessions allows: frontend imap waits with accepting, "
            r"connections in its queue: [123]"
        )
        for client in clients[:3]:
            client.close()
        for client in clients[3:]:
            assert client.greeting == "s1"
            client.close()
        program.wait_for(r"frontend imap accepts again after \d+\.\ds, connections accepted late: 3")
        with socket.create_connection(address, TIMEOUT_S) as later:
            assert later.recv(2) == b"s1"
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert program.text.count("accepts again") == 1
