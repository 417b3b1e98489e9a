"""One check of every server: its name resolved and its check made once, for ``mailproxy check --live``."""

from __future__ import annotations

import os
from functools import partial

import trio
from attrs import evolve, frozen

from mailproxy import config
from mailproxy.address import TcpAddress
from mailproxy.app.live_hints import hint
from mailproxy.certificates.store import CertificateStore
from mailproxy.config.check_plan import entry_paths
from mailproxy.config.path import ConfigPath, server_path
from mailproxy.errors import Fault, ServerRefusedError
from mailproxy.log import Log, Output, open_target
from mailproxy.net.resolve import literal_endpoint, resolve
from mailproxy.protocol.checks.result import CheckCode, CheckResult, excerpt
from mailproxy.proxy.backend.factory import make_backend
from mailproxy.proxy.backend.server import CheckOutcome, server_context
from mailproxy.proxy.checks.check import Check, plan_checks

_MAX_CONCURRENT = 100
_OFFERS_STARTTLS = (
    'offers STARTTLS to clients whose TLS ends here already: give tls = { mode = "starttls" }, or have the server offer none '
    'at this port (Dovecot: send_proxy = "v2-ssl")'
)
_TRUSTS = (
    'offers XCLIENT, so it trusts this proxy, and learns no client\'s address: give identity = "xclient", or take the proxy '
    "out of its trusted networks"
)
_HEADINGS = ("backend", "server", "address", "check", "ms", "result")


@frozen(kw_only=True)
class LiveResult:
    """The result for one server.

    Attributes:
        path: The server's path in the configuration.
        backend: The name of its backend.
        server: Its name.
        address: Its address, with the addresses that its host name resolved to.
        connections: The connections of its check, for the table.
        outcome: The outcome of the check.
        hint: What may be wrong, and what to write instead; empty if nothing is known.
        is_in_service: Whether it is not configured to be in maintenance.
        is_in_clear: Whether sessions speak clear text with it.
        is_trusting: Whether it would take the client's address from the proxy, which does not tell it.
    """

    path: ConfigPath
    backend: str
    server: str
    address: str
    connections: str
    outcome: CheckOutcome
    hint: str = ""
    is_in_service: bool = True
    is_in_clear: bool = False
    is_trusting: bool = False

    @property
    def fault(self) -> Fault | None:
        """The advice about it, if the check failed or clients cannot log in.

        None also if the check could not be made, or if a server in maintenance failed it.
        """
        result = self.outcome.result
        if login_fact := self._login_fact():
            return Fault(self.path, f"{self.server} {login_fact}")
        is_known = result.code not in (CheckCode.UNK, CheckCode.SOCKERR)
        if result.code.is_passed or not is_known or not self.is_in_service:
            return None
        hint = f" ({self.hint})" if self.hint else ""
        return Fault(self.path, f"{self.server} is not fit for sessions: {result}{hint}")

    def _login_fact(self) -> str:
        """Return what is wrong with a server that has passed its check, empty if nothing is known."""
        login = self.outcome.login
        if login is not None and login.obstacle:
            return login.obstacle
        if self.is_trusting:
            return _TRUSTS
        is_offering = login is not None and bool({"STARTTLS", "STLS"} & login.capabilities.names)
        return _OFFERS_STARTTLS if is_offering and self.is_in_clear else ""


def check_all_servers(configuration: config.Config, store: CertificateStore) -> list[LiveResult]:
    """Check every server once, 100 at a time. Servers without a check are connected to.

    Runs a trio loop of its own.

    Args:
        configuration: The configuration.
        store: Its TLS files.

    Returns:
        The results, in the order of the configuration.
    """
    return trio.run(_check_all, configuration, store)


async def _check_all(configuration: config.Config, store: CertificateStore) -> list[LiveResult]:
    log = Log([Output(open_target(os.devnull, None))])  # the table has the results
    results: dict[ConfigPath, LiveResult] = {}
    limiter = trio.CapacityLimiter(_MAX_CONCURRENT)

    async def check_limited(path: ConfigPath, backend: str, check: Check) -> None:
        async with limiter:
            results[path] = await _check_one(path, backend, check)

    servers = [
        (server_path(backend.name, index), backend, server)
        for backend in configuration.backends.values()
        for index, server in enumerate(backend.servers)
    ]
    async with trio.open_nursery() as nursery:
        for path, backend, server in servers:
            check = _check_of(configuration, backend, server, store, log)
            nursery.start_soon(check_limited, path, backend.name, check)
    return [results[path] for path, _, _ in servers]


def _check_of(
    configuration: config.Config,
    backend: config.Backend,
    server: config.Server,
    store: CertificateStore,
    log: Log,
) -> Check:
    """Return the server's check. If it is configured without one, return one that connects."""
    if server.check is None:
        server = evolve(server, check=config.Check(type="tcp"))
    alone = make_backend(evolve(backend, servers=(server,)), store.server_contexts, log)
    paths = entry_paths(configuration.frontends.values(), backend.name)
    (check,) = plan_checks(alone, paths, partial(server_context, store.server_contexts))
    return check


async def _check_one(path: ConfigPath, backend: str, check: Check) -> LiveResult:
    server = check.server
    outcome = await _resolve_and_check(check)
    address = str(server.config.address)
    if literal_endpoint(server.config.address) is None:
        address += f" ({', '.join(endpoint.host for endpoint in server.endpoints) or 'unknown'})"
    return LiveResult(
        path=path,
        backend=backend,
        server=server.name,
        address=address,
        connections=" + ".join(_describe(check)),
        outcome=outcome,
        is_in_service=server.config.state != "maint",
        is_in_clear=server.config.tls is None,
        is_trusting=any(words[0].upper() == "XCLIENT" for words in outcome.listed)
        and server.config.identity == "proxy"
        and server.proxy_header is None,
        hint=hint(outcome.result, check.failed_probe) if check.failed_probe is not None else "",
    )


async def _resolve_and_check(check: Check) -> CheckOutcome:
    address = check.server.config.address
    if isinstance(address, TcpAddress) and not check.server.addresses:
        try:
            with trio.fail_after(check.timeout):
                check.server.addresses = await resolve(address.host, address.port, check.prefer)
        except ServerRefusedError as error:
            return CheckOutcome(CheckResult(CheckCode.L4CON, str(error)), 0)
        except trio.TooSlowError:
            return CheckOutcome(CheckResult(CheckCode.L4TOUT, f"{address.host}: no name server answers"), 0)
    if isinstance(address, TcpAddress) and any(
        probe.port is None and probe.address is None for probe in check.probes
    ):
        reason = "its port is the client's, which is known only when the proxy runs"
        return CheckOutcome(CheckResult(CheckCode.UNK, reason), 0)
    outcomes: list[CheckOutcome] = []
    try:
        await check.run(outcomes.append)
    except Exception as fault:  # noqa: BLE001 - the border: a fault in one check must not lose the results of the others
        return CheckOutcome(CheckResult(CheckCode.UNK, excerpt(repr(fault))), 0)
    return outcomes[0]


def _describe(check: Check) -> list[str]:
    return [
        f"{probe.kind}{f' :{probe.port}' if probe.port is not None else ''}{' TLS' if probe.tls is not None else ''}"
        f"{f' {probe.send_proxy}' if probe.send_proxy != 'none' else ''}"
        for probe in check.probes
    ]


def table(results: list[LiveResult]) -> str:
    """Return the results as a table for people, a line for each server."""
    rows = [_HEADINGS, *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(result: LiveResult) -> tuple[str, ...]:
    check, ms = result.outcome.result, str(result.outcome.ms)
    return (
        result.backend,
        result.server,
        result.address,
        result.connections,
        ms,
        f"{check.code.name} {check.info}".rstrip(),
    )
