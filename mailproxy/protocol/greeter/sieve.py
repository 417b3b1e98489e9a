"""The ManageSieve of the greeter (RFC 5804)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from mailproxy.protocol.greeter.greeter import Action, Command, Greeter

_TAG = re.compile(rb'"[ !#-\[\]-~]{1,64}"')  # of NOOP (section 2.13): a quoted string without escapes

_ANSWERS: Mapping[Action, bytes] = {
    Action.ACCEPT: b'OK "Done."',
    Action.UPGRADE: b'OK "Begin TLS negotiation now."',
    Action.LOG_OUT: b'OK "Logging out."',
    Action.NO_LOGIN: b'NO (ENCRYPT-NEEDED) "Logins need TLS. Send STARTTLS first."',  # section 1.3
    Action.NOT_YET: b'NO "Not before STARTTLS and a login."',
    Action.FORBIDDEN: b'NO "Only for trusted proxies."',
    Action.UNKNOWN: b'NO "Unknown command."',
    Action.INVALID: b'NO "Invalid command."',
}


class SieveGreeter(Greeter):
    """The greeter of ManageSieve."""

    VERBS: ClassVar[Mapping[bytes, Command]] = {
        b"CAPABILITY": Command.CAPABILITIES,
        b"NOOP": Command.NOOP,
        b"STARTTLS": Command.STARTTLS,
        b"LOGOUT": Command.LOGOUT,
        b"AUTHENTICATE": Command.LOGIN,
        **dict.fromkeys(
            b"HAVESPACE PUTSCRIPT LISTSCRIPTS SETACTIVE GETSCRIPT DELETESCRIPT RENAMESCRIPT CHECKSCRIPT UNAUTHENTICATE".split(),
            Command.OTHER,
        ),
        b"XCLIENT": Command.IDENTITY,
    }
    HAS_LITERALS: ClassVar[bool] = True

    def greet(self) -> bytes:
        return self._list() + b'OK "' + _quoted(self._text) + b'"\r\n'

    def _list(self) -> bytes:
        return b"".join(line + b"\r\n" for line in self._capabilities)

    def _is_valid(self, command: Command, line: bytes) -> bool:
        without_arguments = (Command.CAPABILITIES, Command.STARTTLS, Command.LOGOUT)
        return command not in without_arguments or not self._arguments(line)

    def _answer(self, action: Action, line: bytes) -> bytes:
        if action is Action.LIST:
            return self._list() + b'OK "Capability completed."\r\n'
        tag = self._arguments(line)
        if action is Action.ACCEPT and _TAG.fullmatch(tag):
            return b"OK (TAG " + tag + b') "Done."\r\n'
        return _ANSWERS[action] + b"\r\n"

    def _too_many_errors(self, action: Action | None = None, line: bytes = b"") -> bytes:  # noqa: ARG002 - one answer for each command
        return b'BYE "Too many errors."\r\n'


def _quoted(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
