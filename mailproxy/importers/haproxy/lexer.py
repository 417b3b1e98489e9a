r"""HAProxy's lines: words with quotes, escapes and variables of the environment, and comments.

The grammar is that of HAProxy 2.6 (``parse_line``): a backslash escapes a blank, ``#``, quotes and itself, and
makes ``\n``, ``\r``, ``\t`` and ``\xHH``. Before any other character it is itself. In single quotes
nothing is special, in double quotes variables are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attrs import define, field

from mailproxy.importers.files import refusal
from mailproxy.importers.place import NO_COMMENTS, Comments, Place, Word, variable

WORDS_MAX = 4096  # words of a line; HAProxy takes 64

_PLAIN = re.compile(r"[^ \t]+")
_SPECIAL = re.compile(r"[\\\"'#$]")
_VARIABLE = re.compile(
    r"\$(?:\{([A-Za-z_.][A-Za-z0-9_.]*)(?:\[\*\])?(?:-([^}]*))?\}|([A-Za-z_.][A-Za-z0-9_.]*))"
)
_ESCAPED = {" ": " ", "\\": "\\", "#": "#", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t", "\t": "\t"}
_HEX = re.compile(r"x([0-9A-Fa-f]{2})")


@define
class Line:
    """A line with words.

    Attributes:
        words: The words; at least one.
        comments: Its comments that have not been carried over yet.
    """

    words: list[Word]
    comments: Comments = field(default=NO_COMMENTS)

    @property
    def place(self) -> Place:
        """Where its first word begins."""
        return self.words[0].place

    @property
    def arguments(self) -> list[str]:
        """The words behind the first, as text."""
        return [word.text for word in self.words[1:]]

    def take_comments(self) -> Comments:
        """Return the comments at the first call, and none afterwards."""
        comments, self.comments = self.comments, NO_COMMENTS
        return comments


def split_line(text: str, file: str, number: int, environment: Mapping[str, str]) -> tuple[list[Word], str]:
    """Return the words of a line and the comment at its end.

    Raises:
        ConfigError: A quote is not closed.
    """
    if not _SPECIAL.search(text):
        return [Word(match[0], Place(file, number, match.start() + 1)) for match in _PLAIN.finditer(text)], ""
    return _Scanner(text, file, number, environment).scan()


class _Scanner:
    """Splits one line that has quotes, escapes, variables or a comment."""

    def __init__(self, text: str, file: str, number: int, environment: Mapping[str, str]) -> None:
        self._text = text
        self._file = file
        self._number = number
        self._environment = environment
        self._at = 0
        self._words: list[Word] = []

    def scan(self) -> tuple[list[Word], str]:
        while self._at < len(self._text):
            if self._text[self._at] in " \t":
                self._at += 1
            elif self._text[self._at] == "#":
                return self._words, self._text[self._at + 1 :].strip()
            else:
                self._word()
        return self._words, ""

    def _word(self) -> None:
        start, is_quoted, parts = self._at, False, []
        while self._at < len(self._text) and self._text[self._at] not in " \t#":
            char = self._text[self._at]
            if char in "\"'":
                is_quoted = True
                parts.append(self._quoted(char))
            elif char == "\\":
                parts.append(self._escape())
            elif char == "$":
                parts.append(self._variable())
            else:
                parts.append(char)
                self._at += 1
        self._words.append(Word("".join(parts), Place(self._file, self._number, start + 1), is_quoted))

    def _quoted(self, quote: str) -> str:
        start = self._at
        parts: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == quote:
                self._at += 1
                return "".join(parts)
            if char == "\\" and quote == '"':
                parts.append(self._escape())
            elif char == "$" and quote == '"':
                parts.append(self._variable())
            else:
                parts.append(char)
                self._at += 1
        raise refusal(Place(self._file, self._number, start + 1), f"the quote {quote} is not closed")

    def _escape(self) -> str:
        """Return what a backslash and the character behind it mean."""
        following = self._text[self._at + 1 : self._at + 2]
        if following == "$":
            self._at += 2
            return "$"
        if (code := _HEX.match(self._text, self._at + 1)) is not None:
            self._at = code.end()
            return chr(int(code[1], 16))
        self._at += 1
        if following in _ESCAPED and following:
            self._at += 1
            return _ESCAPED[following]
        return "\\"

    def _variable(self) -> str:
        match = _VARIABLE.match(self._text, self._at)
        if match is None:
            self._at += 1
            return "$"
        self._at = match.end()
        name, default = match[1] or match[3], match[2]
        if name in self._environment:
            return self._environment[name]
        return variable(name.replace(".", "_"), default)


def logical_lines(text: str) -> Iterator[tuple[int, str, list[int]]]:
    """Yield number and text of each line; lines that end with a backslash are joined with the next one.

    HAProxy has no line continuation, but published files are written with it.

    Yields:
        The number of the first line, the text, and the numbers of lines that were joined with the next.
    """
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        first, line, joined = number + 1, lines[number].rstrip("\r"), []
        while (
            line.endswith("\\") and not line.endswith("\\\\") and "#" not in line and number + 1 < len(lines)
        ):
            joined.append(number + 1)
            number += 1
            line = f"{line[:-1]} {lines[number].strip()}"
        yield first, line, joined
        number += 1
