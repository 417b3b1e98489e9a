"""Where a server's responses end: the places where a goodbye may be sent.

A goodbye inside a literal or a response of several lines would be taken for its text. So a tracker follows what a
server sends, from the beginning of the session. It works little: what arrives is only stored, and read when there is
enough of it, or when the session is to end. A literal is skipped by its length, so bulk in IMAP costs one subtraction
for each read. A tracker that has lost its way says so, and the session then ends without words.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping

# Bytes that are stored before they are read. More would be memory of each idle session, less would be work for each
# small response.
TAIL_MAX = 1024
# A response that is longer, and no literal, is bulk: reading it would cost a noticeable part of moving it.
BULK_BYTES = 16 * 1024

_LITERAL = re.compile(rb"\{(\d{1,10})\}\r\n")
_IS_TEXT = re.compile(rb"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*")
_REPLY_LINE = re.compile(rb"[2-5]\d\d([ -].*)?", re.DOTALL)
_SENDING_MAIL = b"354"


class Boundary(ABC):
    """Follows one server's responses. Subclasses read them.

    Args:
        greeted: Whether the server's greeting came before what is followed.

    Attributes:
        follows_commands: Whether it needs the client's commands as well.
    """

    __slots__ = ("_is_greeted", "_is_lost", "_skip", "_tail")
    follows_commands = False

    def __init__(self, *, greeted: bool = False) -> None:
        self._tail = bytearray()
        self._is_lost = False
        self._is_greeted = greeted
        self._skip = 0  # bytes of a literal that are to come; nothing is stored then

    def from_server(self, data: memoryview) -> bool:
        """Take note of bytes of the server; return True if the tracker is lost and need not be asked again."""
        # Each response comes through here, so there are no calls but these.
        if self._skip:
            return self._skip_literal(data)
        tail = self._tail
        tail += data
        if len(tail) > TAIL_MAX:
            self._read()
        return self._is_lost

    def _skip_literal(self, data: memoryview) -> bool:
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        return self.from_server(data[skipped:]) if skipped < len(data) else False

    def from_client(self, data: memoryview) -> bool:  # noqa: ARG002 - for the protocols that need it
        """Take note of bytes of the client; return True if the tracker is lost or does not need them."""
        return True

    def is_reached(self) -> bool:
        """Whether the last response is complete."""
        if not self._is_lost:
            self._read()
        return not self._is_lost and not self._tail and self._is_between()

    def lose(self) -> None:
        """Take note that bytes have passed unseen."""
        self._is_lost = True
        self._tail.clear()

    @abstractmethod
    def _read(self) -> None:
        """Read what is stored, and leave what belongs to an incomplete line."""

    @abstractmethod
    def _is_between(self) -> bool:
        """Whether a response has ended with the last line that was read."""


class ImapBoundary(Boundary):
    """The responses of IMAP. Untagged ones may come at any time, so each of them is complete by itself."""

    __slots__ = ("_is_inside",)

    def __init__(self, *, greeted: bool = False) -> None:
        super().__init__(greeted=greeted)
        self._is_inside = False  # behind a literal, in the rest of its line

    def _read(self) -> None:
        tail = self._tail
        start = 0
        while (match := _LITERAL.search(tail, start)) is not None:
            if not _IS_TEXT.fullmatch(tail, start, match.end()):
                self.lose()
                return
            self._is_inside = True
            start = match.end() + int(match[1])
            if start > len(tail):
                self._skip = start - len(tail)
                start = len(tail)
        end = tail.rfind(b"\n", start) + 1
        if end:
            # Compressed or encrypted bytes are soon found out by their control characters.
            if not _IS_TEXT.fullmatch(tail, start, end) or tail[end - 2 : end] != b"\r\n":
                self.lose()
                return
            self._is_inside, start = False, end
        del tail[:start]
        if len(tail) > BULK_BYTES:
            self.lose()

    def _is_between(self) -> bool:
        return not self._skip and not self._is_inside


class SmtpBoundary(Boundary):
    """The replies of SMTP, submission and LMTP."""

    __slots__ = ("_last",)

    def __init__(self, *, greeted: bool = False) -> None:
        super().__init__(greeted=greeted)
        self._last = b""

    def _read(self) -> None:
        *lines, rest = bytes(self._tail).split(b"\r\n")
        for line in lines:
            if not _REPLY_LINE.fullmatch(line):
                self.lose()
                return
            self._last = line[:4]
        self._tail[:] = rest
        if len(rest) > BULK_BYTES:
            self.lose()

    def _is_between(self) -> bool:
        # Behind 354 a server may be about to accept the mail, and the client would send it a second time.
        return self._last[3:4] != b"-" and self._last[:3] != _SENDING_MAIL


class SieveBoundary(Boundary):
    """The responses of ManageSieve. They end with OK, NO or BYE."""

    __slots__ = ("_is_final", "_is_inside")

    def __init__(self, *, greeted: bool = False) -> None:
        super().__init__(greeted=greeted)
        self._is_inside = False
        self._is_final = True

    def _read(self) -> None:
        tail, start = self._tail, 0
        while True:
            if self._skip:
                count = min(self._skip, len(tail) - start)
                self._skip -= count
                start += count
            end = tail.find(b"\r\n", start) + 2
            if self._skip or end < 2:
                break
            line = bytes(tail[start:end])
            if not _IS_TEXT.fullmatch(line):
                self.lose()
                return
            if not self._is_inside:
                self._is_final = re.split(rb"[ (\r]", line, maxsplit=1)[0].upper() in (b"OK", b"NO", b"BYE")
            match = _LITERAL.search(line)
            self._is_inside = match is not None
            self._skip = int(match[1]) if match is not None else 0
            start = end
        del tail[:start]
        if len(tail) > BULK_BYTES:
            self.lose()

    def _is_between(self) -> bool:
        return self._is_final and not self._skip and not self._is_inside


class Pop3Boundary(Boundary):
    """The responses of POP3. Whether one has several lines depends on the command."""

    __slots__ = ("_client_tail", "_commands", "_is_in_list")
    follows_commands = True

    def __init__(self, *, greeted: bool = False) -> None:
        super().__init__(greeted=greeted)
        self._client_tail = b""
        self._commands: deque[bool] = (
            deque()
        )  # of each that waits for its answer: whether that has several lines
        self._is_in_list = False

    def from_client(self, data: memoryview) -> bool:
        # The server may have asked for a line that is no command. What it has sent so far tells.
        self._read()
        *lines, self._client_tail = (self._client_tail + bytes(data)).split(b"\n")
        for line in lines:
            self._commands.append(_has_list(line))
        if len(self._client_tail) > BULK_BYTES or len(self._commands) > TAIL_MAX:
            self.lose()
        return self._is_lost

    def from_server(self, data: memoryview) -> bool:
        if len(data) <= TAIL_MAX or self._is_lost:
            return super().from_server(data)
        self._tail += data[:TAIL_MAX]
        self._read()
        if not self._is_in_list or self._commands:
            if len(data) > BULK_BYTES:
                self.lose()
            return super().from_server(data[TAIL_MAX:])
        # A mail, and no command waits behind it: only the end of the list can end it, as the last that is received.
        *lines, rest = bytes(data[-TAIL_MAX:]).split(b"\r\n")
        self._is_in_list = len(lines) < 2 or lines[-1] != b"." or bool(rest)
        self._tail[:] = rest
        return False

    def _read(self) -> None:
        *lines, rest = bytes(self._tail).split(b"\r\n")
        for line in lines:
            if self._is_in_list:
                self._is_in_list = line != b"."
            elif not line.startswith((b"+OK", b"-ERR", b"+ ")) and line != b"+":
                self.lose()
                return
            elif not self._is_greeted:
                self._is_greeted = True
            elif not self._commands:
                self.lose()  # an answer without a command
                return
            else:
                has_list = self._commands.popleft()
                self._is_in_list = has_list and line.startswith(b"+OK")
        self._tail[:] = rest
        if len(rest) > BULK_BYTES:
            self.lose()

    def _is_between(self) -> bool:
        return not self._is_in_list and not self._commands and not self._client_tail


def _has_list(line: bytes) -> bool:
    """Whether the answer to a command has several lines if it is positive (RFC 1939, RFC 2449, RFC 5034)."""
    words = line.upper().split()
    verb = words[0] if words else b""
    if verb in (b"RETR", b"TOP", b"CAPA"):
        return True
    return verb in (b"LIST", b"UIDL", b"AUTH", b"LANG") and len(words) == 1


BOUNDARIES: Mapping[str, type[Boundary]] = {
    "imap": ImapBoundary,
    "pop3": Pop3Boundary,
    "smtp": SmtpBoundary,
    "submission": SmtpBoundary,
    "lmtp": SmtpBoundary,
    "sieve": SieveBoundary,
}
"""The tracker of each protocol, by the protocol's name in the configuration."""
