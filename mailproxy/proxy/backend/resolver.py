"""Host names of servers: looked up at the start and every so often, off every session's path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import trio

from mailproxy.address import TcpAddress
from mailproxy.errors import ProxyError, ServerRefusedError
from mailproxy.log import Log
from mailproxy.log.events import NAME_RESOLVED, NAME_UNRESOLVED
from mailproxy.net.resolve import literal_endpoint, resolve
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.supervise import contained, supervise

_FIRST_LOOK_UP_S = 5.0  # a name server that is away must not keep the proxy from starting
_FIRST_RETRY_S = 1.0  # of a name without address, HAProxy's pause; then twice as long each time
_LONGEST_RETRY_S = 4.0  # or ``interval``, if that is shorter


class Resolver:
    """Keeps the addresses of one backend's servers; ``came`` is called when some have come or gone, or none could be had."""

    def __init__(
        self,
        backend: str,
        servers: Sequence[BackendServer],
        *,
        interval: float,
        prefer: Literal["ipv4", "ipv6"] | None,
        came: Callable[[], None],
        log: Log,
    ) -> None:
        self._backend = backend
        self._servers = [server for server in servers if literal_endpoint(server.config.address) is None]
        self._interval = interval
        self._prefer = prefer
        self._on_change = came
        self._log = log
        self._pending = set(self._servers)  # not looked up yet
        self._first_round = trio.Event()
        if not self._pending:
            self._first_round.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look up until cancelled; started when every name was looked up once, or after 5 s."""
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(
                    supervise,
                    self._log,
                    f"the look-up of {server.config.address}",
                    self._keep_looking_up,
                    server,
                )
            with trio.move_on_after(_FIRST_LOOK_UP_S):
                await self._first_round.wait()
            task_status.started()

    async def look_up_once(self) -> None:
        """Look up every name once, for 5 s at most."""
        with trio.move_on_after(_FIRST_LOOK_UP_S):
            async with trio.open_nursery() as nursery:
                for server in self._servers:
                    nursery.start_soon(self._look_up_contained, server)

    async def _look_up_contained(self, server: BackendServer) -> None:
        with contained(self._log, f"the look-up of {server.config.address}"):
            await self._look_up(server)

    async def _keep_looking_up(self, server: BackendServer) -> None:
        """Every ``interval``; more often while the name has no address, since the server waits for that alone."""
        pause = _FIRST_RETRY_S
        while True:
            try:
                await self._look_up(server)
            finally:
                self._looked_up(server)
            if server.addresses:
                pause = _FIRST_RETRY_S
                await trio.sleep(self._interval)
            else:
                await trio.sleep(min(pause, self._interval))
                pause = min(2 * pause, _LONGEST_RETRY_S)

    def _looked_up(self, server: BackendServer) -> None:
        self._pending.discard(server)
        if not self._pending:
            self._first_round.set()

    async def _look_up(self, server: BackendServer) -> None:
        address = server.config.address
        assert isinstance(address, TcpAddress)  # noqa: S101 - only host names are looked up
        place = f"{self._backend}/{server.name}"
        try:
            endpoints = await resolve(address.host, address.port, self._prefer)
        except (ServerRefusedError, ProxyError) as error:
            if (
                str(error) != server.resolve_error
            ):  # said once, not every interval; known addresses stay in use
                server.resolve_error = str(error)
                self._log.event(
                    NAME_UNRESOLVED,
                    f"Server {place}: {error}",
                    backend=self._backend,
                    server=server.name,
                    reason=str(error),
                )
                self._on_change()
            return
        server.resolve_error = ""
        is_first = not server.addresses
        known, server.addresses = set(server.addresses), endpoints
        if set(endpoints) != known:  # some name servers turn their answers round each time
            if is_first:
                server.expect()
            self._on_change()
            hosts = ", ".join(endpoint.host for endpoint in endpoints)
            self._log.event(
                NAME_RESOLVED, f"Server {place}: {address.host} is {hosts}", backend=self._backend, server=server.name,
                addresses=[endpoint.host for endpoint in endpoints],
            )  # fmt: skip
