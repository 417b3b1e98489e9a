"""The gates of POP3, SMTP, LMTP and ManageSieve: no XCLIENT, no XFORWARD, no STARTTLS behind the proxy's own."""

from __future__ import annotations

import re
from typing import ClassVar

from mailproxy.protocol.gate.gate import REPLACEMENT, Gate, State

_REPLY = re.compile(rb"(\d{3})( .*)?\Z", re.DOTALL)  # the last line of a reply
_BDAT = re.compile(rb"BDAT +(\d{1,12})( +LAST)?\s*\Z", re.IGNORECASE)
_SIEVE_ANSWER_LITERAL = re.compile(rb"(?:\A|[ (])\{(\d{1,9})\}\Z")
_SIEVE_LITERAL = re.compile(rb"\{(\d{1,9})\+?\}\r?\n\Z")
_TTL = re.compile(rb" TTL=(\d{1,5})\b", re.IGNORECASE)
_STARTTLS = frozenset({b"STARTTLS", b"STLS"})
_BODY_TAIL = 4  # bytes that may be the beginning of the end of mail


class _LineGate(Gate):
    """A gate of a protocol in which a command is one line that begins with its verb."""

    FORBIDDEN: ClassVar[frozenset[bytes]] = frozenset({b"XCLIENT", b"XFORWARD", b"STARTTLS", b"STLS"})

    def __init__(
        self, *, ttl: int | None = None, greeted: bool = True, passes_starttls: bool = False
    ) -> None:
        super().__init__(ttl=ttl, greeted=greeted, passes_starttls=passes_starttls)
        self._verb = b""

    def _on_command(self, line: bytes) -> None:
        words = line.split(None, 1)
        self._verb = re.split(rb"[^A-Za-z]", words[0], maxsplit=1)[0].upper() if words else b""
        if self._verb == b"XCLIENT" and (match := _TTL.search(line)) and int(match[1]) <= 1:
            self._close(f"the session has passed too many proxies: XCLIENT has TTL={int(match[1])}")
            return
        is_starttls = self._passes_starttls and self._verb in _STARTTLS
        is_forbidden = self._verb in self.FORBIDDEN and not is_starttls
        self._pass(REPLACEMENT + b"\r\n" if is_forbidden else line)


class Pop3Gate(_LineGate):
    """The gate of POP3. A list (CAPA) is read as one answer of several lines."""

    ANSWER_LINE_MAX: ClassVar[int] = 1024
    GREETING: ClassVar[re.Pattern[bytes]] = re.compile(rb"\+OK\b|-ERR\b")

    def __init__(
        self, *, ttl: int | None = None, greeted: bool = True, passes_starttls: bool = False
    ) -> None:
        super().__init__(ttl=ttl, greeted=greeted, passes_starttls=passes_starttls)
        self._is_in_list = False
        self._arguments = b""

    def _on_command(self, line: bytes) -> None:
        self._arguments = line.partition(b" ")[2].strip()
        super()._on_command(line)

    def _on_answer(self, line: bytes) -> None:
        if self.state is not State.ANSWER:
            return
        if self._is_in_list:
            self._is_in_list = line != b"."
            if not self._is_in_list:
                self.state = State.COMMAND
        elif line.startswith(b"+OK"):
            if self._verb in (b"PASS", b"APOP") or (self._verb == b"AUTH" and self._arguments):
                self.state = State.OPEN
            elif self._verb == b"STLS":
                self._start_tls()
            elif self._verb in (b"CAPA", b"AUTH") or (self._verb == b"LANG" and not self._arguments):
                self._is_in_list = True
            else:
                self.state = State.COMMAND
        elif line.startswith(b"-ERR"):
            self.state = State.COMMAND
        elif line.startswith(b"+"):
            self.state = State.LINE


class SmtpGate(_LineGate):
    """The gate of SMTP and submission. On a port without logins it lets mail through, and stays.

    The end of mail is looked for as the strictest server does. A lone dot in a line with other line ends may end the
    mail for one server and not for another. What follows it would be a command for the one, so the session ends.
    """

    ANSWER_LINE_MAX: ClassVar[int] = 2048
    GREETING: ClassVar[re.Pattern[bytes]] = re.compile(rb"\d{3}(?:[ -]|\Z)")

    def __init__(
        self, *, ttl: int | None = None, greeted: bool = True, passes_starttls: bool = False
    ) -> None:
        super().__init__(ttl=ttl, greeted=greeted, passes_starttls=passes_starttls)
        self._chunk: int | None = None  # bytes left of a BDAT
        self._tail = b""  # the last bytes of the mail so far
        self._replies = 1  # that are to come
        self._recipients = 0

    def _on_command(self, line: bytes) -> None:
        self._replies = 1
        match = _BDAT.match(line)
        super()._on_command(line)
        if match:
            self._chunk, self.state = int(match[1]), State.BODY
            self._replies = self._replies_to_mail() if match[2] else 1
            if not self._chunk:
                self._chunk, self.state = None, State.ANSWER

    def _replies_to_mail(self) -> int:
        return 1

    def _on_body(self) -> bool:
        if self._chunk is not None:
            self._chunk -= self._take_body(self._chunk)
            if not self._chunk:
                self._chunk, self.state = None, State.ANSWER
            return True
        return self._on_mail()

    def _on_mail(self) -> bool:
        """Pass on mail up to its end: a line with a dot alone."""
        text = self._tail + bytes(self._data)
        match = _END_OF_MAIL.search(text)
        if match is None:
            self._tail = text[-_BODY_TAIL:]
            self._take_body(len(self._data))
            return False
        if match[0] != b"\r\n.\r\n":
            self._close("a dot alone in a line with other line ends than CRLF")
            return False
        self._take_body(match.end() - len(self._tail))
        self.state, self._replies = State.ANSWER, self._replies_to_mail()
        return True

    def _on_answer(self, line: bytes) -> None:
        match = _REPLY.match(line)
        if match is None or self.state is not State.ANSWER:
            return
        code = int(match[1])
        if code == 354 and self._verb in (b"DATA", b"BURL"):
            self.state, self._tail = State.BODY, b"\r\n"
        elif code == 334:
            self.state = State.LINE
        elif code == 235 and self._verb == b"AUTH":
            self.state = State.OPEN
        elif code == 220 and self._verb == b"STARTTLS":
            self._start_tls()
        else:
            self._count_recipients(code)
            self._replies -= 1
            if self._replies <= 0:
                self.state = State.COMMAND

    def _ends_greeting(self, line: bytes) -> bool:
        return _REPLY.match(line) is not None

    def _count_recipients(self, code: int) -> None:
        if self._verb == b"RCPT" and 200 <= code < 300:
            self._recipients += 1
        elif self._verb in (b"MAIL", b"RSET", b"LHLO", b"EHLO"):
            self._recipients = 0


_END_OF_MAIL = re.compile(rb"\r?\n\.\r?\n")


class LmtpGate(SmtpGate):
    """The gate of LMTP, in which each recipient has a reply to the mail (RFC 2033 section 4.2)."""

    def _replies_to_mail(self) -> int:
        return max(1, self._recipients)


class SieveGate(_LineGate):
    """The gate of ManageSieve. A client's literals follow at once (RFC 5804 section 4)."""

    ANSWER_LINE_MAX: ClassVar[int] = 4096
    GREETING: ClassVar[re.Pattern[bytes]] = re.compile(rb'["{]|(?:OK|NO|BYE)(?:[ (]|\Z)', re.IGNORECASE)

    def __init__(
        self, *, ttl: int | None = None, greeted: bool = True, passes_starttls: bool = False
    ) -> None:
        super().__init__(ttl=ttl, greeted=greeted, passes_starttls=passes_starttls)
        self._literal = 0
        self._is_continued = False

    def _on_command(self, line: bytes) -> None:
        if self._is_continued:
            self._is_continued = False
            self._pass(line)
        else:
            super()._on_command(line)
        self._after_line(line)

    def _advance(self) -> bool:
        is_line = self.state is State.LINE
        end = self._data.find(b"\n") + 1
        line = bytes(self._data[:end])
        has_advanced = super()._advance()
        if is_line and has_advanced:
            self._after_line(line)
        return has_advanced

    def _after_line(self, line: bytes) -> None:
        if match := _SIEVE_LITERAL.search(line):
            self._literal, self._is_continued = int(match[1]), True
            self.state = State.BODY if self._literal else State.COMMAND

    def _on_body(self) -> bool:
        self._literal -= self._take_body(self._literal)
        if not self._literal:
            self.state = State.COMMAND
        return not self._literal

    def _on_answer(self, line: bytes) -> None:
        if self.state is not State.ANSWER:
            return
        word = re.split(rb"[ (]", line, maxsplit=1)[0].upper()
        if word == b"OK" and self._verb == b"STARTTLS":
            self._start_tls()
        elif word == b"OK":
            self.state = State.OPEN if self._verb == b"AUTHENTICATE" else State.COMMAND
        elif word in (b"NO", b"BYE"):
            self.state = State.COMMAND
        elif self._verb == b"AUTHENTICATE":
            self.state = State.LINE  # a challenge: a string

    def _ends_greeting(self, line: bytes) -> bool:
        return re.split(rb"[ (]", line, maxsplit=1)[0].upper() in (b"OK", b"NO", b"BYE")

    def _literal_bytes(self, line: bytes) -> int | None:
        match = _SIEVE_ANSWER_LITERAL.search(line)
        return match and int(match[1])
