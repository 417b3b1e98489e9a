"""Values of JSON, YAML or TOML, each with its place."""

from __future__ import annotations

from typing import TypeAlias

from attrs import define

from mailproxy.importers.place import NO_COMMENTS, Comments, Place

Scalar: TypeAlias = "str | int | float | bool | None"


@define
class Node:
    """A value with its place."""

    place: Place
    value: dict[str, Node] | list[Node] | Scalar

    def get(self, *path: str) -> Node | None:
        """Return the value of a key, or of a key in nested objects; None if there is none."""
        node: Node | None = self
        for key in path:
            node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
        return node

    def items(self, *path: str) -> list[Node]:
        """Return the items of a list; none if there is no such list."""
        node = self.get(*path)
        return node.value if node is not None and isinstance(node.value, list) else []

    def entries(self, *path: str) -> dict[str, Node]:
        """Return the entries of an object; none if there is no such object."""
        node = self.get(*path)
        return node.value if node is not None and isinstance(node.value, dict) else {}

    @property
    def text(self) -> str:
        """A single value as text; empty for null, lists and objects."""
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        return "" if self.value is None or isinstance(self.value, (dict, list)) else str(self.value)

    @property
    def texts(self) -> list[str]:
        """The single values of a list, or the one value, as text."""
        nodes = self.value if isinstance(self.value, list) else [self]
        return [node.text for node in nodes if not isinstance(node.value, (dict, list))]

    def take_comments(self) -> Comments:
        """Return no comments: none are read."""
        return NO_COMMENTS
