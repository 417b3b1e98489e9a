"""Host names of servers: looked up at the start and every so often, off every session's path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import trio

from mailproxy.address import TcpAddress
from mailproxy.errors import ServerRefusedError
from mailproxy.log import Log
from mailproxy.log.events import NAME_RESOLVED, NAME_UNRESOLVED
from mailproxy.net.names import literal_endpoint, look_up
from mailproxy.proxy.server import BackendServer

_FIRST_LOOK_UP_S = 5.0  # a name server that is away must not keep the proxy from starting


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
        self._came = came
        self._log = log

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look up now and every ``interval``; started after the first time."""
        if not self._servers:
            task_status.started()
            return
        with trio.move_on_after(_FIRST_LOOK_UP_S):
            await self._look_all_up()
        task_status.started()
        while True:
            await trio.sleep(self._interval)
            await self._look_all_up()

    async def _look_all_up(self) -> None:
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(self._look_up, server)

    async def _look_up(self, server: BackendServer) -> None:
        address = server.config.address
        assert isinstance(address, TcpAddress)  # noqa: S101 - only host names are looked up
        place = f"{self._backend}/{server.name}"
        try:
            endpoints = await look_up(address.host, address.port, self._prefer)
        except ServerRefusedError as error:
            if str(error) != server.unresolved:  # said once, not every interval; known addresses stay in use
                server.unresolved = str(error)
                self._log.event(
                    NAME_UNRESOLVED,
                    f"Server {place}: {error}",
                    backend=self._backend,
                    server=server.name,
                    reason=str(error),
                )
                self._came()
            return
        server.unresolved = ""
        known, server.addresses = set(server.addresses), endpoints
        if set(endpoints) != known:  # some name servers turn their answers round each time
            self._came()
            hosts = ", ".join(endpoint.host for endpoint in endpoints)
            self._log.event(
                NAME_RESOLVED, f"Server {place}: {address.host} is {hosts}", backend=self._backend, server=server.name,
                addresses=[endpoint.host for endpoint in endpoints],
            )  # fmt: skip
