"""A backend at work: its servers with their addresses and TLS, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio
from attrs import define, field

from mailproxy import config
from mailproxy.address import TcpAddress
from mailproxy.errors import ServerRefusedError
from mailproxy.log import Log
from mailproxy.log.events import NAME_RESOLVED, NAME_UNRESOLVED, SERVER_STATE
from mailproxy.net.dial import Endpoint
from mailproxy.net.names import literal_endpoint, look_up
from mailproxy.net.tls import Context
from mailproxy.pool import LeastConn, Server, State
from mailproxy.proxy.announcing import Announcer

_FIRST_LOOK_UP_S = 5.0  # a name server that is away must not keep the proxy from starting


@define(eq=False, kw_only=True)
class BackendServer(Server):
    """A server with what it takes to reach it."""

    config: config.Server
    context: Context | None
    announcer: Announcer | None
    unresolved: str = field(default="not looked up yet")

    @property
    def server_name(self) -> str | None:
        """The name to ask for and to verify."""
        if self.config.tls is not None and self.config.tls.server_name is not None:
            return self.config.tls.server_name
        if not isinstance(self.config.address, TcpAddress):
            return None
        return self.config.address.host.rstrip(".")  # certificates have names without the root's dot

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What to connect to; empty while a host name has no address."""
        return self.addresses  # type: ignore[return-value]  # the pool knows them as opaque values


class Backend:
    """One backend. Its counts are those of sessions that have a server."""

    def __init__(self, settings: config.Backend, contexts: Mapping[str, Context], log: Log) -> None:
        self.config = settings
        self.name = settings.name
        self.sessions = 0
        self._log = log
        self._balance = LeastConn()
        self._servers = [
            BackendServer(
                name=s.name,
                weight=s.weight,
                config=s,
                context=contexts.get(s.name),
                announcer=Announcer(s, settings.protocol) if s.send_proxy not in (None, "none") else None,
            )
            for s in settings.servers
        ]
        for server in self._servers:
            endpoint = literal_endpoint(server.config.address)
            if endpoint is not None:
                server.addresses = (endpoint,)

    @property
    def servers(self) -> Sequence[BackendServer]:
        """All of them, in the order of the configuration."""
        return self._servers

    def renew(self, contexts: Mapping[str, Context]) -> None:
        """TLS towards the servers as their files are now; sessions keep theirs."""
        for server in self._servers:
            if server.config.tls is not None:  # never in clear text for want of one
                server.context = contexts[server.name]

    def choose(self) -> BackendServer | None:
        """The server for a new session, or None if none can be used."""
        chosen = self._balance.choose(self._servers)
        assert chosen is None or isinstance(chosen, BackendServer)  # noqa: S101 - they went in as such
        return chosen

    def why_none(self) -> str:
        """Why ``choose`` gave none, in words."""
        reasons = [f"{server.name}: {server.unresolved}" for server in self._servers if not server.addresses]
        return f"no server of {self.name} can be used" + (f" ({'; '.join(reasons)})" if reasons else "")

    def set_state(self, server: BackendServer, state: State) -> None:
        """What the operator wants of a server; sessions that it has go on."""
        if server.state is not state:
            server.state = state
            words = {
                State.READY: "is UP/READY (leaving forced drain or maintenance)",
                State.DRAIN: "enters drain state",
                State.MAINT: "is going DOWN for maintenance",
            }
            self._log.event(
                SERVER_STATE,
                f"Server {self.name}/{server.name} {words[state]}. {server.sessions} sessions active.",
                backend=self.name,
                server=server.name,
                state=state.value,
                sessions=server.sessions,
            )

    async def keep_resolved(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look host names up, now and every ``resolve_interval``, off every session's path; started after the first."""
        named = [server for server in self._servers if literal_endpoint(server.config.address) is None]
        if not named:
            task_status.started()
            return
        with trio.move_on_after(_FIRST_LOOK_UP_S):
            await self._look_all_up(named)
        task_status.started()
        while True:
            await trio.sleep(self.config.resolve_interval)
            await self._look_all_up(named)

    async def _look_all_up(self, servers: Sequence[BackendServer]) -> None:
        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(self._look_up, server)

    async def _look_up(self, server: BackendServer) -> None:
        address = server.config.address
        assert isinstance(address, TcpAddress)  # noqa: S101 - only host names are looked up
        place = f"{self.name}/{server.name}"
        try:
            endpoints = await look_up(address.host, address.port)
        except ServerRefusedError as error:
            if str(error) != server.unresolved:  # said once, not every interval; known addresses stay in use
                server.unresolved = str(error)
                self._log.event(
                    NAME_UNRESOLVED,
                    f"Server {place}: {error}",
                    backend=self.name,
                    server=server.name,
                    reason=str(error),
                )
            return
        server.unresolved = ""
        known, server.addresses = set(server.addresses), endpoints
        if set(endpoints) != known:  # some name servers turn their answers round each time
            hosts = ", ".join(endpoint.host for endpoint in endpoints)
            self._log.event(
                NAME_RESOLVED, f"Server {place}: {address.host} is {hosts}", backend=self.name, server=server.name,
                addresses=[endpoint.host for endpoint in endpoints],
            )  # fmt: skip
