"""What a configuration was read from, so that faults can name line, column and the names of servers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from attrs import evolve

from mailproxy.config.key_paths import join, prefixes
from mailproxy.config.source.positions import key_offsets
from mailproxy.errors import ConfigError, Fault

_OWNED = re.compile(r'(frontends|backends)\.("[^"]*"|[^.\["]+)(?:\.(.*))?')
_LISTED = re.compile(r"(bind|servers)\[[0-9]+\](?:\.(.*))?")
_T = TypeVar("_T")
_ITEM_KIND = {"bind": "bind", "servers": "server"}


class Origin:
    """The file's name, its tables as they were read, and its text where there is one.

    Nothing is worked out before the first fault: a configuration without faults costs nothing here.
    """

    def __init__(self, file: str, tables: Mapping[str, Any], text: str | None = None) -> None:
        self.file = file
        self._tables = tables
        self._text = None if text is None else text.replace("\r\n", "\n")
        self._offsets: dict[str, int] | None = None
        self._names: dict[str, str] | None = None

    def error(self, faults: Iterable[Fault]) -> ConfigError:
        """The error that reports these faults, each with its line, in the order of the file."""
        return ConfigError(self.locate_all(faults), self.file)

    def locate_all(self, faults: Iterable[Fault]) -> list[Fault]:
        """The faults, each with its line, in the order of the file."""
        return sorted(map(self.locate, faults), key=_place)

    def locate(self, fault: Fault) -> Fault:
        """The fault with line and column, and the name of the server or bind that it is about, where these are known.

        The line is that of the key, in the layer where it is written (the table itself, what surrounds it, its profile,
        the defaults). For a key that is missing it is the line of its table.
        """
        if fault.line is not None:
            return fault
        name = self._name(fault.path)
        offset = self._offset(fault.path)
        if offset is None or self._text is None:
            return evolve(fault, name=name)
        line, column = line_and_column(self._text, offset)
        return evolve(fault, name=name, line=line, column=column)

    def is_written(self, path: str) -> bool:
        """Whether a key of a frontend, bind, backend or server is written in any layer that it may come from."""
        return any(_has(self._tables, candidate) for candidate in self._layers(path))

    def _name(self, path: str) -> str:
        """The name of the innermost named item of a list on the way to the key."""
        ancestors = (each for layer in self._layers(path) for each in prefixes(layer))
        return next((self._names_by_path[each] for each in ancestors if each in self._names_by_path), "")

    def _offset(self, path: str) -> int | None:
        if self._offsets is None:
            self._offsets = _offsets(self._text)
        candidates = [*self._layers(path), *prefixes(path)]
        return next((self._offsets[each] for each in candidates if each in self._offsets), None)

    def _layers(self, path: str) -> Iterator[str]:
        """The path, and those of the same key in the layers that it may be inherited from, the strongest first."""
        yield path
        owned = _OWNED.fullmatch(path)
        if owned is None or owned[3] is None:
            return
        kind, own, key = owned[1].removesuffix("s"), f"{owned[1]}.{owned[2]}", owned[3]
        profile = _get(self._tables, f"{own}.profile") or _get(self._tables, f"defaults.{kind}.profile")
        outer = [] if not isinstance(profile, str) else [join("profiles", profile)]
        outer.append("defaults")
        keys = {kind: [key]}
        if listed := _LISTED.fullmatch(key):
            keys = {kind: [key]}  # the list itself may be inherited
            if listed[2] is not None:
                keys = {_ITEM_KIND[listed[1]]: [listed[2]], kind: [listed[2], key]}
                yield f"{own}.{listed[2]}"
        for layer in outer:
            for table, names in keys.items():
                yield from (f"{layer}.{table}.{name}" for name in names)

    @property
    def _names_by_path(self) -> dict[str, str]:
        if self._names is None:
            self._names = _with_bare(dict(_named_items(self._tables, "")))
        return self._names


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, both from 1; the column counts characters."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _place(fault: Fault) -> tuple[bool, int, int]:
    """The place in the file, for sorting; what is in no line comes last."""
    return fault.line is None, fault.line or 0, fault.column or 0


def _offsets(text: str | None) -> dict[str, int]:
    try:
        offsets = {} if text is None else key_offsets(text)
    except RecursionError:  # lists in lists, hundreds deep
        return {}
    return _with_bare(offsets)


def _with_bare(by_path: dict[str, _T]) -> dict[str, _T]:
    """Add each path without quotes: some faults have paths that are made of a name as it is."""
    return {path.replace('"', ""): value for path, value in by_path.items()} | by_path


def _get(tables: Any, path: str) -> Any:
    """The value at a path without lists, None if there is none."""
    for name in re.findall(r'"[^"]*"|[^."]+', path):
        if not isinstance(tables, Mapping):
            return None
        tables = tables.get(name.strip('"'))
    return tables


def _has(tables: Mapping[str, Any], path: str) -> bool:
    return _get(tables, path) is not None


def _named_items(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every item of a list that has a name, by its path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named_items(item, join(path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            here = f"{path}[{index}]"
            name = item.get("name") if isinstance(item, Mapping) else None
            if isinstance(name, str):
                yield here, name
            yield from _named_items(item, here)
