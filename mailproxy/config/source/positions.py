"""Where each key stands in the text of a TOML file.

TOML parsers in Python keep no positions, so this reads the structure once more: headers, keys, lists and inline tables,
with strings and comments skipped. It is for text that the parser has accepted and checks nothing.
"""

from __future__ import annotations

import re

import tomli

from mailproxy.config.path import ROOT_PATH, ConfigPath

_BLANKS = re.compile(r"[ \t]*")
_FILLER = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
# A multi-line string may end with quotes of its own, up to two, directly before the closing three.
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:'{0,2})|"(?:[^"\\]|\\.)*"|'[^']*\'''', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def key_offsets(text: str) -> dict[ConfigPath, int]:
    """The offset of each key's text, by its path; of an item of a list, that of its value or its ``[[header]]``.

    A table that is written in several places has the offset of its own header, or else of its first mention. ``text``:
    valid TOML with bare newlines.
    """
    scanner = _Scanner(text)
    scanner.scan()
    return scanner.offsets


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.offsets: dict[ConfigPath, int] = {}
        self._counts: dict[ConfigPath, int] = {}  # of the tables of each [[list]] so far

    def scan(self) -> None:
        table = ROOT_PATH
        self._skip(_FILLER)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_FILLER)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match is not None  # noqa: S101 - the parser has accepted the text
        self.at = match.end()
        return match[0]

    def _header(self) -> ConfigPath:
        """The path of the table that begins here."""
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        *outer, (name, offset) = self._dotted_key()
        self.at += brackets
        path = ROOT_PATH
        for part, part_offset in outer:
            path = path / part
            self.offsets.setdefault(path, part_offset)
            if path in self._counts:
                path = path / (self._counts[path] - 1)
        path = path / name
        if brackets == 1:
            self.offsets[path] = offset
            return path
        self.offsets.setdefault(path, offset)
        index = self._counts.get(path, 0)
        self._counts[path] = index + 1
        self.offsets[path / index] = offset
        return path / index

    def _dotted_key(self) -> list[tuple[str, int]]:
        """The parts of a key with their offsets; blanks around them are skipped."""
        parts = []
        while True:
            self._skip(_BLANKS)
            offset = self.at
            part = self._skip(_KEY)
            parts.append((next(iter(tomli.loads(f"{part}=0"))) if part[0] in "\"'" else part, offset))
            self._skip(_BLANKS)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _pair(self, table: ConfigPath) -> None:
        path = table
        for part, offset in self._dotted_key():
            path = path / part
            self.offsets.setdefault(path, offset)
        self.at += 1  # the equals sign
        self._skip(_BLANKS)
        self._value(path)

    def _value(self, path: ConfigPath) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self._skip(_STRING)
        elif first == "[":
            self._list(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _list(self, path: ConfigPath) -> None:
        self.at += 1
        index = 0
        self._skip(_FILLER)
        while self.text[self.at] != "]":
            item = path / index
            self.offsets[item] = self.at
            self._value(item)
            index += 1
            self._skip_comma()
        self.at += 1

    def _inline_table(self, path: ConfigPath) -> None:
        self.at += 1
        self._skip(_FILLER)
        while self.text[self.at] != "}":
            self._pair(path)
            self._skip_comma()
        self.at += 1

    def _skip_comma(self) -> None:
        self._skip(_FILLER)
        if self.text[self.at] == ",":
            self.at += 1
            self._skip(_FILLER)
