"""SMTP, submission and LMTP, as far as a health check speaks them: greeting, EHLO, STARTTLS, QUIT (RFC 5321, 3207, 2033)."""

from __future__ import annotations

import re
from typing import ClassVar

from mailproxy.protocol.capabilities import Capabilities, by_name
from mailproxy.protocol.checks.mail import TABLE, Action, Answer, MailCheck, State, Table, Verdict
from mailproxy.protocol.checks.result import printable

# Bytes of a line: RFC 5321 section 4.5.3.1.5 has 512, and wants none refused for its length. As many as Postfix reads.
LINE_MAX = 2048
NAME_MAX = 255  # of a domain (section 4.5.3.1.2)

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)  # a code alone is one, too (section 4.2)
_NAME = re.compile(r"[!-~]+")
_EXPECTED = {State.GREETING: 220, State.CAPABILITIES: 250, State.STARTTLS: 220, State.GOODBYE: 221}
_CLOSING = 421  # to any command (section 3.8)
_UNKNOWN = (500, 502)  # what servers without EHLO say to it (section 3.2)


class SmtpCheck(MailCheck):
    """``name`` is what is said of oneself; a domain or an address literal. Raises ValueError if it cannot be one.

    The greeting is waited for to its last line: Postfix's postscreen begins it (``220-``), looks for clients that
    cannot wait, and ends it seconds later.
    """

    NAME = "SMTP"
    LINE_MAX = LINE_MAX
    ASK = b"EHLO"
    STARTTLS = b"STARTTLS"
    GOODBYE = b"QUIT"
    TABLE: ClassVar[Table] = {**TABLE, (State.CAPABILITIES, Verdict.UNKNOWN): Action.ASK_FALLBACK}

    def __init__(self, name: str = "localhost", *, starttls: bool = False) -> None:
        if not _NAME.fullmatch(name) or len(name) > NAME_MAX:
            raise ValueError(f"{name!r} is no name of a host")
        super().__init__(starttls=starttls)
        self._name = name.encode("ascii")
        self._has_asked_plainly = False
        self._code = 0  # of the answer that is coming
        self._texts: list[bytes] = []

    def _command(self, words: bytes) -> bytes:
        return super()._command(words + b" " + self._name if words in (self.ASK, b"HELO") else words)

    def _fallback_command(self) -> None:
        self._has_asked_plainly = True
        self._ask(b"HELO")

    def _read(self, line: bytes) -> Answer | None:
        match = _LINE.fullmatch(line)
        if not match:
            raise self._no(line)
        code, goes_on, text = int(match[1]), match[2] == b"-", match[3] or b""
        if self._texts and code != self._code:
            raise self._no(line)  # all lines have the same (section 4.2.1)
        self._code = code
        self._texts.append(text)
        if goes_on:
            return None
        texts, self._texts = self._texts, []
        return self._answer(code, texts)

    def _answer(self, code: int, texts: list[bytes]) -> Answer:
        said = printable(b" ".join([b"%d" % code, *texts]))
        found: Capabilities | None = None
        if (
            self.state is State.CAPABILITIES and not self._has_asked_plainly
        ):  # a line each, behind the first one
            lines = (tuple(text.upper().decode("ascii", "replace").split()) for text in texts[1:])
            found = by_name(line for line in lines if line)
        return Answer(verdict=self._verdict(code, said), text=said, status=code, capabilities=found)

    def _verdict(self, code: int, said: str) -> Verdict:
        if code == _EXPECTED[self.state]:
            return Verdict.YES
        if code == _CLOSING:
            return Verdict.BYE
        if code < 400 and self.state is not State.GOODBYE:
            raise self._no(said.encode())
        return Verdict.UNKNOWN if code in _UNKNOWN and not self._has_asked_plainly else Verdict.NO


class LmtpCheck(SmtpCheck):
    """The same with LHLO, which has no older way (RFC 2033 section 4.1)."""

    NAME = "LMTP"
    ASK = b"LHLO"
    TABLE: ClassVar[Table] = TABLE
