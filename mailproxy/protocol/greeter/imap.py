"""The IMAP of the greeter (RFC 3501, RFC 9051)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from mailproxy.protocol.greeter.greeter import Action, Command, Greeter

_TAG = re.compile(
    rb"[!#$&',./0-9:;<=>?@A-Z\[\]^_`a-z|}~-]{1,64}"
)  # RFC 3501 section 9: ASTRING-CHAR without "+"

_ANSWERS: Mapping[Action, bytes] = {
    Action.LIST: b"OK CAPABILITY completed.",
    Action.ACCEPT: b"OK NOOP completed.",
    Action.IDENTIFY: b"OK ID completed.",
    Action.UPGRADE: b"OK Begin TLS negotiation now.",
    Action.LOG_OUT: b"OK LOGOUT completed.",
    # RFC 5530 section 3
    Action.NO_LOGIN: b"NO [PRIVACYREQUIRED] Logins need TLS. Send STARTTLS first.",
    Action.NOT_YET: b"BAD Not before STARTTLS and a login.",
    Action.UNKNOWN: b"BAD Unknown command.",
    Action.INVALID: b"BAD Invalid command.",
}
_UNTAGGED: Mapping[Action, bytes] = {
    Action.IDENTIFY: b"* ID NIL\r\n",
    Action.LOG_OUT: b"* BYE Logging out.\r\n",
}

_AUTHENTICATED = (
    b"SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE LIST LSUB NAMESPACE STATUS APPEND IDLE ENABLE CLOSE UNSELECT "
    b"EXPUNGE SEARCH FETCH STORE COPY MOVE UID CHECK COMPRESS GETQUOTA GETQUOTAROOT SETQUOTA NOTIFY SORT THREAD GETMETADATA "
    b"SETMETADATA GETACL SETACL MYRIGHTS UNAUTHENTICATE"
).split()


class ImapGreeter(Greeter):
    """The greeter of IMAP."""

    VERBS: ClassVar[Mapping[bytes, Command]] = {
        b"CAPABILITY": Command.CAPABILITIES,
        b"NOOP": Command.NOOP,
        b"ID": Command.IDENTIFY,
        b"STARTTLS": Command.STARTTLS,
        b"LOGOUT": Command.LOGOUT,
        b"LOGIN": Command.LOGIN,
        b"AUTHENTICATE": Command.LOGIN,
        **dict.fromkeys(_AUTHENTICATED, Command.OTHER),
    }
    HAS_LITERALS: ClassVar[bool] = True

    def greet(self) -> bytes:
        return b"* OK [CAPABILITY " + b" ".join(self._capabilities) + b"] " + self._text + b"\r\n"

    def plain_greeting(self) -> bytes:
        return b"* OK " + self._text + b"\r\n"

    def _verb(self, line: bytes) -> bytes:
        words = line.split(b" ", 2)
        return words[1].upper() if len(words) > 1 and _TAG.fullmatch(words[0]) else b""

    def _is_verb_complete(self, beginning: bytes) -> bool:
        return beginning.count(b" ") > 1

    def _arguments(self, line: bytes) -> bytes:
        words = line.split(b" ", 2)
        return words[2].strip(b" ") if len(words) > 2 else b""

    def _is_valid(self, command: Command, line: bytes) -> bool:
        has_arguments = bool(self._arguments(line))
        return has_arguments == (command is Command.IDENTIFY) or command in (
            Command.LOGIN,
            Command.OTHER,
            Command.UNKNOWN,
        )

    def _answer(self, action: Action, line: bytes) -> bytes:
        tag = line.partition(b" ")[0]
        if not _TAG.fullmatch(tag):
            return b"* BAD Invalid tag.\r\n"
        untagged = _UNTAGGED.get(action, b"")
        if action is Action.LIST:
            untagged = b"* CAPABILITY " + b" ".join(self._capabilities) + b"\r\n"
        return untagged + tag + b" " + _ANSWERS[action] + b"\r\n"

    def _too_many_errors(self, action: Action | None = None, line: bytes = b"") -> bytes:
        answer = self._answer(action, line) if action is not None else b""
        return answer + b"* BYE Too many errors.\r\n"
