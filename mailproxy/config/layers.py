"""Inheritance: which value holds where a key may stand in several layers.

Tables merge key by key, lists and scalars replace, ``false`` switches off an inherited table. From weak to strong:
``[defaults]``, the profile, what surrounds (a server's backend, a bind's frontend), the table itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attrs import frozen

from mailproxy.config.key_paths import join
from mailproxy.config.validate import Table


@frozen
class Layer:
    """One table that a value may come from, with its path in the file."""

    path: str
    table: Table

    def only(self, keys: Iterable[str]) -> Layer:
        """The layer reduced to the keys that are handed down."""
        return Layer(self.path, {key: self.table[key] for key in keys if key in self.table})


_LISTED = {"bind": ("frontend", "bind"), "server": ("backend", "servers")}


def iter_tables(tables: Table, kind: str) -> Iterator[Layer]:
    """Every frontend, bind, backend or server that stands in a file, also in defaults and profiles that nobody uses."""
    yield Layer(f"defaults.{kind}", tables["defaults"].get(kind, {}))
    for name, profile in tables["profiles"].items():
        yield Layer(join(join("profiles", name), kind), profile.get(kind, {}))
    if kind not in _LISTED:
        for name, table in tables[f"{kind}s"].items():
            yield Layer(join(f"{kind}s", name), table)
        return
    owner, key = _LISTED[kind]
    for layer in iter_tables(tables, owner):
        for index, table in enumerate(layer.table.get(key, [])):
            yield Layer(f"{join(layer.path, key)}[{index}]", table)


def merge(layers: Sequence[Layer]) -> Table:
    """All layers in one table, the later ones stronger."""
    merged: Table = {}
    for layer in layers:
        _lay_over(merged, layer.table)
    return merged


def origin_path(layers: Sequence[Layer], *keys: str) -> str:
    """The path of the strongest layer that has the key, or one table in another down to it; of the table itself if none has."""
    return next((layer.path for layer in reversed(layers) if _has(layer.table, keys)), layers[-1].path)


def _has(table: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True


def is_overridden_by(layers: Sequence[Layer], keys: Sequence[str], others: Sequence[str]) -> bool:
    """Does a key, or one in a table in it, come from a stronger layer than the other one?"""
    return _strength(layers, keys) > _strength(layers, others)


def _strength(layers: Sequence[Layer], keys: Sequence[str]) -> int:
    return max((index for index, layer in enumerate(layers) if _has(layer.table, keys)), default=-1)


def _lay_over(merged: Table, table: Table) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            below = merged.get(key)
            copy: Table = dict(below) if isinstance(below, dict) else {}
            _lay_over(copy, value)
            merged[key] = copy
        else:
            merged[key] = value
