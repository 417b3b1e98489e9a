"""A proxy with an admin socket, in this process, before two named servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from mailproxy.testing import ThrowAwayCA, greet_and_echo
from mailproxy.testing.fixtures import RunProxy
from tests.support import admin_client
from tests.support.proxy.proxy_harness import Line, ProxyHarness, merge


class Administered:
    """A proxy, and clients of its admin socket in threads."""

    def __init__(self, harness: ProxyHarness, path: Path) -> None:
        self.harness = harness
        self.path = path

    async def ask(self, commands: str) -> str:
        """The answer to a line of commands, without the empty line behind it."""
        answer = await trio.to_thread.run_sync(admin_client.ask, self.path, commands)
        assert answer.endswith("\n")
        return answer[:-1].removesuffix("\n")

    async def stat(self, filters: str = "") -> dict[tuple[str, str], dict[str, str]]:
        return await trio.to_thread.run_sync(admin_client.stat, self.path, filters)

    async def states(self) -> dict[str, dict[str, str]]:
        return await trio.to_thread.run_sync(admin_client.states, self.path)

    async def talk(self, data: bytes) -> bytes:
        return await trio.to_thread.run_sync(admin_client.talk, self.path, data)


@pytest.fixture(autouse=True)
def prompt_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.log.writer._BATCH_S", 0.001)


@pytest.fixture
async def harness(
    nursery: trio.Nursery, run_proxy: RunProxy, throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> AsyncIterator[ProxyHarness]:
    harness = ProxyHarness(nursery, run_proxy, throw_away_ca, tmp_path, "engine")
    yield harness
    assert [line for line in harness.lines() if line["event"] in ("session-fault", "helper-failed")] == []


@pytest.fixture
async def administered(harness: ProxyHarness, tmp_path: Path) -> Administered:
    """Frontend ``f``, backend ``b`` with ``s1`` and ``s2`` that greet with their names, level admin."""
    return await open_administered(harness, tmp_path)


async def open_administered(
    harness: ProxyHarness, folder: Path, **changes: Line | list[Line]
) -> Administered:
    servers = [
        {
            "name": name,
            "address": (await harness.server(*[greet_and_echo(f"{name}\r\n".encode())] * 20)).address,
        }
        for name in ("s1", "s2")
    ]
    path = folder / "admin.sock"
    backends = {"b": {"servers": servers, "balance": "roundrobin", "check": "none"}}
    merged: Line = {
        "backends": backends,
        "frontends": {"f": {"backend": "b"}},
        "admin": {"socket": str(path)},
    }
    merge(merged, changes)
    await harness.proxy(**merged)
    return Administered(harness, path)
