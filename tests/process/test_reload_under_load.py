"""Reloads below steady logins and open sessions: none is refused, reset or lost, and nothing grows."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from mailproxy.testing import ThrowAwayCA
from tests.support.admin_client import ask, states
from tests.support.login_load import Logins, OpenSessions, descriptors, named_servers, private_memory
from tests.support.worker_group import WorkerGroup, wait_until

pytestmark = pytest.mark.slow

RELOADS = 20
SESSIONS = 500
GROWTH_KB_MAX = 3000  # of 20 reloads; a configuration that was kept each time would be more


def make_text(
    folder: Path, addresses: dict[str, str], pems: list[Path], *, workers: int, is_odd: bool
) -> str:
    """Every other configuration has another server, another route and another certificate."""
    servers = ["s1", "s2", *["s3"] * is_odd]
    entries = ", ".join(f'{{ name = "{name}", address = "{addresses[name]}" }}' for name in servers)
    network = "198.51.100.0/24" if is_odd else "192.0.2.0/24"
    certificates = ", ".join(f'"{pem}"' for pem in pems[: 1 + is_odd])
    return f"""
process = {{ workers = {workers}, drain_timeout = "60s" }}
admin.socket = "{folder}/admin"
log = {{ format = "json", to = "{folder}/log" }}
[frontends.f]
protocol = "tcp"
backend = "b"
bind = [{{ address = "127.0.0.1:0", mode = "tls" }}, {{ address = "127.0.0.1:0", name = "clear" }}]
routes = [{{ client = ["{network}"], backend = "c" }}]
tls = {{ certificates = [{certificates}] }}
[backends.b]
check = {{ type = "tcp", interval = "200ms" }}
servers = [{entries}]
[backends.c]
check = "none"
servers = [{{ name = "s1", address = "{addresses["s1"]}" }}]
"""


async def reload(program: WorkerGroup, text: str) -> None:
    """Reload with a text, and wait until that has ended."""
    admin = program.file.parent / "admin"
    program.edit(text)
    answer = await trio.to_thread.run_sync(ask, admin, "reload")
    assert "reloaded in" in answer, answer


async def addresses_of(program: WorkerGroup, log: Path) -> list[tuple[str, int]]:
    lines = await trio.to_thread.run_sync(lambda: program.wait_for(r"(?s).*is ready", where=log))
    found = [line.rpartition("listens on ")[2] for line in lines.splitlines() if "listens on" in line]
    return [("127.0.0.1", int(each.split(",")[0].split(" ")[0].rpartition(":")[2])) for each in found]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_no_session_is_lost_in_twenty_reloads(
    workers: int, tmp_path: Path, throw_away_ca: ThrowAwayCA
) -> None:
    pems = [throw_away_ca.issue("127.0.0.1"), throw_away_ca.issue("other.example.com", "127.0.0.1")]
    tls = throw_away_ca.client_context()
    async with named_servers("s1", "s2", "s3") as addresses:
        texts = [
            make_text(tmp_path, addresses, pems, workers=workers, is_odd=is_odd) for is_odd in (False, True)
        ]
        with WorkerGroup(texts[0], tmp_path) as program:
            tls_address, address = await addresses_of(program, tmp_path / "log")
            await trio.to_thread.run_sync(
                ask,
                tmp_path / "admin",
                "set weight b/s1 4;set server b/s2 state drain;set maxconn frontend f 900",
            )
            sessions, logins = OpenSessions(), Logins(address, tls_address, tls)
            await sessions.open(address, SESSIONS)
            memory: dict[int, int] = {}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(logins.run)
                pids = [program.process.pid, *program.pids]
                for number in range(1, RELOADS + 1):
                    await reload(program, texts[number % 2])
                    if number == 4:  # caches are filled, and pages that were shared are copied
                        memory = private_memory(pids)
                    await trio.sleep(0.1)
                    assert not logins.lost, f"after reload {number}"
                logins.is_done = True
            await trio.sleep(0.5)
            await sessions.check()
            assert logins.lost == []
            assert logins.greetings >= {"s1"}
            assert [program.process.pid, *program.pids] == pids, "a process was replaced"
            growth = {pid: now - memory[pid] for pid, now in private_memory(pids).items()}
            assert max(growth.values()) < GROWTH_KB_MAX, growth
            open_before = descriptors(pids)
            await reload(program, texts[1])
            await reload(program, texts[0])
            await trio.to_thread.run_sync(wait_until, lambda: descriptors(pids) == open_before)
            state = await trio.to_thread.run_sync(states, tmp_path / "admin")
            assert (state["b/s1"]["srv_uweight"], state["b/s2"]["srv_admin_state"]) == ("4", "8")
            assert state["b/s1"]["srv_op_state"] == "2"
            stat = await trio.to_thread.run_sync(ask, tmp_path / "admin", "show stat f 1 -1")
            assert ",900," in stat
            await sessions.close()
            program.send(signal.SIGTERM)
            assert await trio.to_thread.run_sync(program.wait) == 0
        log = (tmp_path / "log").read_text()
        assert log.count('"reloaded"') == RELOADS + 2
        assert "helper-failed" not in log
        assert "died" not in log


@pytest.mark.slow
async def test_number_of_workers_changes_under_load(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    pems = [throw_away_ca.issue("127.0.0.1")]
    async with named_servers("s1", "s2") as addresses:

        def text(workers: int) -> str:
            return make_text(tmp_path, addresses, pems, workers=workers, is_odd=False)

        with WorkerGroup(text(2), tmp_path) as program:
            tls_address, address = await addresses_of(program, tmp_path / "log")
            logins = Logins(address, tls_address, throw_away_ca.client_context())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(logins.run)
                for workers in (4, 2, 3, 1, 2, 1, 4):
                    await reload(program, text(workers))
                    await trio.sleep(0.3)
                    assert not logins.lost, f"with {workers} workers"
                logins.is_done = True
            assert logins.lost == []
            await trio.to_thread.run_sync(wait_until, lambda: len(program.workers) == 4)
            program.send(signal.SIGTERM)
            assert await trio.to_thread.run_sync(program.wait) == 0
        log = (tmp_path / "log").read_text()
        assert "died" not in log
        assert "helper-failed" not in log
