"""The IMAP of the opening: greeting, STARTTLS, ID (RFC 9051, RFC 2971)."""

from __future__ import annotations

import re
from typing import ClassVar

from mailproxy.protocol.checks.imap import LINE_MAX
from mailproxy.protocol.opening.identity import Identity, id_arguments
from mailproxy.protocol.opening.opening import Answer, Opening, State, Verdict, invalid

_VERDICTS = {b"OK": Verdict.YES, b"NO": Verdict.NO, b"BAD": Verdict.NO}
_LITERAL = re.compile(rb"\{(\d{1,9})\}\Z")
_LISTED = re.compile(rb"\* CAPABILITY (.*)", re.IGNORECASE | re.DOTALL)


class ImapOpening(Opening):
    """The opening with an IMAP server. ID is sent unasked: a server without it answers BAD."""

    LINE_MAX: ClassVar[int] = LINE_MAX
    _tag = 0

    def _read(self, line: bytes) -> Answer | None:
        tag, _, rest = line.partition(b" ")
        word = rest.partition(b" ")[0].upper()
        if self.state is State.GREETING:
            if tag == b"*" and word == b"PREAUTH":
                raise invalid(line)  # it would skip STARTTLS (RFC 9051 section 11.1), and log the client in
            if tag != b"*" or word not in (b"OK", b"BYE"):
                raise invalid(line)
            return Answer(Verdict.YES if word == b"OK" else Verdict.BYE, line)
        if tag == b"*":
            if word == b"BYE":
                return Answer(Verdict.BYE, line)
            if (match := _LISTED.fullmatch(line)) and self.state is State.CAPABILITIES:
                names = match[1].upper().decode("ascii", "replace").split()
                self.capabilities = dict.fromkeys(names, ())
            return None  # read, and never shown to the client
        if tag != b"p%d" % self._tag or word not in _VERDICTS:
            raise invalid(line)
        return Answer(_VERDICTS[word], line)

    def _literal_bytes(self, line: bytes) -> int | None:
        # The answer to ID has strings, which may be literals. The text of a status response may end in braces.
        match = _LITERAL.search(line) if line[:5].upper() == b"* ID " else None
        return match and int(match[1])

    def _command(self, words: bytes) -> bytes:
        self._tag += 1
        return b"p%d " % self._tag + super()._command(words)

    def _ask(self) -> None:
        self._send(b"CAPABILITY", State.CAPABILITIES)

    def _prepare_identity(self) -> None:
        self._identify()

    def _identity_command(self, identity: Identity) -> bytes:
        return b"ID " + id_arguments(identity)
