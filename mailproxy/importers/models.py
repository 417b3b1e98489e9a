"""The model's class of each table of a draft."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeAlias

from mailproxy.config import model
from mailproxy.config.fields import Key, keys_of
from mailproxy.importers.draft import Path, Table

SECTIONS = ("process", "log", "admin", "metrics", "acme", "defaults", "profiles", "frontends", "backends")
Owner: TypeAlias = tuple[Path, Table, type]
_KINDS: dict[str, type] = {
    "frontend": model.Frontend,
    "bind": model.Bind,
    "backend": model.Backend,
    "server": model.Server,
    "acme": model.Acme,
}
_SINGLE = {
    "process": model.Process,
    "log": model.Log,
    "admin": model.Admin,
    "metrics": model.Metrics,
}

HAS_TLS13_SUITES = sys.version_info >= (3, 15)
"""Whether the ssl module can choose the cipher suites of TLS 1.3, and several groups."""


def owners(draft: Table) -> Sequence[Owner]:
    """Return the tables of a draft that have a heading of their own, with their paths and classes."""
    found: list[Owner] = []
    for section in SECTIONS:
        table = draft.keys.get(section)
        if not isinstance(table, Table):
            continue
        if section in _SINGLE:
            found.append(((section,), table, _SINGLE[section]))
        elif section == "profiles":
            for name, profile in _tables(table):
                found += [(("profiles", name, kind), each, _KINDS[kind]) for kind, each in _tables(profile)]
        elif section == "defaults":
            found += [(("defaults", kind), each, _KINDS[kind]) for kind, each in _tables(table)]
        else:
            kind = _KINDS[section.removesuffix("s")]
            found += [((section, name), each, kind) for name, each in _tables(table)]
    return found


def _tables(table: Table) -> Sequence[tuple[str, Table]]:
    return [(name, each) for name, each in table.keys.items() if isinstance(each, Table)]


def key_of(table_type: type | None, name: str) -> Key | None:
    """Return a key of a class; None if it has none."""
    return None if table_type is None else keys_of(table_type).get(name)
