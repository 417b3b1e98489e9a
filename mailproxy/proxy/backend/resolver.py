"""The host names of servers, looked up at the start and in intervals. No session waits for a look-up."""

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

_FIRST_LOOK_UP_S = 5.0  # a name server that is down must not keep the proxy from starting
_FIRST_RETRY_S = 1.0  # HAProxy's pause for a name without address; it doubles each time
_RETRY_MAX_S = 4.0  # or the interval, if that is shorter


def _named_by_host(servers: Sequence[BackendServer]) -> list[BackendServer]:
    return [server for server in servers if literal_endpoint(server.config.address) is None]


class Resolver:
    """Keeps the addresses of one backend's servers up to date."""

    def __init__(
        self,
        backend: str,
        servers: Sequence[BackendServer],
        *,
        interval: float,
        prefer: Literal["ipv4", "ipv6"] | None,
        on_change: Callable[[], None],
        on_failed: Callable[[], None],
        log: Log,
    ) -> None:
        """Take the servers whose addresses are host names.

        Args:
            backend: The backend's name.
            servers: All its servers.
            interval: Seconds between two look-ups of a name that has addresses.
            prefer: The address family to try first, None for the resolver's order.
            on_change: Called when addresses have changed, and when a look-up fails with a new reason.
            on_failed: Called when a look-up fails.
            log: Where the results go.
        """
        self._backend = backend
        self._servers = _named_by_host(servers)
        self._interval = interval
        self._prefer = prefer
        self._changed = trio.Event()
        self._is_stopped = False
        self._on_change = on_change
        self._on_failed = on_failed
        self._log = log
        self._not_looked_up = set(self._servers)
        self._first_round = trio.Event()
        if not self._not_looked_up:
            self._first_round.set()

    def reconfigure(
        self, servers: Sequence[BackendServer], *, interval: float, prefer: Literal["ipv4", "ipv6"] | None
    ) -> None:
        """Look up the host names of these servers from now on; at once if anything is new."""
        named = _named_by_host(servers)
        if (named, interval, prefer) != (self._servers, self._interval, self._prefer):
            self._servers, self._interval, self._prefer = named, interval, prefer
            self._changed.set()

    def stop(self) -> None:
        """End ``run``."""
        self._is_stopped = True
        self._changed.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look up until stopped or cancelled.

        It counts as started when every name was looked up once, or after 5 s.
        """
        is_started = False
        while not self._is_stopped:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                for server in self._servers:
                    nursery.start_soon(
                        supervise,
                        self._log,
                        f"the look-up of {server.config.address}",
                        self._keep_looking_up,
                        server,
                    )
                if not is_started:
                    with trio.move_on_after(_FIRST_LOOK_UP_S):
                        await self._first_round.wait()
                    is_started = True
                    task_status.started()
                await self._changed.wait()
                nursery.cancel_scope.cancel()

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
        """Look up at each interval, and more often while the server is unusable for want of an address."""
        pause = _FIRST_RETRY_S
        while True:
            try:
                await self._look_up(server)
            finally:
                self._mark_looked_up(server)
            if server.addresses:
                pause = _FIRST_RETRY_S
                await trio.sleep(self._interval)
            else:
                await trio.sleep(min(pause, self._interval))
                pause = min(2 * pause, _RETRY_MAX_S)

    def _mark_looked_up(self, server: BackendServer) -> None:
        self._not_looked_up.discard(server)
        if not self._not_looked_up:
            self._first_round.set()

    async def _look_up(self, server: BackendServer) -> None:
        address = server.config.address
        assert isinstance(address, TcpAddress)  # noqa: S101 - only host names are looked up
        try:
            endpoints = await resolve(address.host, address.port, self._prefer)
        except (ServerRefusedError, ProxyError) as error:
            self._on_failure(server, str(error))
            return
        server.resolve_error = ""
        is_first = not server.addresses
        previous, server.addresses = set(server.addresses), endpoints
        # Some name servers rotate their answers, so the order does not count.
        if set(endpoints) != previous:
            if is_first:
                server.expect_up()
            self._on_change()
            hosts = ", ".join(endpoint.host for endpoint in endpoints)
            self._log.event(
                NAME_RESOLVED, f"Server {self._backend}/{server.name}: {address.host} is {hosts}",
                backend=self._backend, server=server.name, addresses=[endpoint.host for endpoint in endpoints],
            )  # fmt: skip

    def _on_failure(self, server: BackendServer, reason: str) -> None:
        """Count a failed look-up, and log it once for each reason. The server keeps the addresses that it has."""
        self._on_failed()
        if reason == server.resolve_error:
            return
        server.resolve_error = reason
        self._log.event(
            NAME_UNRESOLVED,
            f"Server {self._backend}/{server.name}: {reason}",
            backend=self._backend,
            server=server.name,
            reason=reason,
        )
        self._on_change()
