"""The health check of one server: its connections one after another, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from attrs import define, evolve, field

from mailproxy import config
from mailproxy.config.check_plan import EntryPath, Probe, is_like_terminated_session, plan_probes
from mailproxy.net.tls.context import Context
from mailproxy.protocol.capabilities import bounded_list
from mailproxy.protocol.checks.mail import MailCheck
from mailproxy.protocol.checks.result import INFO_MAX, CheckCode, CheckResult
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome, Login
from mailproxy.proxy.checks.login import login_of
from mailproxy.proxy.checks.probe_connection import ProbeConnection, Script


@define(eq=False)
class Check:
    """The health check of a server; it can be run again and again.

    Attributes:
        server: The server.
        probes: Its connections. All must pass.
        timeout: Seconds from the start to the result, over all connections.
        context_of: Returns the TLS context for a ``tls`` table, with its files as they are now.
        as_sessions: The probes whose connection looks to the server like those of sessions whose TLS ends
            here.
        prefer: The address family to prefer for host names.
        failed_probe: The probe that has failed in the last run.
    """

    server: BackendServer
    probes: Sequence[Probe]
    timeout: float
    context_of: Callable[[config.ServerTls], Context]
    as_sessions: frozenset[Probe] = frozenset()
    prefer: Literal["ipv4", "ipv6"] | None = None
    failed_probe: Probe | None = field(default=None, init=False)
    _scripts: dict[Probe, Script] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._scripts = {probe: Script.of(probe) for probe in self.probes if probe.kind == "script"}

    def is_like(self, other: Check) -> bool:
        """Whether another check of the same server makes the same connections."""
        return (self.probes, self.timeout, self.as_sessions, self.prefer) == (
            other.probes, other.timeout, other.as_sessions, other.prefer,
        )  # fmt: skip

    async def run(self, report: Callable[[CheckOutcome], None]) -> None:
        """Run the check once.

        Args:
            report: Gets the outcome, which is that of the first connection that fails, as soon as it is
                known. Only then the connections are closed, which has its own timeout.

        Cancellation:
            Closes the connections at once. Without an outcome so far, ``report`` is not called.

        Raises nothing for what servers do.
        """
        seconds, result = 0.0, CheckResult(CheckCode.UNK)
        connections: list[ProbeConnection] = []
        self.failed_probe = None
        try:
            for probe in self.probes:
                connections.append(connection := self._connection(probe))
                result = await connection.run(max(self.timeout - seconds, 0.0))
                seconds += connection.seconds
                if not result.code.is_passed:
                    self.failed_probe = probe
                    result = self._with_port(result, probe)
                    break
            login = self._login(connections) if result.code.is_passed else None
            listed = _listed(connections) if result.code.is_passed else ()
            report(CheckOutcome(result, int(seconds * 1000), login, listed))
            for connection in connections:
                await connection.close_gracefully()
        finally:
            for connection in connections:
                connection.close()

    def _connection(self, probe: Probe) -> ProbeConnection:
        script = self._scripts.get(probe)
        return ProbeConnection(self.server, probe, self.context_of, self.prefer, script)

    def _login(self, connections: Sequence[ProbeConnection]) -> Login | None:
        """Return what the connections have shown of logging in, an obstacle on one of them first."""
        logins = [
            login_of(self.server.config, connection.probe, connection.dialogue)
            for connection in connections
            if connection.probe in self.as_sessions and isinstance(connection.dialogue, MailCheck)
        ]
        return next((login for login in logins if login.obstacle), logins[0] if logins else None)

    def _with_port(self, result: CheckResult, probe: Probe) -> CheckResult:
        """Add the port to a failure, if the check has several connections."""
        if len(self.probes) == 1 or probe.port is None:
            return result
        port = f" at port {probe.port}"
        return evolve(result, info=f"{result.info[: INFO_MAX - len(port)]}{port}".lstrip())


def _listed(connections: Sequence[ProbeConnection]) -> tuple[tuple[str, ...], ...]:
    """Return the capabilities that the server has listed on the first connection that asked."""
    lists = [
        connection.dialogue.capabilities.lines
        for connection in connections
        if isinstance(connection.dialogue, MailCheck) and connection.dialogue.capabilities.lines
    ]
    return bounded_list(lists[0]) if lists else ()


def plan_checks(
    backend: Backend, paths: Sequence[EntryPath], context_of: Callable[[config.ServerTls], Context]
) -> Iterator[Check]:
    """Make the checks of those of a backend's servers that have one; ``paths`` are its entry paths."""
    for server in backend.servers:
        planned = plan_probes(server.config, backend.config.protocol, paths)
        if planned and server.config.check is not None:
            as_sessions = frozenset(
                probe
                for probe in planned
                if is_like_terminated_session(server.config, backend.config.protocol, paths, probe)
            )
            timeout = server.config.check.timeout or backend.config.timeouts.check
            yield Check(server, planned, timeout, context_of, as_sessions, backend.config.resolve_prefer)
