"""The position of each key in the text of a TOML file.

TOML parsers in Python keep no positions. So this module reads the structure a second time: headers, keys,
lists and inline tables. It skips strings and comments. It checks nothing, because the parser has accepted the
text.
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
    """Return the offset of each key by its path.

    An item of a list has the offset of its value or of its ``[[header]]``. A table that is written in several
    places has the offset of its own header, or else of its first mention.

    Args:
        text: Valid TOML, with newlines that are not preceded by carriage returns.
    """
    scanner = _Scanner(text)
    scanner.scan()
    return scanner.offsets


class _Scanner:
    """Reads a text from its beginning to its end.

    Attributes:
        text: The text.
        offset: The offset of what is read next.
        offsets: The offset of each key so far.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.offset = 0
        self.offsets: dict[ConfigPath, int] = {}
        self._counts: dict[ConfigPath, int] = {}  # the tables of each [[list]] so far

    def scan(self) -> None:
        table = ROOT_PATH
        self._skip(_FILLER)
        while self.offset < len(self.text):
            if self.text[self.offset] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_FILLER)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.offset)
        assert match is not None  # noqa: S101 - the parser has accepted the text
        self.offset = match.end()
        return match[0]

    def _header(self) -> ConfigPath:
        """Read a header; return the path of its table."""
        brackets = 2 if self.text.startswith("[[", self.offset) else 1
        self.offset += brackets
        *outer, (name, offset) = self._dotted_key()
        self.offset += brackets
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
        """Read a key; return its parts with their offsets."""
        parts = []
        while True:
            self._skip(_BLANKS)
            offset = self.offset
            part = self._skip(_KEY)
            parts.append((next(iter(tomli.loads(f"{part}=0"))) if part[0] in "\"'" else part, offset))
            self._skip(_BLANKS)
            if self.text[self.offset] != ".":
                return parts
            self.offset += 1

    def _pair(self, table: ConfigPath) -> None:
        path = table
        for part, offset in self._dotted_key():
            path = path / part
            self.offsets.setdefault(path, offset)
        self.offset += 1  # the equals sign
        self._skip(_BLANKS)
        self._value(path)

    def _value(self, path: ConfigPath) -> None:
        first = self.text[self.offset]
        if first in "\"'":
            self._skip(_STRING)
        elif first == "[":
            self._list(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _list(self, path: ConfigPath) -> None:
        self.offset += 1
        index = 0
        self._skip(_FILLER)
        while self.text[self.offset] != "]":
            item = path / index
            self.offsets[item] = self.offset
            self._value(item)
            index += 1
            self._skip_comma()
        self.offset += 1

    def _inline_table(self, path: ConfigPath) -> None:
        self.offset += 1
        self._skip(_FILLER)
        while self.text[self.offset] != "}":
            self._pair(path)
            self._skip_comma()
        self.offset += 1

    def _skip_comma(self) -> None:
        self._skip(_FILLER)
        if self.text[self.offset] == ",":
            self.offset += 1
            self._skip(_FILLER)
