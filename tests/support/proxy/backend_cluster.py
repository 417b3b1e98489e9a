"""A farm of named servers behind one proxy, and guests who come to it from any address."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import trio
import trio.testing
from attrs import define, field, frozen

import mailproxy
from mailproxy.app.api import ProxyServer
from mailproxy.pool import Counts, Pool
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.testing import (
    Connection,
    Playbook,
    RefusingServer,
    ScriptedServer,
    UnansweredServer,
    greet_and_echo,
)
from tests.support.patience import until
from tests.support.proxy.proxy_fixture import PATIENCE_S, Line, Scene

FRONT = {"accept_proxy": ["127.0.0.0/8"]}  # the proxy in front, which tells whose guests they are
SOMEBODY = "192.0.2.1"


class FarmServer(ScriptedServer):
    """Greets with its name and echoes lines, unless told otherwise. Its address stays its own, and refuses while it is closed."""

    def __init__(self, name: str, *playbooks: Playbook, bind: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(*(playbooks or (greet_and_echo(f"{name}\r\n".encode()),)), bind=bind, tls=tls)
        self.name = name
        self._opened = trio.CancelScope()
        self._closed = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Until closed."""
        self._closed = trio.Event()
        async with trio.open_nursery() as nursery:
            self._opened = nursery.cancel_scope
            task_status.started(await nursery.start(super().serve))
        self._closed.set()

    async def close(self) -> None:
        """Take no connections any more, and end those that there are."""
        self._opened.cancel()
        await self._closed.wait()


@frozen
class TcpLine:
    """What tcplog says of a session: ``b/s1``, ``--``, ``+1`` and ``0/1``."""

    place: str
    state: str
    retries: str
    queue: str

    @classmethod
    def of(cls, line: str) -> Self:
        words = line.split()
        return cls(words[3], words[6], words[7].rpartition("/")[2], words[8])


@define
class Farm:
    """``proxy`` stands before the servers once it is open; without ``introduced`` all guests have the address 127.0.0.1."""

    scene: Scene
    servers: dict[str, FarmServer] = field(factory=dict, init=False)
    introduced: bool = field(default=False, init=False)
    tls: bool = field(default=False, init=False)
    tables: list[Line] = field(factory=list, init=False)
    _proxy: mailproxy.Proxy | None = field(default=None, init=False)
    _guests: list[Connection] = field(factory=list, init=False)

    # Servers

    async def server(
        self,
        name: str,
        *playbooks: Playbook,
        is_open: bool = True,
        tls: ssl.SSLContext | None = None,
        **table: Any,
    ) -> FarmServer:
        server = await self.bystander(name, *playbooks, is_open=is_open, tls=tls)
        self.servers[name] = server
        self.tables.append({"name": name, "address": server.address, **table})
        return server

    async def bystander(
        self, name: str, *playbooks: Playbook, is_open: bool = True, tls: ssl.SSLContext | None = None
    ) -> FarmServer:
        """A server that is none of the backend's; checks may ask it."""
        address: str = await self.scene.nursery.start(RefusingServer().serve)
        server = FarmServer(name, *playbooks, bind=address, tls=tls)
        if is_open:
            await self.open(server)
        return server

    async def refusing(self, *names: str, **table: Any) -> None:
        for name in names:
            await self.server(name, is_open=False, **table)

    async def unanswered(self, name: str, **table: Any) -> None:
        address: str = await self.scene.nursery.start(UnansweredServer().serve)
        self.tables.append({"name": name, "address": address, **table})

    async def elsewhere(self, name: str, address: str, **table: Any) -> None:
        """A server that somebody else runs."""
        self.tables.append({"name": name, "address": address, **table})

    async def open(self, server: FarmServer) -> None:
        await self.scene.nursery.start(server.serve)

    # The proxy

    def settings(
        self,
        *,
        tls: bool = False,
        backend_tls: bool = False,
        introduced: bool = False,
        frontend: Line | None = None,
        **backend: Any,
    ) -> tuple[list[str], Line]:
        """What ``Scene.proxy`` and ``Scene.mapping`` take."""
        self.introduced, self.tls = introduced, tls
        return [table["address"] for table in self.tables], {
            "tls": tls,
            "server_tls": backend_tls,
            "bind": FRONT if introduced else None,
            "frontends": {"f": frontend or {}},
            "backends": {"b": {"servers": self.tables, **backend}},
        }

    async def start(self, *, tcplog: bool = False, **settings: Any) -> mailproxy.Proxy:
        """Run the proxy; settings are the backend's but those of ``settings``."""
        self.scene.nursery.start_soon(self._see_guests_out)
        addresses, changes = self.settings(**settings)
        if tcplog:
            changes["log"] = {"format": "tcplog", "to": str(self._tcplog)}
        self._proxy = await self.scene.proxy(*addresses, **changes)
        return self._proxy

    def mapping(self, **settings: Any) -> Line:
        addresses, changes = self.settings(**settings)
        return self.scene.mapping(*addresses, **changes)

    @property
    def proxy(self) -> mailproxy.Proxy:
        assert self._proxy is not None
        return self._proxy

    @property
    def states(self) -> Mapping[str, ProxyServer]:
        return self.proxy.backends["b"].servers

    @property
    def pool(self) -> Pool[BackendServer]:
        return self.proxy._service.backends["b"].pool  # who waits has no public name yet

    def counts(self, name: str) -> Counts:
        return self.states[name].counts

    async def lined_up(self, count: int) -> None:
        """Wait until so many wait for a place."""
        await until(lambda: self.pool.waiting == count)

    async def failed(self, name: str, count: int = 1) -> None:
        """Wait until so many attempts at this server have failed."""
        await until(lambda: self.counts(name).connect_errors >= count)

    async def connecting(self, count: int = 1) -> None:
        """Wait until so many sessions are there, all as far as they come without their server."""
        await until(lambda: self.proxy.sessions == count)
        await trio.testing.wait_all_tasks_blocked(0.01)

    # Guests

    async def guest(
        self, host: str = SOMEBODY, *, bind: int = 0, tls: ssl.SSLContext | None = None
    ) -> Connection:
        """Dial; the greeting is not waited for. Who is there still when the test is over is dropped."""
        client = await self.scene.dial(self.proxy, bind=bind)
        self._guests.append(client)
        if self.introduced:
            await client.send(header_of(host))
        if self.tls:
            await client.start_tls(tls or self.scene.ca.client_context())
        return client

    async def in_line(self, host: str = SOMEBODY, **options: Any) -> Connection:
        """A guest who waits for a place."""
        waiting = self.pool.waiting
        client = await self.guest(host, **options)
        await self.lined_up(waiting + 1)
        return client

    async def line_up(self, count: int) -> list[Connection]:
        """So many guests, one after the other."""
        return [await self.in_line() for _ in range(count)]

    async def welcome(self, host: str = SOMEBODY) -> Connection:
        """A guest who has been greeted."""
        client = await self.guest(host)
        assert await served_by(client)
        return client

    async def visit(self, host: str = SOMEBODY, *, bind: int = 0) -> str:
        """Who serves a guest, who then leaves; empty for nobody. The visit is over when this returns."""
        client = await self.guest(host, bind=bind)
        name = await served_by(client)
        await self.leave(client)
        return name

    async def leave(self, client: Connection) -> None:
        """Leave, and wait for the session to be over."""
        number = self.proxy.sessions
        await client.close()
        await until(lambda: self.proxy.sessions < number)

    async def _see_guests_out(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for client in self._guests:
                client.drop()

    # The log

    async def tcp_lines(self, count: int = 1) -> list[TcpLine]:
        """The lines of so many sessions, once they have ended."""
        await until(lambda: len(self._said()) >= count)
        lines = self._said()
        assert len(lines) == count, lines
        return [TcpLine.of(line) for line in lines]

    async def tcp_line(self) -> TcpLine:
        return (await self.tcp_lines())[0]

    @property
    def _tcplog(self) -> Path:
        return self.scene.folder / "tcp.log"

    def _said(self) -> list[str]:
        if not self._tcplog.exists():
            return []
        lines = self._tcplog.read_text().rpartition("\n")[0].splitlines()
        return [line for line in lines if line.split()[0].rpartition(":")[2].isdigit()]


def checked_by(server: FarmServer) -> Line:
    """A check that soon finds out whether this server is open."""
    return {
        "type": "tcp", "address": server.address, "interval": "30ms", "fall": 1, "rise": 1, "jitter": 0.0
    }  # fmt: skip


def header_of(host: str) -> bytes:
    """What a proxy in front says of this guest."""
    family, here = ("TCP6", "2001:db8::9") if ":" in host else ("TCP4", "203.0.113.9")
    return f"PROXY {family} {host} {here} 40000 143\r\n".encode()


async def served_by(client: Connection) -> str:
    """Wait for the greeting, which is the server's name; empty if the end comes instead."""
    with trio.fail_after(PATIENCE_S):
        return (await client.receive_line()).decode().rstrip()


async def turned_away(client: Connection) -> None:
    """Wait for the end, before which nothing comes."""
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_until_end() == b""
    client.drop()


async def is_served(client: Connection) -> None:
    """It has a server, which answers."""
    with trio.fail_after(PATIENCE_S):
        await client.send(b"still there?\r\n")
        assert await client.receive_line() == b"still there?\r\n"
