"""A look at every server of a configuration: its name resolved, its check made once, as ``mailproxy check --live`` shows it."""

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
from mailproxy.errors import Fault, ServerRefusedError
from mailproxy.log import Log, Output, open_target
from mailproxy.net.resolve import literal_endpoint, resolve
from mailproxy.protocol.checks.result import CheckCode, CheckResult, printable
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import CheckOutcome, server_context
from mailproxy.proxy.checks.check import Check, checks_of

_AT_ONCE = 100
_HEADINGS = ("backend", "server", "address", "check", "ms", "result")


@frozen(kw_only=True)
class LiveResult:
    """What became of one server. ``path`` is its place in the configuration; ``tried`` says in words what was done."""

    path: str
    backend: str
    server: str
    address: str
    tried: str
    checked: CheckOutcome
    hint: str = ""
    is_in_service: bool = True

    @property
    def fault(self) -> Fault | None:
        """What is wrong with it; None, too, if that could not be found out, or it is in maintenance."""
        result, login = self.checked.result, self.checked.login
        if login is not None and login.obstacle:
            return Fault(self.path, f"{self.server} {login.obstacle}")
        is_known = result.code not in (CheckCode.UNK, CheckCode.SOCKERR)
        if result.code.is_passed or not is_known or not self.is_in_service:
            return None
        hint = f" ({self.hint})" if self.hint else ""
        return Fault(self.path, f"{self.server} is not fit for sessions: {result}{hint}")


def check_all_servers(settings: config.Config, store: CertificateStore) -> list[LiveResult]:
    """Check every server once, many at a time; those without a check are connected to. In the order of the configuration.

    Runs a trio loop of its own.
    """
    return trio.run(_check_all, settings, store)


async def _check_all(settings: config.Config, store: CertificateStore) -> list[LiveResult]:
    log = Log([Output(open_target(os.devnull, None))])  # the table says it
    found: dict[str, LiveResult] = {}
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def take_turn(path: str, backend: str, check: Check) -> None:
        async with limiter:
            found[path] = await _check_one(path, backend, check)

    places = [
        (f"backends.{backend.name}.servers[{index}]", backend, server)
        for backend in settings.backends.values()
        for index, server in enumerate(backend.servers)
    ]
    async with trio.open_nursery() as nursery:
        for path, backend, server in places:
            check = _check_of(settings, backend, server, store, log)
            nursery.start_soon(take_turn, path, backend.name, check)
    return [found[path] for path, _, _ in places]


def _check_of(
    settings: config.Config,
    backend: config.Backend,
    server: config.Server,
    store: CertificateStore,
    log: Log,
) -> Check:
    """Its check; where it is not checked, whether it takes connections."""
    if server.check is None:
        server = evolve(server, check=config.Check(type="tcp"))
    alone = Backend(evolve(backend, servers=(server,)), store.server_contexts, log)
    found = entry_paths(settings.frontends.values(), backend.name)
    (check,) = checks_of(alone, found, partial(server_context, store.server_contexts))
    return check


async def _check_one(path: str, backend: str, check: Check) -> LiveResult:
    server = check.server
    checked = await _resolved_and_checked(check)
    address = str(server.config.address)
    if literal_endpoint(server.config.address) is None:
        address += f" ({', '.join(endpoint.host for endpoint in server.endpoints) or 'unknown'})"
    return LiveResult(
        path=path,
        backend=backend,
        server=server.name,
        address=address,
        tried=" + ".join(_in_words(check)),
        checked=checked,
        is_in_service=server.config.state != "maint",
        hint=hint(checked.result, check.failed) if check.failed is not None else "",
    )


async def _resolved_and_checked(check: Check) -> CheckOutcome:
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
    except Exception as fault:  # noqa: BLE001 - the border: a fault in one check does not lose the others' lines
        return CheckOutcome(CheckResult(CheckCode.UNK, printable(repr(fault))), 0)
    return outcomes[0]


def _in_words(check: Check) -> list[str]:
    return [
        f"{probe.kind}{f' :{probe.port}' if probe.port is not None else ''}{' TLS' if probe.tls is not None else ''}"
        f"{f' {probe.send_proxy}' if probe.send_proxy != 'none' else ''}"
        for probe in check.probes
    ]


def table(tried: list[LiveResult]) -> str:
    """What became of the servers, a line each, for eyes."""
    rows = [_HEADINGS, *map(_row, tried)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(tried: LiveResult) -> tuple[str, ...]:
    result, ms = tried.checked.result, str(tried.checked.ms)
    return (
        tried.backend,
        tried.server,
        tried.address,
        tried.tried,
        ms,
        f"{result.code.name} {result.info}".rstrip(),
    )
