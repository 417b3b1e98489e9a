"""The syntax of IMAP: commands are cut from the bytes with their literals, then parsed (RFC 3501 section 9)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Union

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 2683 section 3.2.1.5 asks servers to accept 8,000 bytes. UID sets of large mailboxes are longer in practice.
LINE_BYTES_MAX = 65536
_DEPTH_MAX = 8  # no command nests deeper

_LITERAL = re.compile(rb"\{([0-9]{1,10})(\+?)\}\Z")
_HEAD = re.compile(rb"([^\x00-\x20\x7f-\xff(){%*\"\\+]{1,64}) +([^\x00-\x20\x7f-\xff(){\"\\]{1,32})(?: +|\Z)")
_QUOTED = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"')
# An atom may have a section with spaces and parentheses in it: BODY[HEADER.FIELDS (FROM)]<0.100>
_ATOM = re.compile(rb"(?:[^\x00-\x20\x7f-\xff()\"\[\]{]|\[[^\]\x00-\x1f\x7f-\xff]*\])+")
_SET = re.compile(
    r"(?:[1-9][0-9]{0,9}|\*)(?::(?:[1-9][0-9]{0,9}|\*))?(?:,(?:[1-9][0-9]{0,9}|\*)(?::(?:[1-9][0-9]{0,9}|\*))?)*"
)
_DATE = re.compile(rb"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9:]{8}) ([+-][0-9]{4})")
# Those of strftime depend on the locale.
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class Atom(str):
    """A word without quotes. Compare it with ``upper()``."""

    __slots__ = ()


# A quoted string or a literal is bytes, a parenthesized list is a list.
Token = Union[Atom, bytes, list["Token"]]  # noqa: UP007 -- a string cannot be joined with |


class SyntaxFault(Exception):  # noqa: N818 -- BAD is an answer of the protocol, and not an error of the program
    """The command is malformed. The message follows BAD."""


@frozen
class Command:
    """A command: its tag, its word in capitals, its arguments."""

    tag: str
    word: str
    arguments: list[Token]


@frozen
class Unreadable:
    """A malformed command: its tag, ``*`` if it has none, and the reason."""

    tag: str
    reason: str


@frozen
class Line:
    """A line that is not a command, where one was asked for."""

    text: bytes


@frozen
class GoAhead:
    """The client waits for the continuation request, to send its literal."""


@frozen
class TooLong:
    """A line or literal over its limit. Nothing more can be read from this client."""

    tag: str


@frozen
class TooBig:
    """The announced literal is over its limit and was not sent. The command has ended."""

    tag: str


Event = Command | Unreadable | Line | GoAhead | TooLong | TooBig


@define
class CommandReader:
    """Cuts commands out of a stream of bytes, however it is split.

    Lines may end with a bare LF, because ``openssl s_client`` sends no CR without its option ``-crlf``.

    Attributes:
        max_literal_bytes: Returns how many bytes of literals a command may have, by its word in capitals.
    """

    max_literal_bytes: Callable[[str], int] = field(repr=False)
    _buffer: bytearray = field(init=False, factory=bytearray, repr=False)
    _texts: list[bytes] = field(init=False, factory=list)
    _literals: list[bytes] = field(init=False, factory=list, repr=False)
    _texts_bytes: int = field(init=False, default=0)
    _literals_bytes: int = field(init=False, default=0)
    _literal_size: int | None = field(init=False, default=None)  # the literal that is being read

    def feed(self, data: bytes) -> None:
        """Add bytes from the client."""
        self._buffer += data

    def next_line(self) -> Line | TooLong | None:
        """Return the next line that is not a command, or None if it is not complete."""
        text = self._cut_line()
        return text if text is None or isinstance(text, TooLong) else Line(text)

    def next_event(self) -> Event | None:
        """Return the next event of a command, or None if more bytes are needed."""
        while self._literal_size is None or self._cut_literal(self._literal_size):
            text = self._cut_line()
            if text is None or isinstance(text, TooLong):
                return text
            self._texts.append(text)
            self._texts_bytes += len(text)
            literal = _LITERAL.search(text)
            if literal is None:
                return self._finish()
            if event := self._begin_literal(int(literal[1]), is_waiting=not literal[2]):
                return event
        return None

    def _cut_line(self) -> bytes | TooLong | None:
        max_bytes = LINE_BYTES_MAX - self._texts_bytes
        end = self._buffer.find(b"\n", 0, max_bytes)
        if end < 0:
            return TooLong(self._head()[0]) if len(self._buffer) >= max_bytes else None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    def _cut_literal(self, size: int) -> bool:
        if len(self._buffer) < size:
            return False
        with memoryview(self._buffer) as view:
            self._literals.append(bytes(view[:size]))
        del self._buffer[:size]
        self._literal_size = None
        return True

    def _begin_literal(self, size: int, *, is_waiting: bool) -> GoAhead | TooBig | TooLong | None:
        tag, word, _ = self._head()
        if self._literals_bytes + size > self.max_literal_bytes(word):
            self._clear()
            return TooBig(tag) if is_waiting else TooLong(tag)
        self._literal_size = size
        self._literals_bytes += size
        return GoAhead() if is_waiting else None

    def _finish(self) -> Command | Unreadable:
        tag, word, start = self._head()
        try:
            arguments = _tokens(self._texts, self._literals, start)
        except SyntaxFault as fault:
            return Unreadable(tag, str(fault))
        finally:
            self._clear()
        return Command(tag, word, arguments) if word else Unreadable(tag, "a tag and a command are expected")

    def _head(self) -> tuple[str, str, int]:
        """Return the tag, the word in capitals and where the arguments begin. Without them, return ``*`` and ``""``."""
        head = _HEAD.match(self._texts[0]) if self._texts else None
        return (head[1].decode(), head[2].decode().upper(), head.end()) if head else ("*", "", 0)

    def _clear(self) -> None:
        self._texts.clear()
        self._literals.clear()
        self._texts_bytes = self._literals_bytes = 0


def number_set(text: str, largest: int) -> Callable[[int], bool]:
    """Read a set such as ``1:3,7,9:*``. Return a predicate: whether a number is in it. Raise SyntaxFault if malformed."""
    if not _SET.fullmatch(text):
        raise SyntaxFault("not a set of numbers")
    ranges = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        ends = [largest if end == "*" else int(end) for end in (first, last or first)]
        ranges.append((min(ends), max(ends)))
    return lambda number: any(low <= number <= high for low, high in ranges)


def read_date(text: bytes) -> datetime:
    """Read ``17-Jul-2026 02:44:25 -0700`` (RFC 3501, date-time). Raise SyntaxFault if it is malformed."""
    match = _DATE.fullmatch(text)
    if not match or match[2].title() not in _MONTHS:
        raise SyntaxFault("not a date-time")
    day, month, year, clock, zone = (part.decode() for part in match.groups())
    try:
        return datetime.fromisoformat(
            f"{year}-{_MONTHS.index(month.title().encode()) + 1:02}-{int(day):02}T{clock}{zone[:3]}:{zone[3:]}"
        )
    except ValueError:
        raise SyntaxFault("not a date-time") from None


def write_date(date: datetime) -> bytes:
    """Return a date as ``read_date`` reads it, in quotes."""
    return f'"{date.day:2}-{_MONTHS[date.month - 1].decode()}-{date:%Y %H:%M:%S %z}"'.encode()


def write_quoted(text: str) -> bytes:
    """Return a string without line endings in quotes."""
    return b'"%s"' % re.sub(r'(["\\])', r"\\\1", text).encode()


def write_literal(data: bytes) -> bytes:
    """Return bytes as a literal."""
    return b"{%d}\r\n%s" % (len(data), data)


def _tokens(texts: list[bytes], literals: list[bytes], start: int) -> list[Token]:
    """Parse arguments. There is a literal between every two texts. ``start`` is where the first text begins."""
    open_lists: list[list[Token]] = [[]]
    for number, text in enumerate(texts):
        end = len(text)
        if number < len(literals):
            end = text.rindex(b"{")
        _scan(text, start, end, open_lists)
        if number < len(literals):
            open_lists[-1].append(literals[number])
        start = 0
    if len(open_lists) > 1:
        raise SyntaxFault("a parenthesis is not closed")
    return open_lists[0]


def _scan(text: bytes, position: int, end: int, open_lists: list[list[Token]]) -> None:
    while position < end:
        if (char := text[position : position + 1]) == b" ":
            position += 1
        elif char == b"(":
            if len(open_lists) > _DEPTH_MAX:
                raise SyntaxFault("too many parentheses in each other")
            inner: list[Token] = []
            open_lists[-1].append(inner)
            open_lists.append(inner)
            position += 1
        elif char == b")":
            if len(open_lists) == 1:
                raise SyntaxFault("a parenthesis is closed that was not opened")
            open_lists.pop()
            position += 1
        elif quoted := _QUOTED.match(text, position, end):
            open_lists[-1].append(re.sub(rb"\\(.)", rb"\1", quoted[1]))
            position = quoted.end()
        elif atom := _ATOM.match(text, position, end):
            open_lists[-1].append(Atom(atom[0].decode()))
            position = atom.end()
        else:
            raise SyntaxFault("an argument is neither atom, string nor list")
