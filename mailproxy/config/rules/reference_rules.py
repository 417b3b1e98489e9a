"""Rules for the backends and profiles that frontends, backends and routes name."""

from __future__ import annotations

from collections.abc import Iterable

from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.layers import Layer, Table, iter_tables
from mailproxy.config.lint.unknown_keys import suggest_nearest
from mailproxy.config.path import ROOT_PATH
from mailproxy.config.values import printable, to_display


def check_references(tables: Table, diagnostics: Diagnostics) -> None:
    """Check that every backend and profile that a table names exists."""
    for layer in (*iter_tables(tables, "frontend"), *iter_tables(tables, "backend")):
        for naming in (layer, *layer.items("routes")):
            for kind in ("backend", "profile"):
                _check_reference(kind, naming, tables, diagnostics)


def _check_reference(kind: str, naming: Layer, tables: Table, diagnostics: Diagnostics) -> None:
    name, section = naming.table.get(kind), f"{kind}s"
    if name is None or name in tables[section]:
        return
    if diagnostics.is_any_invalid((ROOT_PATH / section, ROOT_PATH / section / name)):
        return
    remedy = suggest_nearest(name, tables[section]) or _list_known(tables[section])
    diagnostics.add(naming.path / kind, f"there is no {kind} {to_display(name)}{remedy}")


def _list_known(names: Iterable[str]) -> str:
    return f"; known are {', '.join(map(printable, names))}" if names else ""
