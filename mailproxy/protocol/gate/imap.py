"""The gate of IMAP: ID without Dovecot's fields, and nothing else changed (RFC 9051, RFC 2971)."""

from __future__ import annotations

import re
from typing import ClassVar

from mailproxy.protocol.gate.gate import LINE_MAX, REPLACEMENT, Gate, State

_LITERAL = re.compile(rb"\{(\d{1,9})(\+?)\}\r?\n\Z")
_ANSWER_LITERAL = re.compile(rb"\{(\d{1,9})\}\Z")
# A list of ID: strings and NIL. Strings may be literals, as a non-synchronizing one (RFC 7888).
_TOKEN = re.compile(rb' *(?:"((?:[^"\\\r\n]|\\["\\])*)"|(NIL)(?=[ )])|\{(\d{1,5})\+\}\r\n)', re.IGNORECASE)
# Dovecot's: x-originating-ip, x-connected-ip, x-proxy-ttl, x-session-id, x-session-ext-id, x-forward-NAME and so on
_RESERVED = re.compile(
    rb"x-(originating|connected|proxy|session|forward|client|disable|multiplex)", re.IGNORECASE
)
_TTL = b"x-proxy-ttl"
_LOGINS = (b"LOGIN", b"AUTHENTICATE")


class ImapGate(Gate):
    """The gate of IMAP.

    A literal follows an answer (``+``), or the line itself if it does not wait for one. An answer that refuses the
    command means that no literal comes.
    """

    GREETING: ClassVar[re.Pattern[bytes]] = re.compile(rb"\* (OK|PREAUTH|BYE)\b", re.IGNORECASE)

    def __init__(
        self, *, ttl: int | None = None, greeted: bool = True, passes_starttls: bool = False
    ) -> None:
        super().__init__(ttl=ttl, greeted=greeted, passes_starttls=passes_starttls)
        self._tag = b""
        self._verb = b""
        self._literal = 0  # bytes of the literal that follows
        self._is_continued = False  # the next line belongs to the command of the last one
        self._held = b""  # an ID command so far

    def _on_command(self, line: bytes) -> None:
        if not self._is_continued:
            words = line.split(None, 2)
            self._tag, self._verb = words[0] if words else b"", words[1].upper() if len(words) > 1 else b""
        self._is_continued = False
        if self._verb == b"ID":
            self._on_id(line)
        elif self._verb == b"STARTTLS" and not self._passes_starttls:
            self._pass(self._tag + b" " + REPLACEMENT + b"\r\n")  # the gate could not read on
        elif line.endswith((b"}\r\n", b"}\n")) and (match := _LITERAL.search(line)):
            self._literal = int(match[1])
            self._pass(line)
            if match[2]:
                self._begin_literal()
        elif not self._tag:
            self._outgoing += line  # an empty line, which gets no answer
        else:
            self._pass(line)

    def _begin_literal(self) -> None:
        self.state, self._is_continued = State.BODY, True
        if not self._literal:
            self.state = State.COMMAND

    def _on_body(self) -> bool:
        if self._held:
            return self._hold_literal()
        self._literal -= self._take_body(self._literal)
        if not self._literal:
            self.state = State.COMMAND
        return not self._literal

    def _hold_literal(self) -> bool:
        count = self._literal
        if len(self._data) < count:
            return False
        self._held += bytes(self._data[:count])
        del self._data[:count]
        self._literal, self.state = 0, State.COMMAND
        return True

    def _on_id(self, line: bytes) -> None:
        """Hold an ID command until it is complete, then pass it on without reserved fields."""
        self._held += line
        match = _LITERAL.search(line)
        if match and match[2]:
            self._literal = int(match[1])
            if len(self._held) + self._literal > LINE_MAX:
                self._close("an ID command is too long")
            else:
                self._begin_literal()
            return
        command, self._held = self._held, b""
        self._pass(self._filtered(command))
        if self.failure:
            self.state = State.CLOSED

    def _filtered(self, command: bytes) -> bytes:
        """Return an ID command without reserved fields, or one that the server refuses."""
        fields = _fields(command)
        if fields is None:
            return self._tag + b" " + REPLACEMENT + b"\r\n"
        kept = [pair for pair in fields if not _RESERVED.match(pair[0])]
        for name, value in fields:
            if name.lower() == _TTL and self._ttl is not None:
                theirs = int(value) - 1 if value is not None and value.isdigit() else 0
                self._ttl = min(self._ttl, theirs)
                if self._ttl <= 0:
                    self.failure = "the session has passed too many proxies: x-proxy-ttl is 0"
                    return b""
                kept.append((_TTL, b"%d" % self._ttl))
        if not kept:
            return self._tag + b" ID NIL\r\n"
        words = b" ".join(_quoted(name) + b" " + _quoted(value) for name, value in kept)
        return self._tag + b" ID (" + words + b")\r\n"

    def _on_answer(self, line: bytes) -> None:
        if line.startswith(b"+") and self.state is State.ANSWER:
            if self._literal:
                self._begin_literal()
            else:
                self.state = State.LINE
            return
        tag, _, rest = line.partition(b" ")
        if self.state is not State.ANSWER or (tag != self._tag and line[:5].upper() != b"* BAD"):
            return  # untagged, or unasked; BAD answers a line whose tag the server could not read
        is_ok = tag == self._tag and rest[:2].upper() == b"OK"
        if is_ok and self._verb in _LOGINS:
            self.state = State.OPEN
        elif is_ok and self._verb == b"STARTTLS":
            self._start_tls()
        else:
            self.state, self._literal, self._is_continued = State.COMMAND, 0, False

    def _ends_greeting(self, line: bytes) -> bool:
        if line[:9].upper() == b"* PREAUTH":
            self.state = State.OPEN
        return not self.is_open

    def _literal_bytes(self, line: bytes) -> int | None:
        match = _ANSWER_LITERAL.search(line) if line[:5].upper() == b"* ID " else None
        return match and int(match[1])


def _fields(command: bytes) -> list[tuple[bytes, bytes | None]] | None:
    """Return the fields of an ID command, None if it is none."""
    arguments = command.split(None, 2)[2].rstrip(b"\r\n ") if len(command.split(None, 2)) > 2 else b""
    if arguments.upper() == b"NIL":
        return []
    if not arguments.startswith(b"(") or not arguments.endswith(b")"):
        return None
    strings: list[bytes | None] = []
    offset = 1
    while arguments[offset:].strip(b" ") != b")":
        match = _TOKEN.match(arguments, offset)
        if match is None:
            return None
        offset = match.end()
        if match[3] is not None:
            strings.append(arguments[offset : offset + int(match[3])])
            offset += int(match[3])
        else:
            strings.append(None if match[2] else re.sub(rb"\\(.)", rb"\1", match[1]))
    names, values = strings[::2], strings[1::2]
    if len(names) != len(values) or None in names:
        return None
    return [(name, value) for name, value in zip(names, values, strict=True) if name is not None]


def _quoted(value: bytes | None) -> bytes:
    if value is None:
        return b"NIL"
    # Line ends and zero bytes are allowed in literals only.
    clean = value.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
    return b'"' + clean.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
