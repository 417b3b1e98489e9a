"""JSON with the place of each value, which the standard library's reader does not tell."""

from __future__ import annotations

import json
import re

from mailproxy.importers.files import refuse
from mailproxy.importers.node import Node
from mailproxy.importers.place import Place, variable

DEPTH_MAX = 64  # values inside each other

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,300})(?:\.[0-9]{1,300})?(?:[eE][+-]?[0-9]{1,4})?")
_VARIABLE = re.compile(r"\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def parse(text: str, file: str) -> Node:
    """Return the value of a JSON text.

    Raises:
        ConfigError: It is none.
    """
    parser = _Parser(text, file)
    node = parser.value(0)
    parser.end()
    return node


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._at = 0
        self._line, self._start = 1, 0  # of the last place that was asked for
        self._seen = 0

    def _place(self) -> Place:
        self._line += self._text.count("\n", self._seen, self._at)
        newline = self._text.rfind("\n", self._seen, self._at)
        self._start = newline + 1 if newline >= 0 else self._start
        self._seen = self._at
        return Place(self._file, self._line, self._at - self._start + 1)

    def _skip(self) -> str:
        """Skip white space; return the next character, or an empty string at the end."""
        match = _SPACE.match(self._text, self._at)
        assert match is not None  # noqa: S101 - it matches the empty text
        self._at = match.end()
        return self._text[self._at : self._at + 1]

    def value(self, depth: int) -> Node:
        char = self._skip()
        place = self._place()
        if depth > DEPTH_MAX:
            refuse(place, f"values are nested deeper than {DEPTH_MAX}")
        if char == "{":
            return Node(place, self._object(depth))
        if char == "[":
            return Node(place, self._list(depth))
        if char == '"':
            return Node(place, _VARIABLE.sub(lambda match: variable(match[1]), self._string(place)))
        for word, value in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return Node(place, value)
        number = _NUMBER.match(self._text, self._at)
        if number is None:
            refuse(place, "is no JSON: a value is missing" if char else "is no JSON: it ends too early")
        self._at = number.end()
        return Node(place, int(number[0]) if re.fullmatch(r"-?\d+", number[0]) else float(number[0]))

    def _object(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        self._at += 1
        if self._skip() == "}":
            self._at += 1
            return entries
        while True:
            self._skip()
            place = self._place()
            key = self._string(place)
            if self._skip() != ":":
                refuse(self._place(), "is no JSON: a colon is missing")
            self._at += 1
            entries[key] = self.value(depth + 1)
            if not self._goes_on("}"):
                return entries

    def _list(self, depth: int) -> list[Node]:
        items: list[Node] = []
        self._at += 1
        if self._skip() == "]":
            self._at += 1
            return items
        while True:
            items.append(self.value(depth + 1))
            if not self._goes_on("]"):
                return items

    def _goes_on(self, closing: str) -> bool:
        char = self._skip()
        if char not in (",", closing) or not char:
            refuse(self._place(), f"is no JSON: a comma or {closing} is missing")
        self._at += 1
        return char == ","

    def _string(self, place: Place) -> str:
        match = _STRING.match(self._text, self._at)
        if match is None:
            refuse(place, "is no JSON: a text in quotes is missing")
        self._at = match.end()
        text: str = json.loads(match[0])
        return text.encode("utf-8", "replace").decode()

    def end(self) -> None:
        """Check that nothing follows."""
        if self._skip():
            refuse(self._place(), "is no JSON: something follows its end")
