"""A cluster of named servers behind one proxy, and clients with any address."""

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
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness
from tests.support.timeouts import wait_until

# For the simulated proxy in front, which sends the clients' addresses.
ACCEPT_PROXY = {"accept_proxy": ["127.0.0.0/8"]}
CLIENT_HOST = "192.0.2.1"


class NamedServer(ScriptedServer):
    """Greets with its name and echoes lines, unless it has playbooks.

    It keeps its address. While it is closed, the address refuses connections.
    """

    def __init__(self, name: str, *playbooks: Playbook, bind: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(*(playbooks or (greet_and_echo(f"{name}\r\n".encode()),)), bind=bind, tls=tls)
        self.name = name
        self._opened = trio.CancelScope()
        self._closed = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until closed."""
        self._closed = trio.Event()
        async with trio.open_nursery() as nursery:
            self._opened = nursery.cancel_scope
            task_status.started(await nursery.start(super().serve))
        self._closed.set()

    async def close(self) -> None:
        """Close the listener and end all connections."""
        self._opened.cancel()
        await self._closed.wait()


@frozen
class TcplogLine:
    """The fields of a tcplog line: ``b/s1``, ``--``, ``+1`` and ``0/1``."""

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
    """Servers, one proxy in front of them, and its clients.

    ``proxy`` is available after ``start_proxy``. Without ``accept_proxy`` all clients have the address
    127.0.0.1.
    """

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
        """Start a server that is not in the backend. Checks may connect to it."""
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
        """Add a server that the cluster does not run."""
        self.server_tables.append({"name": name, "address": address, **table})

    async def open_server(self, server: NamedServer) -> None:
        await self.harness.nursery.start(server.serve)

    # The proxy

    def proxy_options(
        self,
        *,
        tls: bool = False,
        backend_tls: bool = False,
        accept_proxy: bool = False,
        frontend: Line | None = None,
        **backend: Any,
    ) -> tuple[list[str], Line]:
        """Return the arguments for ``ProxyHarness.proxy`` and ``ProxyHarness.mapping``."""
        self.sends_proxy_header, self.tls = accept_proxy, tls
        return [table["address"] for table in self.server_tables], {
            "tls": tls,
            "server_tls": backend_tls,
            "bind": ACCEPT_PROXY if accept_proxy else None,
            "frontends": {"f": frontend or {}},
            "backends": {"b": {"servers": self.server_tables, **backend}},
        }

    async def start_proxy(
        self, *, tcplog: bool = False, process: Line | None = None, **settings: Any
    ) -> mailproxy.Proxy:
        """Run the proxy. ``settings`` are keys of the backend, except those that ``proxy_options`` names."""
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
        return self.proxy._service.backends["b"].pool  # the queue's length has no public name yet

    def counts(self, name: str) -> Counts:
        return self.states[name].counts

    async def wait_for_queued(self, count: int) -> None:
        """Wait until this number of sessions is in the queue."""
        await wait_until(lambda: self.pool.waiting == count)

    async def wait_for_connect_errors(self, name: str, count: int = 1) -> None:
        """Wait until this number of attempts at this server has failed."""
        await wait_until(lambda: self.counts(name).connect_errors >= count)

    async def wait_for_sessions(self, count: int = 1) -> None:
        """Wait for this number of sessions, each as far as it comes without an answer of its server."""
        await wait_until(lambda: self.proxy.sessions == count)
        await trio.testing.wait_all_tasks_blocked(0.01)

    # Clients

    async def connect_client(
        self, host: str = CLIENT_HOST, *, bind: int = 0, tls: ssl.SSLContext | None = None
    ) -> Connection:
        """Connect without waiting for the greeting. Clients still open at the end of the test are dropped."""
        client = await self.harness.dial(self.proxy, bind=bind)
        self._clients.append(client)
        if self.sends_proxy_header:
            await client.send(proxy_header(host))
        if self.tls:
            await client.start_tls(tls or self.harness.ca.client_context())
        return client

    async def connect_queued(self, host: str = CLIENT_HOST, **options: Any) -> Connection:
        """Connect a client whose session waits in the queue."""
        waiting = self.pool.waiting
        client = await self.connect_client(host, **options)
        await self.wait_for_queued(waiting + 1)
        return client

    async def connect_queued_clients(self, count: int) -> list[Connection]:
        """Connect this number of clients one after another."""
        return [await self.connect_queued() for _ in range(count)]

    async def connect_greeted(self, host: str = CLIENT_HOST) -> Connection:
        """Connect a client and wait for its greeting."""
        client = await self.connect_client(host)
        assert await receive_server_name(client)
        return client

    async def connect_and_close(self, host: str = CLIENT_HOST, *, bind: int = 0) -> str:
        """Connect, wait for the session's end, and return the name of the server that greeted.

        The name is empty if the connection ends without a greeting.
        """
        number = self.proxy.sessions
        client = await self.connect_client(host, bind=bind)
        name = await receive_server_name(client)
        await client.close()
        await wait_until(lambda: self.proxy.sessions <= number)
        return name

    async def close_client(self, client: Connection) -> None:
        """Close the client and wait for the end of its session."""
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
        """Wait until this number of sessions has ended, then return their log lines."""
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
    """Return a check that soon finds out whether this server is open."""
    return {
        "type": "tcp", "address": server.address, "interval": "30ms", "fall": 1, "rise": 1, "jitter": 0.0
    }  # fmt: skip


def proxy_header(host: str) -> bytes:
    """Return the PROXY header that a proxy in front sends for this client."""
    family, destination = ("TCP6", "2001:db8::9") if ":" in host else ("TCP4", "203.0.113.9")
    return f"PROXY {family} {host} {destination} 40000 143\r\n".encode()


async def receive_server_name(client: Connection) -> str:
    """Wait for the greeting, which is the server's name. It is empty if the connection ends instead."""
    with trio.fail_after(TIMEOUT_S):
        return (await client.receive_line()).decode().rstrip()


async def assert_rejected(client: Connection) -> None:
    """Wait for the end of the connection, with no byte before it."""
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()


async def assert_served(client: Connection) -> None:
    """Assert that the session has a server that answers."""
    with trio.fail_after(TIMEOUT_S):
        await client.send(b"still there?\r\n")
        assert await client.receive_line() == b"still there?\r\n"
