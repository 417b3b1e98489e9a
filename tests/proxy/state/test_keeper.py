"""The state file over a restart: what is taken up, what is not, and what is logged."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import mailproxy
from mailproxy.log import Log
from mailproxy.proxy.state import StateKeeper
from tests.process.test_odd_circumstances import needs_root
from tests.support.proxy.backend_cluster import BackendCluster
from tests.support.proxy.proxy_harness import Line, ProxyHarness
from tests.support.timeouts import TIMEOUT_S, wait_until

HOST_1, HOST_2 = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def file(harness: ProxyHarness) -> Path:
    return harness.folder / "state"


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def read(file: Path) -> bytes:
    return file.read_bytes()


def has_leftover(file: Path) -> bool:
    return file.with_name(".state.new").exists()


def inode_and_mode(file: Path) -> tuple[int, int]:
    info = file.stat()
    return info.st_ino, stat.S_IMODE(info.st_mode)


async def start(cluster: BackendCluster, file: Path, **backend: Any) -> mailproxy.Proxy:
    options: dict[str, Any] = {
        "balance": "roundrobin",
        "accept_proxy": True,
        "stick": {"on": "source"},
        **backend,
    }
    return await cluster.start_proxy(process={"state_file": str(file)}, **options)


async def restart(cluster: BackendCluster, file: Path, **backend: Any) -> mailproxy.Proxy:
    await cluster.proxy.drain(0)
    return await start(cluster, file, **backend)


def events(harness: ProxyHarness, name: str) -> list[Line]:
    return [line for line in harness.lines() if line["event"] == name]


async def ignored_reason(cluster: BackendCluster, file: Path) -> str:
    """Start with this file, and return why it was ignored."""
    await cluster.add_server("s1")
    await start(cluster, file)
    (line,) = await cluster.harness.events("state-ignored")
    assert line["level"] == "warning"
    assert await cluster.connect_and_close() == "s1"
    return str(line["reason"])


async def test_wishes_of_the_operator_survive(cluster: BackendCluster, file: Path) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.add_server("s3")
    await start(cluster, file)
    cluster.states["s1"].set_state("maint")
    cluster.states["s2"].set_state("drain")
    cluster.states["s3"].set_weight(7)
    await restart(cluster, file)
    states = cluster.states
    assert [(each.state, each.weight) for each in states.values()] == [
        ("maint", 1),
        ("drain", 1),
        ("ready", 7),
    ]
    assert [await cluster.connect_and_close(HOST_1) for _ in range(3)] == ["s3"] * 3
    (line,) = events(cluster.harness, "state-restored")
    assert (line["file"], line["age"]) == (str(file), 0)


async def test_changed_configuration_wins_over_the_wish(cluster: BackendCluster, file: Path) -> None:
    await cluster.add_server("s1", weight=5)
    await start(cluster, file)
    cluster.states["s1"].set_weight(9)
    cluster.states["s1"].set_state("drain")
    await cluster.proxy.drain(0)
    cluster.server_tables[0]["weight"] = 3
    await start(cluster, file)
    assert (cluster.states["s1"].weight, cluster.states["s1"].state) == (3, "drain")


async def test_clients_stick_after_a_restart(cluster: BackendCluster, file: Path) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await start(cluster, file)
    assert await cluster.connect_and_close(HOST_1) == "s1"
    assert await cluster.connect_and_close(HOST_2) == "s2"
    await restart(cluster, file)
    assert [await cluster.connect_and_close(HOST_2) for _ in range(2)] == ["s2"] * 2
    assert [await cluster.connect_and_close(HOST_1) for _ in range(2)] == ["s1"] * 2


async def test_server_that_was_down_needs_its_passes(cluster: BackendCluster, file: Path) -> None:
    """Without the state it would count as up with the first passed check."""
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    check = {"type": "tcp", "interval": "50ms", "rise": 3, "fall": 1}
    await start(cluster, file, check=check)
    server = cluster.servers["s1"]
    await server.close()
    await wait_until(lambda: cluster.states["s1"].status == "DOWN")
    await cluster.proxy.drain(0)
    await cluster.open_server(server)
    await start(cluster, file, check={**check, "interval": "1h", "fast_interval": "1h"})
    assert cluster.states["s1"].status == "DOWN 1/3"
    assert cluster.states["s2"].status == "UP"


async def test_file_has_its_mode_and_is_replaced(cluster: BackendCluster, file: Path) -> None:
    """What a process that was killed has left behind does not hinder the next one."""
    write(file.with_name(".state.new"), b"left behind")
    write(file, b"")
    before, _ = inode_and_mode(file)
    umask = os.umask(0)
    try:
        await cluster.add_server("s1")
        await start(cluster, file)
        await cluster.proxy.drain(0)
    finally:
        os.umask(umask)
    after, mode = inode_and_mode(file)
    assert mode == 0o600
    assert after != before
    assert not has_leftover(file)


async def test_file_is_written_while_the_proxy_runs(
    cluster: BackendCluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.state.keeper._INTERVAL_S", 0.02)
    await cluster.add_server("s1")
    await start(cluster, file)
    cluster.states["s1"].set_state("drain")
    await wait_until(lambda: file.exists() and '"drain"' in file.read_text())


async def test_missing_file_is_nothing_to_log(cluster: BackendCluster, file: Path) -> None:
    await cluster.add_server("s1")
    await start(cluster, file)
    assert not events(cluster.harness, "state-ignored")
    assert not events(cluster.harness, "state-restored")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "another program's file"),
        (b"# HAProxy server state\n1\n", "damaged"),
        (b'{"format":"mailproxy-state","version":1', "damaged"),
        (b'{"format":"mailproxy-state","version":3}\n', "version 3"),
    ],
)
async def test_damaged_file_is_ignored(
    cluster: BackendCluster, file: Path, content: bytes, reason: str
) -> None:
    write(file, content)
    assert reason in await ignored_reason(cluster, file)


async def test_pipe_is_ignored(cluster: BackendCluster, file: Path) -> None:
    os.mkfifo(file)
    assert await ignored_reason(cluster, file) == "it is not a regular file"


async def test_huge_file_is_ignored(cluster: BackendCluster, file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert "bytes, and" in await ignored_reason(cluster, file)


@needs_root
async def test_file_of_another_user_is_ignored(cluster: BackendCluster, file: Path) -> None:
    write(file, b"")
    os.chown(file, 65534, 65534)
    assert await ignored_reason(cluster, file) == "it belongs to another user (65534)"


async def test_old_file_is_ignored(
    cluster: BackendCluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.add_server("s1")
    await start(cluster, file)
    cluster.states["s1"].set_state("maint")
    await cluster.proxy.drain(0)
    now = time.time()
    monkeypatch.setattr("mailproxy.proxy.state.keeper.time.time", lambda: now + 400)
    await start(cluster, file)
    (line,) = await cluster.harness.events("state-ignored")
    assert line["reason"] == "it is 400 s old, and process.state_max_age is 300 s"
    assert cluster.states["s1"].state == "ready"


async def test_file_from_the_future_is_ignored(
    cluster: BackendCluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.add_server("s1")
    await start(cluster, file)
    await cluster.proxy.drain(0)
    now = time.time()
    monkeypatch.setattr("mailproxy.proxy.state.keeper.time.time", lambda: now - 1000)
    await start(cluster, file)
    (line,) = await cluster.harness.events("state-ignored")
    assert line["reason"] == "it is from 1000 s in the future"


async def test_failed_writes_are_logged_once(
    cluster: BackendCluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.state.keeper._INTERVAL_S", 0.01)
    await cluster.add_server("s1")
    file = file.parent / "folder" / "state"
    file.parent.mkdir()
    await start(cluster, file)
    await wait_until(file.exists)
    file.unlink()
    file.mkdir()  # no file can be renamed to it
    await wait_until(lambda: events(cluster.harness, "state-not-written"))
    await trio.sleep(0.1)
    assert len(events(cluster.harness, "state-not-written")) == 1
    file.rmdir()
    await wait_until(file.exists)


async def test_process_that_has_not_read_the_file_does_not_write_it(file: Path) -> None:
    """It failed at its start, and knows less than the file."""
    write(file, b"precious")
    keeper = StateKeeper(file, {}, max_age=300, log=Log([]))
    await keeper.finish()
    assert read(file) == b"precious"
    await keeper.restore()
    await keeper.finish()
    assert read(file) != b"precious"


async def test_abandoned_write_does_not_replace_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk hangs in the minute's write, which the stop abandons."""
    begun, released = threading.Event(), threading.Event()
    written: list[int] = []

    def slow_replace(*_: object) -> None:
        number = 2 if begun.is_set() else 1
        begun.set()
        if number == 1:
            released.wait(TIMEOUT_S)
        written.append(number)

    monkeypatch.setattr("mailproxy.proxy.state.keeper.replace", slow_replace)
    monkeypatch.setattr("mailproxy.proxy.state.keeper._INTERVAL_S", 0.001)
    keeper = StateKeeper(tmp_path / "state", {}, max_age=300, log=Log([]))
    keeper.allow_writing()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await wait_until(begun.is_set)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.finish)
        await trio.testing.wait_all_tasks_blocked(cushion=0.1)
        assert written == []
        released.set()
    assert written == [1, 2]
