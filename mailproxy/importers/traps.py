"""Values that are traps for mail: kept and advised against, or replaced with ``--mend``."""

from __future__ import annotations

from collections.abc import Iterator

from mailproxy.config.units import parse_duration
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, Value
from mailproxy.importers.place import has_variable
from mailproxy.importers.trim import backends_of

_MINUTE = 60.0
# The shortest idle timeout that suits a protocol, mailproxy's default, and the reason.
_IDLE = {
    "imap": (
        29 * _MINUTE,
        "31m",
        "cuts off IMAP clients in IDLE, which are silent for 29 minutes (RFC 2177)",
    ),
    "pop3": (10 * _MINUTE, "10m", "is shorter than the 10 minutes that POP3 asks for (RFC 1939 section 3)"),
    "smtp": (
        5 * _MINUTE,
        "10m",
        "is shorter than the 5 minutes that SMTP asks for (RFC 5321 section 4.5.3.2)",
    ),
    "submission": (
        5 * _MINUTE,
        "10m",
        "is shorter than the 5 minutes that SMTP asks for (RFC 5321 section 4.5.3.2)",
    ),
}
_CONNECTING = ("tcp", "tls")


def find_traps(context: Context, *, mend: bool) -> None:
    """Advise against values that are traps for mail; with ``mend``, leave them to mailproxy's defaults."""
    protocols = _protocols(context.draft)
    for kind, key in (("frontends", "client"), ("backends", "server")):
        for name, table in _tables(context.draft, kind):
            for protocol in sorted(protocols.get((kind, name), ())):
                _check_idle_timeout(context, table, key, protocol, mend=mend)
    for name, table in _tables(context.draft, "backends"):
        if protocols.get(("backends", name), set()) - {"tcp"}:
            _check_health_checks(context, table, mend=mend)


def _tables(draft: Table, kind: str) -> Iterator[tuple[str, Table]]:
    return ((name, table) for name, table in draft.table(kind).keys.items() if isinstance(table, Table))


def _protocols(draft: Table) -> dict[tuple[str, str], set[str]]:
    """Return the protocols of each frontend and backend."""
    protocols: dict[tuple[str, str], set[str]] = {}
    for name, table in _tables(draft, "frontends"):
        protocol = str(table.get("protocol") or "tcp")
        protocols[("frontends", name)] = {protocol}
        for backend in backends_of(table):
            protocols.setdefault(("backends", backend), set()).add(protocol)
    for name, table in _tables(draft, "backends"):
        if table.get("protocol"):
            protocols.setdefault(("backends", name), set()).add(str(table.get("protocol")))
    return protocols


def _check_idle_timeout(context: Context, table: Table, key: str, protocol: str, *, mend: bool) -> None:
    timeouts = table.keys.get("timeouts")
    value = timeouts.keys.get(key) if isinstance(timeouts, Table) else None
    if protocol not in _IDLE or not isinstance(value, Value) or has_variable(str(value.value)):
        return
    shortest, default, reason = _IDLE[protocol]
    if parse_duration(value.value) >= shortest:
        return
    place = value.place or table.place
    if mend and isinstance(timeouts, Table):
        del timeouts.keys[key]
    if place is None:
        return
    what = f"{value.value} {reason}"
    if mend:
        context.report.note(
            place, context.name_of(place), f"{what}: mended to {default}, mailproxy's default"
        )
    else:
        context.report.advise(place, context.name_of(place), f"{what}: remove it for mailproxy's {default}")


def _check_health_checks(context: Context, table: Table, *, mend: bool) -> None:
    servers = table.rows("servers")
    for owner in (table, *servers):
        check = owner.keys.get("check")
        if isinstance(check, Value) and check.value is False:
            _without_check(context, owner, check, table, mend=mend)
        elif isinstance(check, Table) and check.get("type") in _CONNECTING:
            _connecting(context, check, table, mend=mend)


def _without_check(context: Context, owner: Table, check: Value, table: Table, *, mend: bool) -> None:
    place = check.place or owner.place or table.place
    if mend:
        del owner.keys["check"]
    if place is None:
        return
    if mend:
        context.report.note(place, "check", "there is none: mended, the servers are checked")
    else:
        context.report.advise(
            place, "check", "there is none, so a server that is down stays unnoticed: remove check = false"
        )


def _connecting(context: Context, check: Table, table: Table, *, mend: bool) -> None:
    kind = check.keys["type"]
    place = (kind.place if isinstance(kind, Value) else None) or check.place or table.place
    if mend:
        del check.keys["type"]
    if place is None:
        return
    what = (
        "the check only connects"
        if isinstance(kind, Value) and kind.value == "tcp"
        else "the check only makes a TLS handshake"
    )
    if mend:
        context.report.note(
            place, "check", f"{what}: mended, mailproxy's checks speak the mail protocol where they can"
        )
    else:
        context.report.advise(
            place,
            "check",
            f"{what}, so a server that accepts and does nothing stays up: remove its type, and it speaks the mail protocol",
        )
