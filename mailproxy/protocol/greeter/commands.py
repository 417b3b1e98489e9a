"""Commands of a client that is not trusted yet: bytes in, one line for each command out, in bounded memory."""

from __future__ import annotations

import re

from attrs import frozen

# Bytes of a command's line with its CRLF, and of a literal. Before TLS a client has little to say: EHLO with a
# name of 255 bytes (RFC 5321 section 4.5.3.1), or ID with 30 pairs, of which real clients send a few.
LINE_MAX = 2048
LITERAL_MAX = 4096

# A client that has literals sends them without waiting (RFC 7888, RFC 5804 section 4). The greeter answers a
# synchronizing one at once, so that none is sent.
_LITERAL = re.compile(rb"\{(\d{1,9})(\+?)\}\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class EndlessCommandError(ValueError):
    """A command is longer than its limits and has no end in sight. The connection cannot go on."""


@frozen
class CommandLine:
    """A complete command.

    Attributes:
        text: The line without its CRLF. Of a command with literals, the part before the first one.
        fault: Why it is no line of the protocol, empty if it is one.
        has_literal: Whether the client waits to send a literal.
    """

    text: bytes
    fault: str = ""
    has_literal: bool = False


class CommandBuffer:
    """Cuts a client's bytes into commands.

    What is too long is dropped as it arrives. So at most ``LINE_MAX`` bytes stay here, and those that were fed
    since the last command was taken.

    Args:
        literals: Whether the protocol has literals.
    """

    def __init__(self, *, literals: bool = False) -> None:
        self._data = bytearray()
        self._literals = literals
        self._first: bytes | None = None  # the part before the first literal of a command
        self._skip = 0  # bytes of a literal that are left to drop
        self._is_overlong = False

    def __len__(self) -> int:
        """Return the number of bytes that belong to no command yet."""
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._data += data

    def rest(self) -> bytes:
        """Return the bytes that belong to no command yet."""
        return bytes(self._data)

    def is_inside_command(self) -> bool:
        """Whether a part of the next command was dropped already."""
        return self._first is not None or self._is_overlong

    def beginning(self) -> bytes:
        """Return what has arrived of the next command's line, without its line end."""
        end = self._data.find(b"\n")
        return bytes(self._data[:LINE_MAX] if end < 0 else self._data[:end]).rstrip(b"\r")

    def has_line(self) -> bool:
        """Whether the end of the next line has arrived."""
        return b"\n" in self._data

    def next_command(self) -> CommandLine | None:
        """Return the next command, or None if it is incomplete.

        Raises:
            EndlessCommandError: A literal is longer than ``LITERAL_MAX``.
        """
        while True:
            if self._skip:
                count = min(self._skip, len(self._data))
                del self._data[:count]
                self._skip -= count
                if self._skip:
                    return None
            end = self._data.find(b"\n") + 1
            if not end:
                if len(self._data) >= LINE_MAX:
                    self._data.clear()
                    self._is_overlong = True
                return None
            line = bytes(self._data[:end])
            del self._data[:end]
            if self._is_overlong or len(line) > LINE_MAX:
                self._is_overlong, self._first = False, None
                return CommandLine(b"", "is too long")
            if not line.endswith(b"\r\n"):
                return self._take(line[:-1], "ends without CR")
            if (command := self._complete(line[:-2])) is not None:
                return command

    def _complete(self, line: bytes) -> CommandLine | None:
        """Return the command that ends with this line, None if a literal follows that is dropped."""
        match = _LITERAL.search(line) if self._literals else None
        if match is None:
            return self._take(line, "has a control character" if _CONTROL.search(line) else "")
        if not match[2]:
            return self._take(line, "", has_literal=True)
        if int(match[1]) > LITERAL_MAX:
            raise EndlessCommandError(f"a literal of {int(match[1])} bytes")
        self._skip = int(match[1])
        self._first = line if self._first is None else self._first
        return None

    def _take(self, line: bytes, fault: str, *, has_literal: bool = False) -> CommandLine:
        first, self._first = self._first, None
        return CommandLine(line if first is None else first, fault, has_literal)
