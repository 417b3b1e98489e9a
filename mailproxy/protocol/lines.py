"""Lines of a server's answers: bytes in, whole lines out, however they were cut; bounded."""

from __future__ import annotations

from collections.abc import Callable

# Bytes of one whole answer, all its lines and literals: as much as HAProxy reads of one. The longest real ones
# (CAPABILITY of an IMAP server after login, EHLO's) have about 1000.
ANSWER_MAX = 16384


class LineFaultError(ValueError):
    """What came cannot be an answer's line; the message is the fact."""


class LineBuffer:
    """Takes bytes, gives lines without their CRLF.

    ``literal_bytes`` says of a line whether a literal follows, and how many bytes it has: these, and the line behind
    them, then belong to the same line, which carries the literal with its announcement as they came.
    """

    def __init__(self, line_max: int, literal_bytes: Callable[[bytes], int | None] = lambda _: None) -> None:
        self._line_max = line_max
        self._literal_bytes = literal_bytes
        self._data = bytearray()
        self._line = b""  # what is there already of one with literals
        self._literal = 0  # bytes that are missing of the literal
        self._answer = 0  # bytes of the answer so far
        self._searched = 0

    def __len__(self) -> int:
        """Bytes that no line was made of yet."""
        return len(self._line) + len(self._data)

    def feed(self, data: bytes) -> None:
        self._data += data

    def begin_answer(self) -> None:
        """What comes next counts anew."""
        self._answer = 0

    def next_line(self) -> bytes | None:
        """Return the next whole line, None until it is there. Raises LineFaultError."""
        while True:
            if len(self._data) < self._literal:
                return None
            if self._literal:
                self._line += self._cut(self._literal)
                self._literal = 0
            physical = self._physical_line()
            if physical is None:
                return None
            self._line += physical
            literal = self._literal_bytes(self._line)
            if literal is None:
                line, self._line = self._line, b""
                return line
            self._count(literal)
            self._line += b"\r\n"
            self._literal = literal

    def _physical_line(self) -> bytes | None:
        end = self._data.find(b"\n", self._searched) + 1
        if (end or len(self._data) + 1) > self._line_max:
            raise LineFaultError(f"a line of more than {self._line_max} bytes")
        if not end:
            self._searched = len(self._data)
            return None
        self._count(end)
        line = self._cut(end)
        if not line.endswith(b"\r\n"):
            raise LineFaultError("a line feed without carriage return")
        return line[:-2]

    def _cut(self, size: int) -> bytes:
        data = bytes(self._data[:size])
        del self._data[:size]
        self._searched = 0
        return data

    def _count(self, size: int) -> None:
        self._answer += size
        if self._answer > ANSWER_MAX:
            raise LineFaultError(f"an answer of more than {ANSWER_MAX} bytes")
