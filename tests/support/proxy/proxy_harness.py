"""A proxy between scripted servers and scripted clients, with its JSON log and a check for leaks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

import mailproxy
from mailproxy.testing import Connection, ScriptedServer, ThrowAwayCA, dial
from tests.support.proxy.relays import Kind, setting_of

TIMEOUT_S = 30.0  # the longest wait for an event on a busy machine

Line = dict[str, Any]


@define
class ProxyHarness:
    """Runs proxies, servers and clients for one test.

    ``nursery`` runs the servers. ``proxies`` are those that the test has started. All have a relay of
    ``relay_kind`` and write to ``log``.
    """

    nursery: trio.Nursery
    run_proxy: Callable[[Mapping[str, Any]], Awaitable[mailproxy.Proxy]]
    ca: ThrowAwayCA
    folder: Path
    relay_kind: Kind
    proxies: list[mailproxy.Proxy] = field(factory=list)
    _pem: Path | None = None

    @property
    def log(self) -> Path:
        return self.folder / "proxy.log"

    @property
    def pem(self) -> Path:
        if self._pem is None:
            self._pem = self.ca.issue("localhost", "127.0.0.1", "imap.example.com")
        return self._pem

    async def server(self, *playbooks: Any, **options: Any) -> ScriptedServer:
        server = ScriptedServer(*playbooks, **options)
        await self.nursery.start(server.serve)
        return server

    async def proxy(
        self, *servers: str, tls: bool = False, server_tls: bool = False, **changes: Any
    ) -> mailproxy.Proxy:
        """Run a proxy with one frontend ``f`` and, if servers are given, one backend ``b``.

        ``changes`` are merged into the mapping.
        """
        mapping = self.mapping(*servers, tls=tls, server_tls=server_tls, **changes)
        proxy = await self.run_proxy(mapping)
        self.proxies.append(proxy)
        return proxy

    def mapping(
        self,
        *servers: str,
        tls: bool = False,
        server_tls: bool = False,
        bind: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Line:
        """Return the mapping that ``proxy`` runs. ``bind`` is merged into its only bind."""
        bind = {"address": "127.0.0.1:0", "name": "B", **({"mode": "tls"} if tls else {}), **(bind or {})}
        frontend: Line = {"bind": [bind], "log_null": True}
        if tls:
            frontend["tls"] = {"certificates": [str(self.pem)]}
        mapping: Line = {
            "log": {"format": "json", "to": str(self.log)},
            "frontends": {"f": frontend},
            "process": {"relay": setting_of(self.relay_kind)},
        }
        if servers:
            frontend["backend"] = "b"
            # By default a server gets sessions only, and each session once.
            mapping["backends"] = {"b": {"servers": list(servers), "check": "none", "retries": 0}}
        if server_tls:
            mapping["backends"]["b"]["tls"] = {"ca": str(self.ca.pem)}
        merge(mapping, changes)
        return mapping

    async def dial(
        self, proxy: mailproxy.Proxy, *, tls: bool = False, bind: int = 0, **options: Any
    ) -> Connection:
        address = proxy.frontends["f"].addresses[bind]
        return await dial(address, tls=self.ca.client_context() if tls else None, **options)

    def lines(self) -> list[Line]:
        return [json.loads(line) for line in _lines_of(self.log)]

    async def sessions(self, count: int = 1) -> list[Line]:
        """Wait until this number of sessions has ended, then return their log lines."""
        return await self.events("session", count)

    async def session(self) -> Line:
        return (await self.sessions())[0]

    async def events(self, name: str, count: int = 1) -> list[Line]:
        with trio.fail_after(TIMEOUT_S):
            while True:
                lines = [line for line in self.lines() if line["event"] == name]
                if len(lines) >= count:
                    assert len(lines) == count, lines
                    return lines
                await trio.sleep(0.005)

    async def wait_for_line(self, file: Path, words: str) -> str:
        """Wait for a line with these words in a log of another format, then return it."""
        with trio.fail_after(TIMEOUT_S):
            while True:
                if matches := [line for line in _lines_of(file) if words in line]:
                    return matches[0]
                await trio.sleep(0.005)

    async def wait_until_idle(self) -> None:
        """Wait until no session is left."""
        with trio.fail_after(TIMEOUT_S):
            while any(proxy.sessions for proxy in self.proxies):  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.005)


def _lines_of(file: Path) -> list[str]:
    """Return the complete lines."""
    return file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []


def merge(mapping: Line, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(mapping.get(name), dict):
            merge(mapping[name], value)
        else:
            mapping[name] = value


@define
class ResourceSnapshot:
    """The open sockets and living tasks of this process.

    A test takes a snapshot before sessions and compares with it afterwards, to find what they have leaked.
    """

    sockets: set[str]
    tasks: int

    @classmethod
    def now(cls) -> ResourceSnapshot:
        return cls(set(_sockets()), int(trio.lowlevel.current_statistics().tasks_living))

    async def wait_until_restored(self, *, more_tasks: int = 0) -> None:
        """Wait until every later socket and task is gone.

        ``more_tasks`` is the number of scripted servers that stall for ever.
        """
        with trio.move_on_after(TIMEOUT_S):
            while not self._is_restored(more_tasks):  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.005)
        now = self.now()
        assert self._is_restored(more_tasks), (
            f"left: {now.sockets - self.sockets}, {now.tasks - self.tasks} tasks"
        )

    def _is_restored(self, more_tasks: int) -> bool:
        # A scripted server that stalls also keeps its own socket.
        now = self.now()
        return len(now.sockets - self.sockets) <= more_tasks and now.tasks <= self.tasks + more_tasks


def _sockets() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue  # the descriptor of the listed folder itself
        if target.startswith("socket:"):
            yield target
