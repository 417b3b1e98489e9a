"""The state file with several processes: the control process writes it, and workers get what it has."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.worker_group import WorkerGroup, configuration, greeting_servers, wait_until
from tests.workers.test_drains import CommandedGroup

pytestmark = pytest.mark.slow


def text_for(servers: list, file: Path, **options: str) -> str:  # type: ignore[type-arg]
    return configuration(*servers, backend="stick = { size = 100 }", state_file=str(file), **options)


def stop(group: WorkerGroup) -> None:
    group.send(signal.SIGTERM)
    assert group.wait() == 0


def test_states_and_stick_tables_survive_in_all_workers(tmp_path: Path) -> None:
    file = tmp_path / "state"
    with greeting_servers("s1", "s2", "s3") as servers:
        with CommandedGroup(text_for(servers, file), tmp_path) as group:
            client = group.connect("127.0.0.2")
            sticky = client.greeting
            drained = next(name for name in ("s1", "s2", "s3") if name != sticky)
            wait_until(lambda: all(group.connect("127.0.0.2").greeting == sticky for _ in range(4)))
            group.command_line(f"drain {drained} 1")
            stop(group)
        state = json.loads(file.read_text().splitlines()[0])
        assert state["backends"]["b"]["servers"][drained]["wishes"] == {"state": ["drain", "ready"]}
        assert state["backends"]["b"]["servers"][drained]["is_vacated"] is True
        with CommandedGroup(text_for(servers, file), tmp_path) as group:
            for worker in (0, 1):
                assert group.connect_to_worker(worker, "127.0.0.2").greeting == sticky
            greetings = {group.connect(f"127.0.0.{host}").greeting for host in range(10, 20)}
            assert drained not in greetings
            group.wait_for(f"Server b/{drained} starts in drain state")
            group.wait_for("states, health and stick tables of .* s ago are in use")
            stop(group)


@pytest.mark.parametrize("killed", ["control", "worker 1"])
def test_killed_process_keeps_the_state(tmp_path: Path, killed: str) -> None:
    """Another control process learns from the workers, and does not read the file that is older."""
    file = tmp_path / "state"
    with greeting_servers("s1", "s2") as servers, CommandedGroup(text_for(servers, file), tmp_path) as group:
        group.wait_for("mailproxy is ready")
        group.command_line("drain s1 1")
        group.kill_and_wait(killed)
        group.wait_for("another one took its place|it is replaced")
        wait_until(lambda: all(group.connect(f"127.0.0.{host}").greeting == "s2" for host in range(10, 16)))
        stop(group)
        assert '"is_vacated":true' in file.read_text()
        assert "are in use" not in group.text


def test_everything_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    file = tmp_path / "state"
    with greeting_servers("s1") as servers:
        with WorkerGroup(text_for(servers, file), tmp_path) as group:
            assert group.connect().greeting == "s1"
            for pid in [*group.children.values(), group.process.pid]:
                os.kill(pid, signal.SIGKILL)
            group.process.wait()
        (tmp_path / ".state.new").write_text("half")
        with WorkerGroup(text_for(servers, file), tmp_path) as group:
            assert group.connect().greeting == "s1"
            stop(group)
    assert file.exists()
    assert not (tmp_path / ".state.new").exists()
