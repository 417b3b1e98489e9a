"""Traefik's files: TOML or YAML as values with their places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.source.positions import key_offsets
from mailproxy.config.source.syntax import SyntaxFault, parse
from mailproxy.importers.files import refuse
from mailproxy.importers.node import Node
from mailproxy.importers.place import Place

DEPTH_MAX = 64  # values inside each other
_NODES_MAX = 100_000  # with YAML's aliases, a small file may mean many

_TOML = re.compile(r"(?m)^\s*(\[[^\]\n]+\]\]?|[\w.\"'-]+\s*=.*)$")
_NEEDS_YAML = "YAML needs a package: pip install 'mailproxy[yaml]'"


def read(text: str, name: str) -> Node:
    """Return the value of a file.

    Raises:
        ConfigError: The text is neither TOML nor YAML.
    """
    is_toml = name.endswith(".toml") or (
        not name.endswith((".yml", ".yaml")) and _TOML.match(text.lstrip()) is not None
    )
    return _read_toml(text, name) if is_toml else _read_yaml(text, name)


def merge(nodes: Iterable[Node]) -> Node:
    """Return several files as one configuration. What a later file gives again counts."""
    whole = Node(Place("", 1, 1), {})
    for node in nodes:
        whole = _merged(whole, node)
    return whole


def _merged(one: Node, other: Node) -> Node:
    if not isinstance(one.value, dict) or not isinstance(other.value, dict):
        return other
    entries = dict(one.value)
    for key, node in other.value.items():
        entries[key] = _merged(entries[key], node) if key in entries else node
    return Node(one.place if one.value else other.place, entries)


def pick(node: Node | None, *path: str) -> Node | None:
    """Return a nested value; None if there is none. Traefik's keys are the same in any case of letters."""
    for key in path:
        entries = node.value if node is not None and isinstance(node.value, dict) else {}
        node = next((each for name, each in entries.items() if name.lower() == key.lower()), None)
    return node


def entries(node: Node | None, *path: str) -> dict[str, Node]:
    """Return the entries of a nested table; none if there is no such table."""
    found = pick(node, *path)
    return found.value if found is not None and isinstance(found.value, dict) else {}


def items(node: Node | None, *path: str) -> list[Node]:
    """Return the items of a nested list; none if there is no such list."""
    found = pick(node, *path)
    return found.value if found is not None and isinstance(found.value, list) else []


def leaves(node: Node, name: str = "") -> Iterator[tuple[str, Node]]:
    """Yield each key that has a single value, a list of such values or nothing, with its value."""
    inside = list(node.value.items()) if isinstance(node.value, dict) else []
    if isinstance(node.value, list) and any(isinstance(each.value, dict) for each in node.value):
        inside = [(name, each) for each in node.value]
    if not inside:
        yield name, node
    for key, each in inside:
        yield from leaves(each, key)


def _read_toml(text: str, name: str) -> Node:
    try:
        value = parse(text)
        offsets = key_offsets(text)
    except SyntaxFault as error:
        fault = error.fault
        refuse(Place(name, fault.line or 1, fault.column or 1), fault.fact)
    except (ValueError, RecursionError) as error:
        refuse(Place(name, 1, 1), f"is not TOML: {error}")
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    return _Toml(name, offsets, starts).node(value, ROOT_PATH, 0)


class _Toml:
    """Puts places to the values of TOML."""

    def __init__(self, file: str, offsets: dict[ConfigPath, int], starts: list[int]) -> None:
        self._file = file
        self._offsets = offsets
        self._starts = starts

    def node(self, value: Any, path: ConfigPath, offset: int, depth: int = 0) -> Node:
        place = self._place(offset)
        if depth > DEPTH_MAX:
            refuse(place, f"values are nested deeper than {DEPTH_MAX}")
        if isinstance(value, dict):
            return Node(
                place,
                {
                    key: self.node(item, path / key, self._offsets.get(path / key, offset), depth + 1)
                    for key, item in value.items()
                },
            )
        if isinstance(value, list):
            return Node(
                place,
                [
                    self.node(item, path / index, self._offsets.get(path / index, offset), depth + 1)
                    for index, item in enumerate(value)
                ],
            )
        return Node(place, value if isinstance(value, (str, int, float, bool)) else str(value))

    def _place(self, offset: int) -> Place:
        low, high = 0, len(self._starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._starts[middle] <= offset else (low, middle)
        return Place(self._file, low + 1, offset - self._starts[low] + 1)


def _read_yaml(text: str, name: str) -> Node:
    try:
        import yaml
    except ImportError:
        refuse(Place(name, 1, 1), _NEEDS_YAML)
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(name, 1, 1) if mark is None else Place(name, mark.line + 1, mark.column + 1)
        refuse(place, f"is not YAML: {error.problem or error.context}")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        refuse(Place(name, 1, 1), f"is not YAML: {str(error).partition(chr(10))[0]}")
    if root is None:
        return Node(Place(name, 1, 1), {})
    node = _Yaml(name).node(root, root.start_mark, 0)
    if not isinstance(node.value, dict):
        refuse(node.place, "has no keys: a configuration of Traefik is a table")
    return node


class _Yaml:
    """Makes values of YAML's nodes."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._count = 0

    def node(self, source: Any, mark: Any, depth: int) -> Node:
        """Return a value. Its place is that of ``mark``: its key, if it has one."""
        place = Place(self._file, mark.line + 1, mark.column + 1)
        self._count += 1
        if depth > DEPTH_MAX or self._count > _NODES_MAX:
            refuse(place, f"values are nested deeper than {DEPTH_MAX}, or aliases mean too many values")
        if source.id == "scalar":
            return Node(place, _scalar(source.tag.rpartition(":")[2], source.value))
        if source.id == "sequence":
            return Node(place, [self.node(each, each.start_mark, depth + 1) for each in source.value])
        entries: dict[str, Node] = {}
        for key, value in source.value:
            if key.id != "scalar":
                refuse(Place(self._file, key.start_mark.line + 1, key.start_mark.column + 1), "is no key")
            node = self.node(value, key.start_mark, depth + 1)
            if key.tag.endswith(":merge"):
                entries = {**(node.value if isinstance(node.value, dict) else {}), **entries}
            else:
                entries[key.value] = node
        return Node(place, entries)


def _scalar(tag: str, text: str) -> str | int | float | bool | None:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("true", "yes", "on")
    if tag == "int" and re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    return text
