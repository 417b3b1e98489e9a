"""Drains over several processes: the control process begins them, each worker ends its own sessions."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from mailproxy.log import Log
from mailproxy.proxy.drain import DrainStatus, DrainTarget, Purpose
from mailproxy.workers.control.drains import ControlDrains
from mailproxy.workers.control.registry import WorkerRegistry
from mailproxy.workers.control.worker_handle import WorkerHandle
from mailproxy.workers.messages import Ack, CancelDrain, DrainSessions, Message
from tests.support.worker_group import Client, WorkerGroup, configuration, greeting_servers, wait_until

pytestmark = pytest.mark.slow

# The program with a control process that executes the lines of a file: the admin socket is not needed.
SCRIPT = """
import sys
from pathlib import Path
import trio
from mailproxy.cli.main import main
from mailproxy.proxy.drain import DrainTarget
from mailproxy.workers.control.control import Control

run = Control.run
commands, answers = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))

async def execute(control, line):
    word, *args = line.split()
    if word == "show":
        return " | ".join(map(str, control.drains.statuses()))
    target = DrainTarget(backend="b", server=args[0]) if args[0] != "imap" else DrainTarget(frontend="imap")
    if word == "cancel":
        return await control.drains.cancel(target)
    if word == "kill":
        return await control.drains.kill(target, float(args[1]))
    if target.frontend:
        return await control.drains.drain_frontend("imap", float(args[1]))
    backend = control.backends["b"]
    (server,) = [each for each in backend.servers if each.name == target.server]
    return await control.drains.drain_server(backend, server, float(args[1]))

async def execute_lines(control):
    while True:
        await trio.sleep(0.01)
        if commands.exists():
            line = commands.read_text()
            commands.unlink()
            answers.write_text(str(await execute(control, line)) + "\\n")

async def run_with_commands(control):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(execute_lines, control)
        await run(control)
        nursery.cancel_scope.cancel()

Control.run = run_with_commands
sys.exit(main())
"""


class CommandedGroup(WorkerGroup):
    """A proxy of several processes whose control process takes commands."""

    def __init__(self, text: str, folder: Path) -> None:
        super().__init__(text, folder)
        self._commands, self._answers = folder / "commands", folder / "answers"
        script = folder / "commanded.py"
        script.write_text(SCRIPT)
        self.command = [
            sys.executable, str(script), str(self._commands), str(self._answers), "run", str(self.file),
        ]  # fmt: skip

    def command_line(self, line: str) -> str:
        self._answers.unlink(missing_ok=True)
        pending = self._commands.with_suffix(".new")
        pending.write_text(line)
        pending.rename(self._commands)
        wait_until(lambda: self._answers.exists() and self._answers.read_text().endswith("\n"))
        return self._answers.read_text().strip()


@contextmanager
def group_with_clients(
    folder: Path, *servers: str, **process: object
) -> Iterator[tuple[CommandedGroup, dict[str, list[Client]]]]:
    """Each worker has one client at each server."""
    with greeting_servers(*servers) as running:
        text = configuration(*running, **process)  # type: ignore[arg-type]
        with CommandedGroup(text, folder) as group:
            clients = {
                server: [group.connect_to_server(server, worker) for worker in (0, 1)] for server in servers
            }
            yield group, clients


def test_server_drains_in_all_workers(tmp_path: Path) -> None:
    """Its sessions end in each worker, the others go on, and the log has each line once."""
    with group_with_clients(tmp_path, "s1", "s2", idle_first="100ms") as (group, clients):
        group.command_line("drain s1 60")
        assert all(client.is_closed() for client in clients["s1"])
        group.wait_for(r"server b/s1: all sessions have ended")
        assert all(client.echoes() for client in clients["s2"])
        for _ in range(6):
            assert group.connect().greeting == "s2"
        assert len(group.lines("server b/s1: 2 sessions end within 60s")) == 1
        assert len(group.lines("server b/s1: all sessions have ended")) == 1
        assert len(group.lines("imap b/s1 .* K- ")) == 2
        assert group.command_line("show") == ""


def test_frontend_drains_in_all_workers(tmp_path: Path) -> None:
    with group_with_clients(tmp_path, "s1", idle_first="100ms") as (group, clients):
        group.command_line("drain imap 60")
        assert all(client.is_closed() for client in clients["s1"])
        group.wait_for("frontend imap: all sessions have ended")


def test_kill_ends_busy_sessions(tmp_path: Path) -> None:
    with group_with_clients(tmp_path, "s1", "s2") as (group, clients):
        group.command_line("kill s1 60")
        assert all(client.is_closed() for client in clients["s1"])
        assert all(client.echoes() for client in clients["s2"])
        group.wait_for("server b/s1: all sessions have ended")
        assert group.connect_to_server("s1", 0).echoes()


def test_status_and_cancel_concern_all_workers(tmp_path: Path) -> None:
    with group_with_clients(tmp_path, "s1", "s2") as (group, clients):
        group.command_line("drain s1 1000")
        status = group.command_line("show")
        assert status in (
            "server b/s1 left=2 idle=0 deadline=1000s",
            "server b/s1 left=2 idle=0 deadline=999s",
        )
        assert group.command_line("cancel s1") == "True"
        assert group.command_line("cancel s1") == "False"
        assert group.command_line("show") == ""
        group.wait_for("server b/s1: 2 sessions go on")
        assert all(client.echoes() for client in clients["s1"])
        assert not group.lines("all sessions have ended")


def test_drain_goes_on_without_the_control_process(tmp_path: Path) -> None:
    """A new control process learns of it from the workers, and may give it another deadline."""
    with group_with_clients(tmp_path, "s1", "s2") as (group, clients):
        group.command_line("drain s1 1000")
        group.kill_and_wait("control")
        group.wait_for("control .* another one took its place")
        wait_until(lambda: group.command_line("show").startswith("server b/s1 left=2"))
        group.command_line("drain s1 1")
        assert all(client.is_closed() for client in clients["s1"])
        group.wait_for("server b/s1: all sessions have ended")
        assert all(client.echoes() for client in clients["s2"])


def test_drain_ends_without_a_worker_that_dies(tmp_path: Path) -> None:
    with group_with_clients(tmp_path, "s1") as (group, clients):
        group.command_line("drain s1 1000")
        for name in ("worker 1", "worker 2"):
            group.kill_and_wait(name)
        group.wait_for("server b/s1: all sessions have ended")
        assert all(client.is_closed() for client in clients["s1"])


def test_clients_stick_to_a_drained_server_no_longer(tmp_path: Path) -> None:
    with greeting_servers("s1", "s2") as servers:
        text = configuration(*servers, idle_first="100ms", backend="stick = { size = 100 }")
        with CommandedGroup(text, tmp_path) as group:
            first = group.connect()
            server = first.greeting
            other = {"s1": "s2", "s2": "s1"}[server]
            wait_until(lambda: all(group.connect().greeting == server for _ in range(4)))
            group.command_line(f"drain {server} 60")
            assert first.is_closed()
            wait_until(lambda: all(group.connect().greeting == other for _ in range(4)))


def test_stop_ends_idle_sessions_first(tmp_path: Path) -> None:
    with group_with_clients(tmp_path, "s1", drain_timeout="60s", idle_first="500ms") as (group, clients):
        time.sleep(0.5)
        started_at = time.monotonic()
        group.send(signal.SIGTERM)
        assert all(client.is_closed() for client in clients["s1"])
        assert group.wait() == 0
        assert time.monotonic() - started_at < 15


class FakeWorker:
    """A worker's handle, and what the control process has sent it."""

    def __init__(self, slot: int) -> None:
        self.sent: list[Message] = []
        self.handle = WorkerHandle(self, slot, os.getpid(), is_registered=True)  # type: ignore[arg-type]

    def send_nowait(self, message: Message, **_: object) -> bool:
        self.sent.append(message)
        return True


class Control:
    """The control process's part of drains with two workers that answer when the test says so."""

    def __init__(self) -> None:
        self.registry = WorkerRegistry()
        self.workers = [FakeWorker(slot) for slot in (0, 1)]
        for worker in self.workers:
            self.registry.add(worker.handle)
        self.events: list[str] = []
        log = Log([])
        log.event = lambda event, *_, **__: self.events.append(event.name)  # type: ignore[method-assign]
        self.drains = ControlDrains(self.registry, lambda _: 4, log)

    def report(self, worker: int, *left: int, what: str = "frontend f") -> None:
        statuses = tuple(DrainStatus(what, Purpose.DRAIN, each, 0, 10.0) for each in left)
        self.drains.on_progress(self.workers[worker].handle, statuses)

    def answer(self, worker: int, *left: int) -> None:
        """Report, and acknowledge the last message."""
        self.report(worker, *left)
        message = self.workers[worker].sent[-1]
        assert isinstance(message, DrainSessions | CancelDrain)
        assert message.ack is not None
        self.registry.acknowledge(Ack(message.ack), self.workers[worker].handle)


@pytest.fixture
async def control(nursery: trio.Nursery) -> Control:
    control = Control()
    nursery.start_soon(control.drains.drain_frontend, "f", 10)
    await trio.testing.wait_all_tasks_blocked()
    assert control.workers[0].sent == [DrainSessions(DrainTarget(frontend="f"), Purpose.DRAIN, 10, ack=1)]
    return control


async def test_drain_ends_once_with_the_last_worker(control: Control) -> None:
    control.answer(0)  # it has no such session, and the other one has not answered
    assert control.events == ["drain-started"]
    control.answer(1, 3)
    await trio.testing.wait_all_tasks_blocked()
    assert [str(each) for each in control.drains.statuses()] == ["frontend f left=3 idle=0 deadline=10s"]
    control.report(1)
    control.report(0)
    assert control.events == ["drain-started", "drain-ended"]
    assert control.drains.statuses() == []


async def test_progress_on_its_way_does_not_revive_a_cancelled_drain(
    control: Control, nursery: trio.Nursery
) -> None:
    control.answer(0, 1)
    control.answer(1, 1)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(control.drains.cancel, DrainTarget(frontend="f"))
    await trio.testing.wait_all_tasks_blocked()
    control.report(0, 1)
    control.answer(0)
    control.answer(1)
    await trio.testing.wait_all_tasks_blocked()
    assert control.events == ["drain-started", "drain-cancelled"]
    assert control.drains.statuses() == []


async def test_worker_that_is_gone_is_not_waited_for(control: Control) -> None:
    control.answer(0, 2)
    control.answer(1)
    await trio.testing.wait_all_tasks_blocked()
    control.registry.remove(control.workers[0].handle)
    control.drains.on_worker_gone(control.workers[0].handle)
    assert control.events == ["drain-started", "drain-ended"]
