"""Lines of a server's answers: bytes in, whole lines out, in bounded memory, wherever the network cut them."""

from __future__ import annotations

from collections.abc import Callable

# Bytes of one answer with all its lines and literals: as much as HAProxy reads of one. The longest real
# answers (to CAPABILITY after login in IMAP, to EHLO in SMTP) have about 1,000.
ANSWER_MAX = 16384
_EXCERPT_MAX = 120  # of a server's text in a message


class LineFaultError(ValueError):
    """The bytes received are no line of an answer; the message says why."""


def excerpt(text: bytes) -> str:
    """Return the beginning of a server's text for a message: printable, in one line."""
    decoded = text[:_EXCERPT_MAX].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in decoded)


class LineBuffer:
    """Cuts bytes into lines, which end with CRLF.

    A logical line may contain literals (RFC 9051 section 4.3, RFC 5804 section 4): it is returned with their
    announcements and bytes as received.

    Args:
        line_max: Bytes of a line between literals, with its CRLF.
        literal_bytes: Returns the size of the literal that a line announces at its end, None if it announces
            none.
    """

    def __init__(self, line_max: int, literal_bytes: Callable[[bytes], int | None] = lambda _: None) -> None:
        self._line_max = line_max
        self._literal_bytes = literal_bytes
        self._data = bytearray()
        self._line = b""  # the parts so far of a line with literals
        self._literal = 0  # size of the literal that comes next
        self._answer = 0  # bytes of the answer so far
        self._searched = 0

    def __len__(self) -> int:
        """Return the number of bytes that are not in a returned line yet."""
        return len(self._line) + len(self._data)

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._data += data

    def begin_answer(self) -> None:
        """Start to count bytes towards ANSWER_MAX from zero."""
        self._answer = 0

    def next_line(self) -> bytes | None:
        """Return the next line without its CRLF, or None if it is incomplete.

        Raises:
            LineFaultError: A line or an answer is too long, or a line ends with LF alone.
        """
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
