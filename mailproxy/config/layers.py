"""Inheritance: the layers in which a key may be written, and the merged table with the origin of each value.

Tables merge key by key. Lists and scalars replace what a weaker layer has. ``false`` switches off an
inherited table. From weak to strong, the layers are ``[defaults]``, the profile, the table that a bind or
server belongs to (frontend or backend), and the table itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from mailproxy.config.path import ROOT_PATH, ConfigPath

Table = dict[str, Any]

_OWNERS = {"bind": ("frontend", "bind"), "server": ("backend", "servers")}


@frozen
class Layer:
    """One table of the file that a value may come from."""

    path: ConfigPath
    table: Table

    def only(self, keys: Iterable[str]) -> Layer:
        """Return the layer reduced to these keys."""
        return Layer(self.path, {key: self.table[key] for key in keys if key in self.table})

    def items(self, key: str) -> Iterator[Layer]:
        """Yield each table of the list that a key has."""
        for index, table in enumerate(self.table.get(key, [])):
            yield Layer(self.path / key / index, table)


@define
class _Source:
    """The strongest layer that has a key, by its rank, and the same for each key of the key's table."""

    rank: int
    keys: dict[str, _Source] = field(factory=dict)


@frozen(eq=False)
class MergedTable:
    """A table merged from its layers, with the origin of each value.

    Attributes:
        layers: The layers from weak to strong; the last is the table itself.
        values: The merged keys.
    """

    layers: tuple[Layer, ...]
    values: Table
    _sources: Mapping[str, _Source]

    @property
    def own(self) -> Layer:
        """The table itself, as it is written."""
        return self.layers[-1]

    @property
    def path(self) -> ConfigPath:
        """The path of the table itself."""
        return self.own.path

    def origin(self, *keys: str) -> ConfigPath:
        """Return the path of the table that a value comes from; the table itself if no layer has the value.

        Args:
            keys: The key, or the names of nested tables down to a key: ``"tls", "ca"``.
        """
        rank = self._rank(keys)
        return self.path if rank is None else self.layers[rank].path

    def path_of(self, *keys: str) -> ConfigPath:
        """Return the path at which a value is written."""
        return self.origin(*keys).joinpath(*keys)

    def is_overridden(self, keys: Sequence[str], *, by: Sequence[str]) -> bool:
        """Whether a stronger layer than that of one key has the other key (or, for a table, a key in it)."""
        rank, other = self._rank(keys), self._rank(by)
        return other is not None and (rank is None or other > rank)

    def candidates(self, *keys: str) -> Iterator[ConfigPath]:
        """Yield the paths at which a key may be written, one for each layer."""
        return (layer.path.joinpath(*keys) for layer in self.layers)

    def _rank(self, keys: Sequence[str]) -> int | None:
        rank, sources = None, self._sources
        for key in keys:
            if key not in sources:
                return None
            rank, sources = sources[key].rank, sources[key].keys
        return rank


def merge(layers: Iterable[Layer]) -> MergedTable:
    """Merge layers into one table, the later ones stronger."""
    layers = tuple(layers)
    values: Table = {}
    sources: dict[str, _Source] = {}
    for rank, layer in enumerate(layers):
        _lay_over(values, sources, layer.table, rank)
    return MergedTable(layers, values, sources)


def _lay_over(values: Table, sources: dict[str, _Source], table: Table, rank: int) -> None:
    for key, value in table.items():
        source = sources.setdefault(key, _Source(rank))
        source.rank = rank
        if isinstance(value, dict):
            if not isinstance(values.get(key), dict):
                values[key] = {}
            _lay_over(values[key], source.keys, value, rank)
        else:
            values[key] = value
            source.keys.clear()


def interleave(outer: Sequence[Layer], inner: Sequence[Layer], inherited: Iterable[str]) -> list[Layer]:
    """Return the layers of a bind or server below its own table.

    Args:
        outer: The layers of its frontend or backend.
        inner: The layers of the same strength for binds or servers; there may be fewer.
        inherited: The keys that a bind or server takes from its frontend or backend.
    """
    inherited = tuple(inherited)
    layers = []
    for index, layer in enumerate(outer):
        layers.append(layer.only(inherited))
        layers.extend(inner[index : index + 1])
    return layers


def iter_tables(tables: Table, kind: str) -> Iterator[Layer]:
    """Yield every table of a kind (frontend, bind, backend, server), also in defaults and unused profiles."""
    yield Layer(ROOT_PATH / "defaults" / kind, tables["defaults"].get(kind, {}))
    for name, profile in tables["profiles"].items():
        yield Layer(ROOT_PATH / "profiles" / name / kind, profile.get(kind, {}))
    if kind not in _OWNERS:
        for name, table in tables[f"{kind}s"].items():
            yield Layer(ROOT_PATH / f"{kind}s" / name, table)
        return
    owner, key = _OWNERS[kind]
    for layer in iter_tables(tables, owner):
        yield from layer.items(key)
