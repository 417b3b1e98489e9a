"""Make a draft whole: what mailproxy demands, and other programs do without."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, Value
from mailproxy.importers.place import Origin
from mailproxy.importers.trim import backends_of

CERTIFICATES = "/etc/mailproxy/certs/"  # a folder for certificates that the source does not name
HMAC_FILE = "/etc/mailproxy/eab.key"  # a file for the key of an external account, which the source has inside

_TEMPLATE = "template-"  # in words that a template would replace, which is reported already
_TCP = re.compile(r"(\*|[0-9.]+|\[[^]]*\]):([0-9]+)")


def complete(context: Context) -> None:
    """Leave out frontends without binds and backends without servers, and fill in what else is missing."""
    _leave_out_unused_tls(context.draft)
    _separate_families(context.draft)
    _leave_out_empty(context)
    _settle_protocols(context.draft)
    _add_certificates(context)


def _tables(draft: Table, section: str) -> Iterator[tuple[str, Table]]:
    tables = draft.table(section).keys
    return ((name, table) for name, table in list(tables.items()) if isinstance(table, Table))


def _leave_out_unused_tls(draft: Table) -> None:
    """Take out the TLS of frontends without a bind that terminates it."""
    for _, frontend in _tables(draft, "frontends"):
        binds, routes = frontend.rows("bind"), frontend.keys.get("routes", [])
        terminates = any(row.get("mode") in ("tls", "starttls") for row in binds)
        routed = isinstance(routes, list) and any(route.get("mode") == "tls" for route in routes)
        if not terminates and not routed:
            frontend.keys.pop("tls", None)
            for row in binds:
                row.keys.pop("tls", None)


def _separate_families(draft: Table) -> None:
    """Let binds to every IPv6 address take IPv6 only, where another bind takes IPv4 at the same port."""
    rows = [row for _, frontend in _tables(draft, "frontends") for row in frontend.rows("bind")]
    addresses = [(_TCP.fullmatch(str(row.get("address"))), row) for row in rows]
    v4 = {match[2] for match, _ in addresses if match is not None and not match[1].startswith("[")}
    for match, row in addresses:
        if match is not None and match[1] == "[::]" and match[2] in v4:
            row.keys["v6only"] = Value(True, row.place)


def _leave_out_empty(context: Context) -> None:
    draft = context.draft
    for name, backend in _tables(draft, "backends"):
        servers = backend.rows("servers")
        servers[:] = [row for row in servers if _TEMPLATE not in str(row.get("address"))]
        if not servers:
            del draft.table("backends").keys[name]
            _report(context, backend, f"{name} has no server that mailproxy can have: left out")
    known = draft.table("backends").keys
    for name, frontend in _tables(draft, "frontends"):
        if not frontend.rows("bind"):
            del draft.table("frontends").keys[name]
            _report(
                context, frontend, f"{name} has no address to listen on that mailproxy can have: left out"
            )
            continue
        named = frontend.keys.get("backend")
        if isinstance(named, Value) and named.value not in known:
            del frontend.keys["backend"]
        routes = frontend.rows("routes")
        routes[:] = [row for row in routes if row.get("backend") is None or row.get("backend") in known]


def _settle_protocols(draft: Table) -> None:
    """Set the protocol of each backend that frontends of different protocols use."""
    spoken: dict[str, set[str]] = {}
    for _, frontend in _tables(draft, "frontends"):
        for name in backends_of(frontend):
            spoken.setdefault(name, set()).add(str(frontend.get("protocol") or "tcp"))
    for name, protocols in spoken.items():
        backend = draft.table("backends").keys.get(name)
        if len(protocols) > 1 and isinstance(backend, Table):
            backend.set_default("protocol", "smtp" if protocols == {"smtp", "submission"} else "tcp")


def _report(context: Context, table: Table, fact: str) -> None:
    context.settle_table(table)
    if table.place is not None:
        context.report.loss(table.place, context.name_of(table.place), fact)


def _add_certificates(context: Context) -> None:
    """Name a folder for the certificates of binds that terminate TLS, where the source names none."""
    for name, frontend in _tables(context.draft, "frontends"):
        for row in frontend.rows("bind"):
            if row.get("mode") not in ("tls", "starttls"):
                continue
            tables = [
                table for table in (row.keys.get("tls"), frontend.keys.get("tls")) if isinstance(table, Table)
            ]
            if any("certificates" in table or "acme" in table for table in tables):
                continue
            tls = tables[0] if tables else frontend.table("tls")
            place = row.place or frontend.place
            source = None if place is None else Origin(place)
            certificate = Table(place=place)
            certificate.set("certificate", CERTIFICATES, source)
            tls.rows("certificates").append(certificate)
            if place is not None:
                context.report.loss(
                    place,
                    context.name_of(place),
                    f"{name} has TLS and no certificate: put one into {CERTIFICATES}",
                )
