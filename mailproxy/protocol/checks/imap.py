"""The IMAP of health checks: greeting, CAPABILITY, STARTTLS, LOGOUT (RFC 9051, RFC 3501)."""

from __future__ import annotations

import re

from mailproxy.protocol.capabilities import Capabilities, by_name
from mailproxy.protocol.checks.mail import Answer, MailCheck, State, Verdict
from mailproxy.protocol.checks.result import excerpt

# Bytes of a response's line. RFC 9051 has no limit; RFC 7162 section 4 wants servers to accept 8,192 from
# clients.
LINE_MAX = 8192

_LITERAL = re.compile(rb"\{(\d{1,9})\}\Z")
_STATUS = re.compile(rb"(?:\*|[a-z]\d+) (OK|NO|BAD|BYE|PREAUTH)(?: |\Z)", re.IGNORECASE)
_CONDITIONS = {b"OK": Verdict.YES, b"NO": Verdict.NO, b"BAD": Verdict.UNKNOWN}


class ImapCheck(MailCheck):
    """The check of an IMAP server. PREAUTH is as good a greeting as OK."""

    NAME = "IMAP"
    LINE_MAX = LINE_MAX
    ASK = b"CAPABILITY"
    STARTTLS = b"STARTTLS"
    LOGOUT = b"LOGOUT"

    def __init__(self, *, starttls: bool = False) -> None:
        super().__init__(starttls=starttls)
        self._commands = 0
        self._listed: Capabilities | None = None

    def _command(self, words: bytes) -> bytes:
        self._commands += 1
        self._listed = None
        return self._tag + b" " + super()._command(words)

    def logout(self) -> bytes:
        return b"bye " + super().logout()  # a tag that no script is likely to use

    @property
    def _tag(self) -> bytes:
        return b"a%d" % self._commands

    def _literal_bytes(self, line: bytes) -> int | None:
        # Only data contains literals (section 4.3). The text of a status response may end in braces, too.
        match = None if _STATUS.match(line) or not line.startswith(b"* ") else _LITERAL.search(line)
        return match and int(match[1])

    def _read(self, line: bytes) -> Answer | None:
        tag, _, rest = line.partition(b" ")
        if self.state is State.GREETING:
            return self._greeting(line, tag, rest)
        if tag == b"*" and rest:
            return self._untagged(rest)
        word = rest.partition(b" ")[0].upper()
        if tag != self._tag or word not in _CONDITIONS:
            raise self._invalid(line)
        if self.state is State.CAPABILITIES and word == b"OK" and self._listed is None:
            raise self._invalid(b"no list before " + line)  # required by section 6.1.1
        return Answer(verdict=_CONDITIONS[word], text=excerpt(rest), capabilities=self._listed)

    def _greeting(self, line: bytes, tag: bytes, rest: bytes) -> Answer:
        word = rest.partition(b" ")[0].upper()
        if tag != b"*" or word not in (b"OK", b"PREAUTH", b"BYE"):
            raise self._invalid(line)
        return Answer(verdict=Verdict.BYE if word == b"BYE" else Verdict.YES, text=excerpt(rest))

    def _untagged(self, rest: bytes) -> Answer | None:
        """Ignore untagged responses, except CAPABILITY, and BYE, which may come at any time (section 7)."""
        word, *names = rest.split() or [b""]
        if word.upper() == b"CAPABILITY":
            self._listed = by_name((name.decode("ascii", "replace"),) for name in names)
        if word.upper() == b"BYE" and self.state is not State.LOGOUT:
            return Answer(verdict=Verdict.BYE, text=excerpt(rest))
        return None
