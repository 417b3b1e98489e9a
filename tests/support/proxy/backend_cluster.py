"""A cluster of named servers behind one proxy, and guests who come to it from any address."""

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
from tests.support.patience import wait_until
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness

ACCEPT_PROXY = {"accept_proxy": ["127.0.0.0/8"]}  # the proxy in front, which tells whose guests they are
CLIENT_HOST = "192.0.2.1"


class NamedServer(ScriptedServer):
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
class TcplogLine:
    """What tcplog says of a session: ``b/s1``, ``--``, ``+1`` and ``0/1``."""

    server: str
    state: str
    retries: str
    queue: str

    @classmethod
    def parse(cls, line: str) -> Self:
        words = line.split()
        return cls(words[3], words[6], words[7].rpartition("/")[2], words[8])


@define
class BackendCluster:
    """``proxy`` stands before the servers once it is open; without ``introduced`` all guests have the address 127.0.0.1."""

    harness: ProxyHarness
    servers: dict[str, NamedServer] = field(factory=dict, init=False)
    sends_proxy_header: bool = field(default=False, init=False)
    tls: bool = field(default=False, init=False)
    server_tables: list[Line] = field(factory=list, init=False)
    _proxy: mailproxy.Proxy | None = field(default=None, init=False)
    _clients: list[Connection] = field(factory=list, init=False)

    # Servers

    async def add_server(
        self,
        name: str,
        *playbooks: Playbook,
        is_open: bool = True,
        tls: ssl.SSLContext | None = None,
        **table: Any,
    ) -> NamedServer:
        server = await self.start_unlisted_server(name, *playbooks, is_open=is_open, tls=tls)
        self.servers[name] = server
        self.server_tables.append({"name": name, "address": server.address, **table})
        return server

    async def start_unlisted_server(
        self, name: str, *playbooks: Playbook, is_open: bool = True, tls: ssl.SSLContext | None = None
    ) -> NamedServer:
        """A server that is none of the backend's; checks may ask it."""
        address: str = await self.harness.nursery.start(RefusingServer().serve)
        server = NamedServer(name, *playbooks, bind=address, tls=tls)
        if is_open:
            await self.open_server(server)
        return server

    async def add_refusing_servers(self, *names: str, **table: Any) -> None:
        for name in names:
            await self.add_server(name, is_open=False, **table)

    async def add_unanswering_server(self, name: str, **table: Any) -> None:
        address: str = await self.harness.nursery.start(UnansweredServer().serve)
        self.server_tables.append({"name": name, "address": address, **table})

    async def add_external_server(self, name: str, address: str, **table: Any) -> None:
        """A server that somebody else runs."""
        self.server_tables.append({"name": name, "address": address, **table})

    async def open_server(self, server: NamedServer) -> None:
        await self.harness.nursery.start(server.serve)

    # The proxy

    def proxy_options(
        self,
        *,
        tls: bool = False,
        backend_tls: bool = False,
        introduced: bool = False,
        frontend: Line | None = None,
        **backend: Any,
    ) -> tuple[list[str], Line]:
        """What ``Scene.proxy`` and ``Scene.mapping`` take."""
        self.sends_proxy_header, self.tls = introduced, tls
        return [table["address"] for table in self.server_tables], {
            "tls": tls,
            "server_tls": backend_tls,
            "bind": ACCEPT_PROXY if introduced else None,
            "frontends": {"f": frontend or {}},
            "backends": {"b": {"servers": self.server_tables, **backend}},
        }

    async def start_proxy(
        self, *, tcplog: bool = False, process: Line | None = None, **settings: Any
    ) -> mailproxy.Proxy:
        """Run the proxy; settings are the backend's but those of ``settings``."""
        self.harness.nursery.start_soon(self._drop_clients_at_end)
        addresses, changes = self.proxy_options(**settings)
        if process is not None:
            changes["process"] = process
        if tcplog:
            changes["log"] = {"format": "tcplog", "to": str(self._tcplog)}
        self._proxy = await self.harness.proxy(*addresses, **changes)
        return self._proxy

    def mapping(self, **settings: Any) -> Line:
        addresses, changes = self.proxy_options(**settings)
        return self.harness.mapping(*addresses, **changes)

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

    async def wait_for_queued(self, count: int) -> None:
        """Wait until so many wait for a place."""
        await wait_until(lambda: self.pool.waiting == count)

    async def wait_for_connect_errors(self, name: str, count: int = 1) -> None:
        """Wait until so many attempts at this server have failed."""
        await wait_until(lambda: self.counts(name).connect_errors >= count)

    async def wait_for_sessions(self, count: int = 1) -> None:
        """Wait until so many sessions are there, all as far as they come without their server."""
        await wait_until(lambda: self.proxy.sessions == count)
        await trio.testing.wait_all_tasks_blocked(0.01)

    # Guests

    async def connect_client(
        self, host: str = CLIENT_HOST, *, bind: int = 0, tls: ssl.SSLContext | None = None
    ) -> Connection:
        """Dial; the greeting is not waited for. Who is there still when the test is over is dropped."""
        client = await self.harness.dial(self.proxy, bind=bind)
        self._clients.append(client)
        if self.sends_proxy_header:
            await client.send(proxy_header(host))
        if self.tls:
            await client.start_tls(tls or self.harness.ca.client_context())
        return client

    async def connect_queued(self, host: str = CLIENT_HOST, **options: Any) -> Connection:
        """A guest who waits for a place."""
        waiting = self.pool.waiting
        client = await self.connect_client(host, **options)
        await self.wait_for_queued(waiting + 1)
        return client

    async def connect_queued_clients(self, count: int) -> list[Connection]:
        """So many guests, one after the other."""
        return [await self.connect_queued() for _ in range(count)]

    async def connect_greeted(self, host: str = CLIENT_HOST) -> Connection:
        """A guest who has been greeted."""
        client = await self.connect_client(host)
        assert await receive_server_name(client)
        return client

    async def connect_and_close(self, host: str = CLIENT_HOST, *, bind: int = 0) -> str:
        """Who serves a guest, who then leaves; empty for nobody. The visit is over when this returns."""
        client = await self.connect_client(host, bind=bind)
        name = await receive_server_name(client)
        await self.close_client(client)
        return name

    async def close_client(self, client: Connection) -> None:
        """Leave, and wait for the session to be over."""
        number = self.proxy.sessions
        await client.close()
        await wait_until(lambda: self.proxy.sessions < number)

    async def _drop_clients_at_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for client in self._clients:
                client.drop()

    # The log

    async def tcplog_lines(self, count: int = 1) -> list[TcplogLine]:
        """The lines of so many sessions, once they have ended."""
        await wait_until(lambda: len(self._logged_sessions()) >= count)
        lines = self._logged_sessions()
        assert len(lines) == count, lines
        return [TcplogLine.parse(line) for line in lines]

    async def tcplog_line(self) -> TcplogLine:
        return (await self.tcplog_lines())[0]

    @property
    def _tcplog(self) -> Path:
        return self.harness.folder / "tcp.log"

    def _logged_sessions(self) -> list[str]:
        if not self._tcplog.exists():
            return []
        lines = self._tcplog.read_text().rpartition("\n")[0].splitlines()
        return [line for line in lines if line.split()[0].rpartition(":")[2].isdigit()]


def check_of(server: NamedServer) -> Line:
    """A check that soon finds out whether this server is open."""
    return {
        "type": "tcp", "address": server.address, "interval": "30ms", "fall": 1, "rise": 1, "jitter": 0.0
    }  # fmt: skip


def proxy_header(host: str) -> bytes:
    """What a proxy in front says of this guest."""
    family, here = ("TCP6", "2001:db8::9") if ":" in host else ("TCP4", "203.0.113.9")
    return f"PROXY {family} {host} {here} 40000 143\r\n".encode()


async def receive_server_name(client: Connection) -> str:
    """Wait for the greeting, which is the server's name; empty if the end comes instead."""
    with trio.fail_after(TIMEOUT_S):
        return (await client.receive_line()).decode().rstrip()


async def assert_rejected(client: Connection) -> None:
    """Wait for the end, before which nothing comes."""
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()


async def assert_served(client: Connection) -> None:
    """It has a server, which answers."""
    with trio.fail_after(TIMEOUT_S):
        await client.send(b"still there?\r\n")
        assert await client.receive_line() == b"still there?\r\n"
