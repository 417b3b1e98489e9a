"""The SMTP, submission and LMTP of the opening: greeting, EHLO, STARTTLS, XCLIENT (RFC 5321, 3207, 2033)."""

from __future__ import annotations

import re
from typing import ClassVar

from mailproxy.protocol.checks.smtp import LINE_MAX
from mailproxy.protocol.opening.identity import Identity, xclient_arguments
from mailproxy.protocol.opening.opening import Answer, Opening, State, Verdict, invalid

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_CLOSING = 421  # a possible answer to any command (section 3.8)
_EXPECTED = {State.GREETING: 220, State.STARTTLS: 220, State.IDENTITY: 220}  # 250 in the other states


class SmtpOpening(Opening):
    """The opening with an SMTP or submission server.

    XCLIENT restarts the session: the server greets again, and the client's EHLO comes after that.
    """

    LINE_MAX: ClassVar[int] = LINE_MAX
    HELLO: ClassVar[bytes] = b"EHLO"
    _code = 0

    def _read(self, line: bytes) -> Answer | None:
        match = _LINE.fullmatch(line)
        if not match or (self._code and int(match[1]) != self._code):
            raise invalid(line)  # all lines of an answer have the same code (section 4.2.1)
        self._code = code = int(match[1])
        if match[2] == b"-":
            return None
        self._code = 0
        if code == _CLOSING:
            return Answer(Verdict.BYE, line)
        verdict = Verdict.YES if code == _EXPECTED.get(self.state, 250) else Verdict.NO
        return Answer(verdict, line, self._listed() if code == 250 else {})

    def _listed(self) -> dict[str, tuple[str, ...]]:
        """Return the capabilities of an answer to EHLO. Its first line is the server's name."""
        lines = self._raw.upper().decode("ascii", "replace").split("\r\n")[1:]
        words = [line[4:].split() for line in lines]
        return {name: tuple(rest) for name, *rest in filter(None, words)}

    def _ask(self) -> None:
        self._send(self.HELLO + b" " + self._name, State.CAPABILITIES)

    def _prepare_identity(self) -> None:
        self._send(self.HELLO + b" " + self._name, State.NEW_CAPABILITIES)

    def _identity_command(self, identity: Identity) -> bytes:
        offered = self.capabilities.get("XCLIENT", ())
        if "ADDR" not in offered:
            return b""
        return b"XCLIENT " + xclient_arguments(identity, offered, has_prefix=True)

    def _after_identity(self, raw: bytes) -> None:
        if raw:
            self.greeting = raw
        self._say_hello()


class LmtpOpening(SmtpOpening):
    """The opening with an LMTP server."""

    HELLO: ClassVar[bytes] = b"LHLO"
