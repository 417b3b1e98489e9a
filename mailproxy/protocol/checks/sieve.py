"""The ManageSieve of health checks: greeting with capabilities, STARTTLS, LOGOUT (RFC 5804)."""

from __future__ import annotations

import re
from typing import ClassVar

from mailproxy.protocol.capabilities import by_name
from mailproxy.protocol.checks.mail import TABLE, Action, Answer, MailCheck, State, Table, Verdict
from mailproxy.protocol.checks.result import excerpt

# Bytes of a line between literals: a name and a quoted string of at most 1,024 octets (section 4), each of
# which may be escaped.
LINE_MAX = 4096

_LITERAL = re.compile(rb"(?:\A|[ (])\{(\d{1,9})\}\Z")
_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"|\{(\d{1,9})\}\r\n|([^ "{]+)', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_VERDICTS = {b"OK": Verdict.YES, b"NO": Verdict.NO, b"BYE": Verdict.BYE}


class SieveCheck(MailCheck):
    """The check of a ManageSieve server.

    The server lists its capabilities unasked: in the greeting, and again after the TLS handshake (section
    2.2).
    """

    NAME = "ManageSieve"
    LINE_MAX = LINE_MAX
    ASK = b""
    STARTTLS = b"STARTTLS"
    LOGOUT = b"LOGOUT"
    TABLE: ClassVar[Table] = {**TABLE, (State.GREETING, Verdict.YES): Action.GO_ON}

    def __init__(self, *, starttls: bool = False) -> None:
        super().__init__(starttls=starttls)
        self._listed: list[tuple[str, ...]] = []

    def _literal_bytes(self, line: bytes) -> int | None:
        match = _LITERAL.search(line)
        return match and int(match[1])

    def _read(self, line: bytes) -> Answer | None:
        tokens = list(self._tokens(line))
        if not tokens:
            raise self._invalid(line)
        is_list = self.state in (State.GREETING, State.CAPABILITIES)
        text, is_string = tokens[0]
        if is_string:
            if not is_list:
                raise self._invalid(line)
            words = (part.decode("utf-8", "replace") for part, _ in tokens)
            self._listed.append(tuple(words))
            return None
        word = re.split(rb"\(", text, maxsplit=1)[0].upper()
        if word not in _VERDICTS:
            raise self._invalid(line)
        listed, self._listed = self._listed, []
        if is_list and word == b"OK" and not listed:
            raise self._invalid(b"no list before " + line)  # required by section 1.7
        answer = excerpt(b" ".join(part for part, _ in tokens))
        return Answer(verdict=_VERDICTS[word], text=answer, capabilities=by_name(listed) if is_list else None)

    def _tokens(self, line: bytes) -> list[tuple[bytes, bool]]:
        """Split a line into words and strings; the flag of each is whether it is a string."""
        tokens, offset = [], 0
        while offset < len(line):
            match = _TOKEN.match(line, offset)
            if not match:
                raise self._invalid(line)
            quoted, literal, word = match.groups()
            offset = match.end()
            if literal is not None:
                offset += int(literal)
                tokens.append((line[match.end() : offset], True))
            elif quoted is not None:
                tokens.append((_ESCAPED.sub(rb"\1", quoted), True))
            else:
                tokens.append((word, False))
            if line[offset : offset + 1] == b" ":
                offset += 1
        return tokens
