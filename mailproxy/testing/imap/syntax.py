"""How IMAP commands are written: cut from the bytes with their literals, then taken apart (RFC 3501 section 9)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Union

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 2683 section 3.2.1.5 asks servers for 8,000 bytes; UID sets of large mailboxes are longer in practice.
LINE_BYTES_MAX = 65536
_DEPTH_MAX = 8  # nothing that is spoken here nests deeper

_LITERAL = re.compile(rb"\{([0-9]{1,10})(\+?)\}\Z")
_HEAD = re.compile(rb"([^\x00-\x20\x7f-\xff(){%*\"\\+]{1,64}) +([^\x00-\x20\x7f-\xff(){\"\\]{1,32})(?: +|\Z)")
_QUOTED = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"')
# An atom may carry a section, which has blanks and parentheses of its own: BODY[HEADER.FIELDS (FROM)]<0.100>
_ATOM = re.compile(rb"(?:[^\x00-\x20\x7f-\xff()\"\[\]{]|\[[^\]\x00-\x1f\x7f-\xff]*\])+")
_SET = re.compile(
    r"(?:[1-9][0-9]{0,9}|\*)(?::(?:[1-9][0-9]{0,9}|\*))?(?:,(?:[1-9][0-9]{0,9}|\*)(?::(?:[1-9][0-9]{0,9}|\*))?)*"
)
_DATE = re.compile(rb"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9:]{8}) ([+-][0-9]{4})")
# Not strftime's: those follow the locale.
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class Atom(str):
    """A word that was not quoted; compare with ``upper()``."""

    __slots__ = ()


# A quoted string or a literal is bytes, what stands in parentheses a list.
Token = Union[Atom, bytes, list["Token"]]  # noqa: UP007 -- a string cannot be joined with |


class SyntaxFault(Exception):  # noqa: N818 -- the protocol's BAD is no error of the program
    """The command cannot be taken apart; the message says why."""


@frozen
class Command:
    """A tag, the command's word in capitals, and its arguments."""

    tag: str
    word: str
    arguments: list[Token]


@frozen
class Unreadable:
    """What came in a command's place, with its tag (``*`` where it had none) and the reason."""

    tag: str
    reason: str


@frozen
class Line:
    """A bare line, where one was asked for."""

    text: bytes


@frozen
class GoAhead:
    """The client waits for permission to send its literal."""


@frozen
class TooLong:
    """A line or literal without bound: nothing more can be read from this client."""

    tag: str


@frozen
class TooBig:
    """A literal larger than allowed was announced and not yet sent: the command is over."""

    tag: str


Event = Command | Unreadable | Line | GoAhead | TooLong | TooBig


@define
class CommandReader:
    """Cuts commands out of a stream of bytes, however it was split.

    Lines may end with a bare LF: people type them into ``openssl s_client``, which sends no CR unless told to.

    ``literal_bound`` says how many bytes of literals a command may have, by its word in capitals.
    """

    literal_bound: Callable[[str], int] = field(repr=False)
    _buffer: bytearray = field(init=False, factory=bytearray, repr=False)
    _texts: list[bytes] = field(init=False, factory=list)
    _literals: list[bytes] = field(init=False, factory=list, repr=False)
    _texts_bytes: int = field(init=False, default=0)
    _literals_bytes: int = field(init=False, default=0)
    _literal_size: int | None = field(init=False, default=None)  # the literal that is being read

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data

    def next_line(self) -> Line | TooLong | None:
        """Return the next bare line, or None if it is not complete."""
        text = self._cut_line()
        return text if text is None or isinstance(text, TooLong) else Line(text)

    def next_event(self) -> Event | None:
        """Return what comes next of a command, or None if there is no more yet."""
        while self._literal_size is None or self._cut_literal(self._literal_size):
            text = self._cut_line()
            if text is None or isinstance(text, TooLong):
                return text
            self._texts.append(text)
            self._texts_bytes += len(text)
            literal = _LITERAL.search(text)
            if literal is None:
                return self._finish()
            if event := self._announce(int(literal[1]), is_waiting=not literal[2]):
                return event
        return None

    def _cut_line(self) -> bytes | TooLong | None:
        room = LINE_BYTES_MAX - self._texts_bytes
        end = self._buffer.find(b"\n", 0, room)
        if end < 0:
            return TooLong(self._head()[0]) if len(self._buffer) >= room else None
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

    def _announce(self, size: int, *, is_waiting: bool) -> GoAhead | TooBig | TooLong | None:
        tag, word, _ = self._head()
        if self._literals_bytes + size > self.literal_bound(word):
            self._forget()
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
            self._forget()
        return Command(tag, word, arguments) if word else Unreadable(tag, "a tag and a command are expected")

    def _head(self) -> tuple[str, str, int]:
        """Return tag, word in capitals and where the arguments begin; ``*`` and nothing where there are none."""
        head = _HEAD.match(self._texts[0]) if self._texts else None
        return (head[1].decode(), head[2].decode().upper(), head.end()) if head else ("*", "", 0)

    def _forget(self) -> None:
        self._texts.clear()
        self._literals.clear()
        self._texts_bytes = self._literals_bytes = 0


def number_set(text: str, largest: int) -> Callable[[int], bool]:
    """Read ``1:3,7,9:*``; return the question whether a number is in it. Raises SyntaxFault."""
    if not _SET.fullmatch(text):
        raise SyntaxFault("not a set of numbers")
    ranges = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        ends = [largest if end == "*" else int(end) for end in (first, last or first)]
        ranges.append((min(ends), max(ends)))
    return lambda number: any(low <= number <= high for low, high in ranges)


def read_date(text: bytes) -> datetime:
    """Read ``17-Jul-2026 02:44:25 -0700`` (RFC 3501, date-time). Raises SyntaxFault."""
    found = _DATE.fullmatch(text)
    if not found or found[2].title() not in _MONTHS:
        raise SyntaxFault("not a date-time")
    day, month, year, clock, zone = (part.decode() for part in found.groups())
    try:
        return datetime.fromisoformat(
            f"{year}-{_MONTHS.index(month.title().encode()) + 1:02}-{int(day):02}T{clock}{zone[:3]}:{zone[3:]}"
        )
    except ValueError:
        raise SyntaxFault("not a date-time") from None


def write_date(date: datetime) -> bytes:
    """Write a date as ``read_date`` reads it, in quotes."""
    return f'"{date.day:2}-{_MONTHS[date.month - 1].decode()}-{date:%Y %H:%M:%S %z}"'.encode()


def write_quoted(text: str) -> bytes:
    """Write a string without line ends in quotes."""
    return b'"%s"' % re.sub(r'(["\\])', r"\\\1", text).encode()


def write_literal(data: bytes) -> bytes:
    """Write any bytes."""
    return b"{%d}\r\n%s" % (len(data), data)


def _tokens(texts: list[bytes], literals: list[bytes], start: int) -> list[Token]:
    """Take arguments apart. Between every two texts stands a literal; ``start`` is where the first text begins."""
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
