"""A process is killed at some moment of a reload: the old or the new configuration serves, and the next reload works."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.admin_client import ask, stat
from tests.support.ports import are_listening, free_port
from tests.support.program import TIMEOUT_S
from tests.support.worker_group import (
    GreetingServer,
    WorkerGroup,
    configuration,
    greeting_servers,
    is_running,
    wait_until,
)

pytestmark = pytest.mark.slow

MOMENTS = 10
RELOAD_S = 0.06  # the kills are spread over this time; a reload takes 20 to 40 ms


@pytest.fixture
def servers() -> Iterator[list[GreetingServer]]:
    with greeting_servers("old", "new") as both:
        yield both


def moments(seed: str) -> list[float]:
    """One in each tenth of a reload."""
    chance = random.Random(seed)  # noqa: S311 - no secret depends on it
    return [(number + chance.random()) * RELOAD_S / MOMENTS for number in range(MOMENTS)]


def greeting(group: WorkerGroup) -> str:
    """Return which server a new session gets, as soon as one is served."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        with contextlib.suppress(ConnectionError):
            return group.connect().greeting
        assert time.monotonic() < end, group.text
        time.sleep(0.01)


def reload_until_used(group: WorkerGroup, name: str) -> None:
    """Reload, and wait until every new session gets this server."""
    before = len(group.lines("reloaded in"))
    group.send(signal.SIGHUP)
    wait_until(lambda: len(group.lines("reloaded in")) > before)
    wait_until(lambda: {greeting(group) for _ in range(6)} == {name})


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("process", ["control", "worker 1"])
def test_killed_process_leaves_one_of_both_configurations(
    servers: list[GreetingServer], tmp_path: Path, process: str, half: int
) -> None:
    texts = {server.name: configuration(server) for server in servers}
    with WorkerGroup(texts["old"], tmp_path) as group:
        greeting(group)
        names = ["new", "old"]
        for number, moment in enumerate(moments(process)[half::2]):
            name = names[number % 2]
            group.edit(texts[name])
            victim = wait_until(lambda: group.children.get(process))
            group.send(signal.SIGHUP)
            time.sleep(moment)
            os.kill(victim, signal.SIGKILL)
            assert greeting(group) in {"old", "new"}
            wait_until(lambda: group.children.get(process, victim) != victim)  # noqa: B023 - called at once
            reload_until_used(group, name)
            time.sleep(1.0)  # one that dies sooner is replaced with a pause
        assert not group.lines("reload failed, .*Traceback|helper-failed")
        group.send(signal.SIGTERM)
        assert group.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", moments("supervisor"))
def test_killed_supervisor_makes_room_for_a_fresh_start(
    servers: list[GreetingServer], tmp_path: Path, moment: float
) -> None:
    """The children drain, and a fresh start serves beside them."""
    port = free_port()
    texts = {
        server.name: configuration(server, drain_timeout="500ms").replace(
            '"127.0.0.1:0"', f'"127.0.0.1:{port}"'
        )
        for server in servers
    }
    with WorkerGroup(texts["old"], tmp_path) as group:
        client = group.connect()
        assert client.greeting == "old"
        pids = group.pids
        group.edit(texts["new"])
        group.send(signal.SIGHUP)
        time.sleep(moment)
        group.process.kill()
        group.process.wait()
        wait_until(lambda: not are_listening([("127.0.0.1", port)]))
        folder = tmp_path / "fresh"
        folder.mkdir()
        with WorkerGroup(texts["new"], folder) as fresh:
            assert greeting(fresh) == "new"
            fresh.send(signal.SIGTERM)
            assert fresh.wait() == 0
        wait_until(lambda: not any(map(is_running, pids)))


def test_nothing_of_a_killed_supervisor_is_in_the_way(servers: list[GreetingServer], tmp_path: Path) -> None:
    """A fresh start has admin socket, state file and pid file, while a session of before goes on."""
    admin, state, pid = (tmp_path / name for name in ("admin", "state", "pid"))
    port = free_port()
    text = configuration(
        servers[0], more=f'[admin]\nsocket = "{admin}"\n', drain_timeout="60s", idle_first="60s",
        state_file=str(state), pid_file=str(pid),
    ).replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"')  # fmt: skip
    with WorkerGroup(text, tmp_path) as group:
        client = group.connect()
        assert client.greeting == "old"
        ask(admin, "set maxconn frontend imap 77")
        pids = group.pids
        group.process.kill()
        group.process.wait()
        wait_until(state.exists)  # the control process writes it a last time
        wait_until(lambda: not are_listening([("127.0.0.1", port)]))
        folder = tmp_path / "fresh"
        folder.mkdir()
        with WorkerGroup(text, folder) as fresh:
            assert greeting(fresh) == "old"
            assert pid.read_text() == f"{fresh.process.pid}\n"
            assert stat(admin)["imap", "FRONTEND"]["slim"] == "77"
            assert client.echoes()
            client.close()
            wait_until(lambda: not any(map(is_running, pids)))
            assert ask(admin, "show cli level") == "admin\n\n"
            fresh.send(signal.SIGINT)
            assert fresh.wait() == 0
