"""The model's class of each table of a draft, and what this version of mailproxy supports.

Keys that other versions have, such as those of ACME, are written as soon as the model has them. Until then
they are reported as losses. This module alone asks the model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from mailproxy.config import model
from mailproxy.config.fields import Key, keys_of
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Path, Table, Value

SECTIONS = ("process", "log", "admin", "metrics", "acme", "defaults", "profiles", "frontends", "backends")
_KINDS: dict[str, type | None] = {
    "frontend": model.Frontend,
    "bind": model.Bind,
    "backend": model.Backend,
    "server": model.Server,
    "acme": getattr(model, "Acme", None),
}
_SINGLE = {
    "process": model.Process,
    "log": model.Log,
    "admin": model.Admin,
    "metrics": model.Metrics,
}

HAS_TLS13_SUITES = sys.version_info >= (3, 15)
"""Whether the ssl module can choose the cipher suites of TLS 1.3, and several groups."""


def owners(draft: Table) -> Iterator[tuple[Path, Table, type | None]]:
    """Yield the tables of a draft that have a heading of their own, with their paths and classes.

    A class is None where this version has no such table.
    """
    for section in SECTIONS:
        table = draft.keys.get(section)
        if not isinstance(table, Table):
            continue
        if section in _SINGLE:
            yield (section,), table, _SINGLE[section]
        elif section == "profiles":
            for name, profile in _tables(table):
                yield from ((("profiles", name, kind), each, _KINDS[kind]) for kind, each in _tables(profile))
        elif section == "defaults":
            yield from ((("defaults", kind), each, _KINDS[kind]) for kind, each in _tables(table))
        else:
            kind = _KINDS.get(section.removesuffix("s"))
            yield from (((section, name), each, kind) for name, each in _tables(table))


def _tables(table: Table) -> Iterator[tuple[str, Table]]:
    return ((name, each) for name, each in table.keys.items() if isinstance(each, Table))


def key_of(table_type: type | None, name: str) -> Key | None:
    """Return a key of a class; None if this version has none."""
    return None if table_type is None else keys_of(table_type).get(name)


def supports(table_type: type, name: str, value: object) -> bool:
    """Whether this version has a key, and supports a value of it."""
    key = key_of(table_type, name)
    return key is not None and (key.supported is None or value in key.supported)


def has_acme() -> bool:
    """Whether this version obtains certificates."""
    return key_of(model.FrontendTls, "acme") is not None


def leave_out_unsupported(context: Context) -> None:
    """Take the keys and values out of the draft that this version does not have, and report them."""
    if not has_acme():
        context.draft.keys.pop("acme", None)
    for _, table, kind in owners(context.draft):
        if kind is not None:
            _leave_out(table, kind, context)
    _leave_out_unused_tls(context.draft)


def _leave_out(table: Table, kind: type, context: Context) -> None:
    keys = keys_of(kind)
    for name, item in list(table.keys.items()):
        key = keys.get(name)
        if key is None or (isinstance(item, Value) and not _is_supported(key, item)):
            del table.keys[name]
            _report(context, name, item, table)
        elif key.table is None or isinstance(item, Value):
            continue
        elif isinstance(item, Table):
            _leave_out(item, key.table, context)
        else:
            for row in item:
                _leave_out(row, key.table, context)


def _is_supported(key: Key, item: Value) -> bool:
    if key.supported is None or key.value_type is None:
        return True
    try:
        return key.value_type.structure(item.value) in key.supported
    except ValueError:
        return True  # that is another fault


def _report(context: Context, name: str, item: Value | Table | list[Table], owner: Table) -> None:
    place = item.place if isinstance(item, (Value, Table)) else None
    place = place or owner.place or next(iter(owner.places()), None)
    if place is None:
        return
    value = f' = "{item.value}"' if isinstance(item, Value) and isinstance(item.value, str) else ""
    fact = f"this version has no {name}{value} yet: it is left out"
    context.report.loss(place, context.name_of(place), fact)


def _leave_out_unused_tls(draft: Table) -> None:
    """Take out the TLS of frontends without a bind that terminates it."""
    frontends = draft.table("frontends")
    for frontend in frontends.keys.values():
        if not isinstance(frontend, Table):
            continue
        binds, routes = frontend.rows("bind"), frontend.keys.get("routes", [])
        terminates = any(row.get("mode") in ("tls", "starttls") for row in binds)
        routed = isinstance(routes, list) and any(route.get("mode") == "tls" for route in routes)
        if not terminates and not routed:
            frontend.keys.pop("tls", None)
            for row in binds:
                row.keys.pop("tls", None)
