"""From the path of a fault to its line and column, and to the name of the server or bind that it is about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from attrs import evolve

from mailproxy.config.path import ROOT_PATH, ConfigPath, parse_path
from mailproxy.config.source.positions import key_offsets
from mailproxy.config.values import printable
from mailproxy.errors import ConfigError, Fault

_SEPARATOR = re.compile(r"[.\[]")
_ITEM_KIND = {"bind": "bind", "servers": "server"}


class SourceMap:
    """What a configuration was read from, to locate its faults.

    Everything is computed at the first fault, so a configuration without faults costs nothing here.

    Args:
        file: The name of the file; empty for a mapping.
        tables: The tables as they were read.
        text: The text of the file; None for a mapping, whose faults have names and no lines.
    """

    def __init__(self, file: str, tables: Mapping[str, Any], text: str | None = None) -> None:
        self.file = file
        self._tables = tables
        self._text = None if text is None else text.replace("\r\n", "\n")

    def error(self, faults: Iterable[Fault]) -> ConfigError:
        """Return the error that reports these faults, each with its line, in the order of the file."""
        return ConfigError(self.locate_all(faults), self.file)

    def locate_all(self, faults: Iterable[Fault]) -> list[Fault]:
        """Return the faults with their lines, in the order of the file. Those of a mapping have no lines."""
        return sorted(
            map(self.locate, faults),
            key=lambda fault: (fault.line is None, fault.line or 0, fault.column or 0),
        )

    def locate(self, fault: Fault) -> Fault:
        """Return the fault with line and column, and the name of its server or bind, where these are known.

        The line is that of the key, in the layer where it is written (the table itself, its backend or
        frontend, its profile, the defaults). For a missing key it is the line of its table, for
        a missing table line 1: editors and CI need one.
        """
        if fault.line is not None:
            return fault
        path = self._resolve(fault.path)
        name, offset = self._name(path), self._offset(path)
        if self._text is None:
            return evolve(fault, name=name)
        line, column = line_and_column(self._text, offset or 0)
        return evolve(fault, name=name, line=line, column=column)

    def is_written(self, path: ConfigPath) -> bool:
        """Whether a key is written in any layer that its value may come from."""
        return any(_value_at(self._tables, layer) is not None for layer in self._layers(path))

    def _resolve(self, text: str) -> ConfigPath:
        """Return the path that the text of a fault names.

        The longest part of the text that is a path of the file is looked up, because the names in it may have
        any characters. What follows are keys that the file does not have.
        """
        ends = (len(text), *(match.start() for match in reversed(list(_SEPARATOR.finditer(text)))))
        for end in ends:
            if (path := self._paths.get(text[:end])) is not None:
                return path.joinpath(*parse_path(text[end:]).steps)
        return parse_path(text)

    def _name(self, path: ConfigPath) -> str:
        """Return the name of the innermost named item of a list on the way to the key."""
        ancestors = (ancestor for layer in self._layers(path) for ancestor in layer.with_parents())
        names = (self._item_name(ancestor) for ancestor in ancestors if isinstance(ancestor.steps[-1], int))
        return next((name for name in names if name is not None), "")

    def _item_name(self, path: ConfigPath) -> str | None:
        item = _value_at(self._tables, path)
        name = item.get("name") if isinstance(item, Mapping) else None
        return printable(name) if isinstance(name, str) else None

    def _offset(self, path: ConfigPath) -> int | None:
        candidates = (*self._layers(path), *path.with_parents())
        return next((self._offsets[each] for each in candidates if each in self._offsets), None)

    def _layers(self, path: ConfigPath) -> Iterator[ConfigPath]:
        """Yield the path of a key, then its path in each layer that it may come from, strongest first."""
        yield path
        match path.steps:
            case ("frontends" | "backends" as section, str() as name, *keys) if keys:
                owner = ROOT_PATH / section / name
            case _:
                return
        kind = section.removesuffix("s")
        inherited = {kind: [keys]}
        match keys:
            case ("bind" | "servers" as list_key, int(), *item_keys) if item_keys:
                inherited = {_ITEM_KIND[list_key]: [item_keys], kind: [item_keys, keys]}
                yield owner.joinpath(*item_keys)
        profiles = (owner / "profile", ROOT_PATH / "defaults" / kind / "profile")
        profile = next(filter(None, (_value_at(self._tables, each) for each in profiles)), None)
        outer = [ROOT_PATH / "profiles" / profile] if isinstance(profile, str) else []
        for layer in (*outer, ROOT_PATH / "defaults"):
            for table, candidates in inherited.items():
                yield from ((layer / table).joinpath(*candidate) for candidate in candidates)

    @cached_property
    def _paths(self) -> dict[str, ConfigPath]:
        """Every path of the file by its text."""
        return {str(path): path for path in _walk(self._tables, ROOT_PATH)}

    @cached_property
    def _offsets(self) -> dict[ConfigPath, int]:
        try:
            return {} if self._text is None else key_offsets(self._text)
        except RecursionError:  # lists in lists, hundreds deep
            return {}


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Return line and column of an offset, both from 1; the column counts characters."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _value_at(value: Any, path: ConfigPath) -> Any:
    """Return the value at a path in nested tables and lists; None if there is none."""
    for step in path.steps:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, Mapping) else None
        else:
            value = value[step] if isinstance(value, (list, tuple)) and step < len(value) else None
    return value


def _walk(value: Any, path: ConfigPath) -> Iterator[ConfigPath]:
    """Yield the path of every value in nested tables and lists."""
    steps: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        steps = ((str(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        steps = enumerate(value)
    for step, item in steps:
        yield path / step
        yield from _walk(item, path / step)
