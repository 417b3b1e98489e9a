"""The POP3 of the opening: greeting, STLS, XCLIENT (RFC 1939, 2449, 2595)."""

from __future__ import annotations

from typing import ClassVar

from mailproxy.protocol.checks.pop3 import LINE_MAX
from mailproxy.protocol.opening.identity import Identity, xclient_arguments
from mailproxy.protocol.opening.opening import Answer, Opening, State, Verdict, invalid

_ATTRIBUTES = ("ADDR", "PORT", "DESTADDR", "DESTPORT", "SESSION", "TTL")  # Dovecot's


class Pop3Opening(Opening):
    """The opening with a POP3 server. Dovecot offers XCLIENT as ``[XCLIENT]`` in its greeting."""

    LINE_MAX: ClassVar[int] = LINE_MAX
    STARTTLS: ClassVar[bytes] = b"STLS"
    _list: dict[str, tuple[str, ...]] | None = None
    _offers_xclient = False

    def _read(self, line: bytes) -> Answer | None:
        if self._list is not None:
            return self._listed(self._list, line)
        word = line.partition(b" ")[0]
        if word not in (b"+OK", b"-ERR"):
            raise invalid(line)
        if self.state is State.GREETING:
            self._offers_xclient = b"[XCLIENT]" in line
        if word == b"+OK" and self.state in (State.CAPABILITIES, State.NEW_CAPABILITIES):
            self._list = {}
            return None
        return Answer(Verdict.YES if word == b"+OK" else Verdict.NO, line)

    def _listed(self, names: dict[str, tuple[str, ...]], line: bytes) -> Answer | None:
        if line != b".":
            name, *words = line.removeprefix(b".").upper().decode("ascii", "replace").split() or [""]
            names[name] = tuple(words)
            return None
        self._list = None
        return Answer(Verdict.YES, line, names)

    def _ask(self) -> None:
        self._send(b"CAPA", State.CAPABILITIES)

    def _prepare_identity(self) -> None:
        # The greeting was in clear text if the connection was upgraded, so its word does not count now.
        if self.greeting:
            self._identify()
        else:
            self._send(b"CAPA", State.NEW_CAPABILITIES)

    def _identity_command(self, identity: Identity) -> bytes:
        # Dovecot's CAPA has no XCLIENT, also where it takes the command. It answers -ERR where it does not.
        if self.greeting and not self._offers_xclient:
            return b""
        return b"XCLIENT " + xclient_arguments(identity, _ATTRIBUTES, has_prefix=False)
