"""The configuration in the making: mailproxy's tables, each value with the place that it comes from.

A draft has every value that the source program has, also where mailproxy's default is the same. ``inherit``
and ``trim`` leave out what a person would not write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from attrs import define, field

from mailproxy.importers.place import NO_COMMENTS, Comments, Place, Source, variable

Scalar: TypeAlias = bool | int | float | str | list[str] | list[int] | list[str | int]
Path: TypeAlias = tuple[str | int, ...]

_SHORT_FORMS = {
    "certificates": "certificate"
}  # the key of a row that is a single value; of others it is the address
_VARIABLE = re.compile(r"\$(?:\$|\{([^}]*)\})")


@define
class Value:
    """A value that is no table.

    Attributes:
        value: As in TOML. Two values are equal if this is.
        place: Where it comes from; None if it follows from what the source leaves out.
        comments: Comments of the source about it.
    """

    value: Scalar
    place: Place | None = field(default=None, eq=False)
    comments: Comments = field(default=NO_COMMENTS, eq=False)


@define
class Table:
    """A table: its keys, in the order in which they were set."""

    keys: dict[str, Value | Table | list[Table]] = field(factory=dict)
    place: Place | None = field(default=None, eq=False)
    comments: Comments = field(default=NO_COMMENTS, eq=False)

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def set(self, key: str, value: Scalar, source: Source | None = None) -> None:
        """Set a key to a value, with place and comments of its source."""
        comments = NO_COMMENTS if source is None else source.take_comments()
        self.keys[key] = Value(value, None if source is None else source.place, comments)

    def set_default(self, key: str, value: Scalar, source: Source | None = None) -> None:
        """Set a key that is not set yet."""
        if key not in self.keys:
            self.set(key, value, source)

    def table(self, key: str) -> Table:
        """Return the table of a key; it is made if the key has none."""
        table = self.keys.get(key)
        if not isinstance(table, Table):
            self.keys[key] = table = Table()
        return table

    def rows(self, key: str) -> list[Table]:
        """Return the list of tables of a key; it is made if the key has none."""
        rows = self.keys.get(key)
        if not isinstance(rows, list):
            self.keys[key] = rows = []
        return rows

    def get(self, key: str, *inner: str) -> object:
        """Return the value of a key, or of a key in nested tables; None if it is not set."""
        value: object = self.keys.get(key)
        for name in inner:
            value = value.keys.get(name) if isinstance(value, Table) else None
        return value.value if isinstance(value, Value) else value

    def copy(self) -> Table:
        """Return a copy that can be changed apart from this one. Values are never changed, so they are shared."""
        keys: dict[str, Value | Table | list[Table]] = {}
        for key, item in self.keys.items():
            if isinstance(item, Table):
                keys[key] = item.copy()
            else:
                keys[key] = [row.copy() for row in item] if isinstance(item, list) else item
        return Table(keys, self.place, self.comments)

    def values(self) -> Iterator[tuple[Path, Value]]:
        """Yield each value with its path, also those of nested tables."""
        for key, item in self.keys.items():
            if isinstance(item, Value):
                yield (key,), item
            elif isinstance(item, Table):
                yield from (((key, *path), value) for path, value in item.values())
            else:
                for index, row in enumerate(item):
                    yield from (((key, index, *path), value) for path, value in row.values())

    def places(self) -> list[Place]:
        """Return every place that a value or table comes from."""
        places = [] if self.place is None else [self.place]
        for item in self.keys.values():
            if isinstance(item, Value):
                if item.place is not None:
                    places.append(item.place)
            else:
                for table in [item] if isinstance(item, Table) else item:
                    places += table.places()
        return places


def new_table(source: Source) -> Table:
    """Return a table with place and comments of its source."""
    return Table(place=source.place, comments=source.take_comments())


def plain(table: Table) -> dict[str, object]:
    """Return a draft as the tables that a TOML file would have."""
    mapping: dict[str, object] = {}
    for key, item in table.keys.items():
        if isinstance(item, Value):
            mapping[key] = item.value
        else:
            mapping[key] = plain(item) if isinstance(item, Table) else [plain(row) for row in item]
    return mapping


def from_plain(mapping: Mapping[str, Any]) -> Table:
    """Return a draft of the tables of a TOML file, such as one that an importer wrote."""
    table = Table()
    for key, item in mapping.items():
        if isinstance(item, dict):
            table.keys[key] = from_plain(item)
        elif isinstance(item, list) and any(isinstance(row, dict) for row in item):
            short = _SHORT_FORMS.get(key, "address")
            rows = (row if isinstance(row, dict) else {short: row} for row in item)
            table.keys[key] = [from_plain(row) for row in rows]
        else:
            table.keys[key] = Value(_with_variables(item))
    return table


def _with_variables(item: Any) -> Any:
    """Return a value of a file with its variables of the environment as words have them."""
    if isinstance(item, list):
        return [_with_variables(each) for each in item]
    if not isinstance(item, str):
        return item
    return _VARIABLE.sub(lambda match: "$" if match[0] == "$$" else variable(match[1]), item)
