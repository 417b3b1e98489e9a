"""The POP3 of the greeter (RFC 1939, 2449, 2595)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mailproxy.protocol.greeter.greeter import Action, Command, Greeter

_ANSWERS: Mapping[Action, bytes] = {
    Action.ACCEPT: b"+OK",
    Action.UPGRADE: b"+OK Begin TLS negotiation now.",
    Action.LOG_OUT: b"+OK Logging out.",
    Action.NO_LOGIN: b"-ERR Logins need TLS. Send STLS first.",
    Action.NOT_YET: b"-ERR Not before STLS and a login.",
    Action.FORBIDDEN: b"-ERR Only for trusted proxies.",
    Action.UNKNOWN: b"-ERR Unknown command.",
    Action.INVALID: b"-ERR Invalid command.",
}


class Pop3Greeter(Greeter):
    """The greeter of POP3. Its greeting has no timestamp, so that no client tries APOP."""

    VERBS: ClassVar[Mapping[bytes, Command]] = {
        b"CAPA": Command.CAPABILITIES,
        b"NOOP": Command.NOOP,
        b"STLS": Command.STARTTLS,
        b"QUIT": Command.LOGOUT,
        **dict.fromkeys((b"USER", b"PASS", b"APOP", b"AUTH"), Command.LOGIN),
        **dict.fromkeys(b"STAT LIST RETR DELE RSET TOP UIDL LANG UTF8".split(), Command.OTHER),
        b"XCLIENT": Command.IDENTITY,
    }

    def greet(self) -> bytes:
        return b"+OK " + self._text.replace(b"<", b"(") + b"\r\n"

    def _is_valid(self, command: Command, line: bytes) -> bool:
        without_arguments = (Command.CAPABILITIES, Command.NOOP, Command.STARTTLS, Command.LOGOUT)
        return command not in without_arguments or not self._arguments(line)

    def _answer(self, action: Action, line: bytes) -> bytes:  # noqa: ARG002 - answers do not depend on it
        if action is Action.LIST:
            lines = (b"+OK Capability list follows.", *self._capabilities, b".")
            return b"".join(each + b"\r\n" for each in lines)
        return _ANSWERS[action] + b"\r\n"

    def _too_many_errors(self, action: Action | None = None, line: bytes = b"") -> bytes:  # noqa: ARG002 - one answer for each command
        return b"-ERR Too many errors.\r\n"
