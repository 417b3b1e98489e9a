"""The SMTP, submission and LMTP of health checks: greeting, EHLO, STARTTLS, QUIT (RFC 5321, 3207, 2033)."""

from __future__ import annotations

import re
from typing import ClassVar

from mailproxy.protocol.capabilities import Capabilities, by_name
from mailproxy.protocol.checks.mail import TABLE, Action, Answer, MailCheck, State, Table, Verdict
from mailproxy.protocol.checks.result import excerpt

# Bytes of a line: as many as Postfix reads. RFC 5321 section 4.5.3.1.5 has 512, but wants none rejected for
# its length.
LINE_MAX = 2048
NAME_MAX = 255  # bytes of a domain (section 4.5.3.1.2)

# A code without text is allowed (section 4.2).
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_NAME = re.compile(r"[!-~]+")
_EXPECTED = {State.GREETING: 220, State.CAPABILITIES: 250, State.STARTTLS: 220, State.LOGOUT: 221}
_CLOSING = 421  # a possible answer to any command (section 3.8)
_UNKNOWN = (500, 502)  # the answer to EHLO of servers that do not know it (section 3.2)


class SmtpCheck(MailCheck):
    """The check of an SMTP or submission server.

    It waits for the last line of the greeting before it sends. Postfix's postscreen sends a first line
    (``220-``), watches for clients that do not wait, and sends the last one seconds later.

    Args:
        name: The domain or address literal that the check gives as its own name.
        starttls: Whether to upgrade the connection to TLS.

    Raises:
        ValueError: ``name`` has blanks, control or non-ASCII characters, or more than NAME_MAX.
    """

    NAME = "SMTP"
    LINE_MAX = LINE_MAX
    ASK = b"EHLO"
    STARTTLS = b"STARTTLS"
    LOGOUT = b"QUIT"
    TABLE: ClassVar[Table] = {**TABLE, (State.CAPABILITIES, Verdict.UNKNOWN): Action.ASK_FALLBACK}

    def __init__(self, name: str = "localhost", *, starttls: bool = False) -> None:
        if not _NAME.fullmatch(name) or len(name) > NAME_MAX:
            raise ValueError(f"{name!r} is no name of a host")
        super().__init__(starttls=starttls)
        self._name = name.encode("ascii")
        self._has_fallen_back = False
        self._code = 0  # reply code of the answer that is being received
        self._texts: list[bytes] = []

    def _command(self, words: bytes) -> bytes:
        return super()._command(words + b" " + self._name if words in (self.ASK, b"HELO") else words)

    def _fallback_command(self) -> None:
        self._has_fallen_back = True
        self._ask(b"HELO")

    def _read(self, line: bytes) -> Answer | None:
        match = _LINE.fullmatch(line)
        if not match:
            raise self._invalid(line)
        code, goes_on, text = int(match[1]), match[2] == b"-", match[3] or b""
        if self._texts and code != self._code:
            raise self._invalid(line)  # all lines of an answer have the same code (section 4.2.1)
        self._code = code
        self._texts.append(text)
        if goes_on:
            return None
        texts, self._texts = self._texts, []
        return self._answer(code, texts)

    def _answer(self, code: int, texts: list[bytes]) -> Answer:
        text = excerpt(b" ".join([b"%d" % code, *texts]))
        capabilities: Capabilities | None = None
        if self.state is State.CAPABILITIES and not self._has_fallen_back:
            # After the first line, each line is one capability.
            lines = (tuple(line.decode("ascii", "replace").split()) for line in texts[1:])
            capabilities = by_name(line for line in lines if line)
        return Answer(verdict=self._verdict(code, text), text=text, status=code, capabilities=capabilities)

    def _verdict(self, code: int, text: str) -> Verdict:
        if code == _EXPECTED[self.state]:
            return Verdict.YES
        if code == _CLOSING:
            return Verdict.BYE
        if code < 400 and self.state is not State.LOGOUT:
            raise self._invalid(text.encode())
        return Verdict.UNKNOWN if code in _UNKNOWN and not self._has_fallen_back else Verdict.NO


class LmtpCheck(SmtpCheck):
    """The check of an LMTP server. Its command is LHLO, without an older one to fall back to (RFC 2033 section 4.1)."""

    NAME = "LMTP"
    ASK = b"LHLO"
    TABLE: ClassVar[Table] = TABLE
