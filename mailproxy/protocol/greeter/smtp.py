"""The SMTP, submission and LMTP of the greeter (RFC 5321, 3207, 2033, 2034)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from mailproxy.protocol.greeter.greeter import TABLE, Action, Command, Greeter, State, Table

_NAME = re.compile(
    rb"[!-~]{1,255}"
)  # a domain or an address literal, and what careless clients send in their place

_ANSWERS: Mapping[Action, bytes] = {
    Action.ACCEPT: b"250 2.0.0 OK",
    Action.UPGRADE: b"220 2.0.0 Ready to start TLS",
    Action.LOG_OUT: b"221 2.0.0 Bye",
    Action.NO_HELP: b"502 5.5.1 Command is not available here",
    Action.NO_LOGIN: b"530 5.7.0 Must issue a STARTTLS command first",  # RFC 3207 section 4
    Action.NOT_YET: b"530 5.7.0 Must issue a STARTTLS command first",
    Action.NO_NAME: b"503 5.5.1 Say hello first",
    Action.FORBIDDEN: b"550 5.7.0 Only for trusted proxies",
    Action.UNKNOWN: b"500 5.5.2 Command is not recognized",
    Action.INVALID: b"501 5.5.4 Invalid command or arguments",
}

_BY_STATE: Table = {
    **TABLE,
    **{(State.GREETED, command): action for (_, command), action in TABLE.items()},
    (State.GREETED, Command.STARTTLS): Action.NO_NAME,
}


class SmtpGreeter(Greeter):
    """The greeter of SMTP and submission."""

    VERBS: ClassVar[Mapping[bytes, Command]] = {
        b"EHLO": Command.HELLO,
        b"HELO": Command.OLD_HELLO,
        b"NOOP": Command.NOOP,
        b"RSET": Command.RESET,
        b"STARTTLS": Command.STARTTLS,
        b"QUIT": Command.LOGOUT,
        **dict.fromkeys((b"HELP", b"VRFY", b"EXPN"), Command.HELP),
        b"AUTH": Command.LOGIN,
        **dict.fromkeys((b"MAIL", b"RCPT", b"DATA", b"BDAT", b"BURL", b"ETRN", b"TURN"), Command.OTHER),
        **dict.fromkeys((b"XCLIENT", b"XFORWARD"), Command.IDENTITY),
    }
    TABLE: ClassVar[Table] = _BY_STATE
    FIRST: ClassVar[State] = State.GREETED
    NAME: ClassVar[bytes] = b"ESMTP"

    def greet(self) -> bytes:
        return b" ".join([b"220", self._host, self.NAME, self._text]).rstrip() + b"\r\n"

    def refuse_early_talker(self) -> bytes:
        return b"554 5.5.1 Client sent something before the greeting\r\n"

    def _is_valid(self, command: Command, line: bytes) -> bool:
        if command in (Command.HELLO, Command.OLD_HELLO):
            return bool(_NAME.fullmatch(self._arguments(line)))
        return command not in (Command.STARTTLS, Command.LOGOUT, Command.RESET) or not self._arguments(line)

    def _answer(self, action: Action, line: bytes) -> bytes:  # noqa: ARG002 - answers do not depend on it
        if action is Action.OLD_WELCOME:
            return b"250 " + self._host + b"\r\n"
        if action is Action.WELCOME:
            *lines, last = (self._host, *self._capabilities)
            return b"".join(b"250-" + each + b"\r\n" for each in lines) + b"250 " + last + b"\r\n"
        return _ANSWERS[action] + b"\r\n"

    def _too_many_errors(self, action: Action | None = None, line: bytes = b"") -> bytes:  # noqa: ARG002 - one answer for each command
        return b"421 4.7.0 Too many errors\r\n"


class LmtpGreeter(SmtpGreeter):
    """The greeter of LMTP. Its only hello is LHLO (RFC 2033 section 4.1)."""

    VERBS: ClassVar[Mapping[bytes, Command]] = {
        **{verb: command for verb, command in SmtpGreeter.VERBS.items() if verb not in (b"EHLO", b"HELO")},
        b"LHLO": Command.HELLO,
    }
    NAME: ClassVar[bytes] = b"LMTP"
