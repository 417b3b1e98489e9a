"""The ManageSieve of the opening: greeting with capabilities, STARTTLS, XCLIENT (RFC 5804)."""

from __future__ import annotations

import re
from typing import ClassVar

from mailproxy.protocol.checks.sieve import LINE_MAX
from mailproxy.protocol.opening.identity import Identity, xclient_arguments
from mailproxy.protocol.opening.opening import Answer, Opening, State, Verdict, invalid

_LITERAL = re.compile(rb"(?:\A|[ (])\{(\d{1,9})\}\Z")
_NAME = re.compile(rb'"([!#-\[\]-~]+)"(?: |\Z)')
_VERDICTS = {b"OK": Verdict.YES, b"NO": Verdict.NO, b"BYE": Verdict.BYE}
_ATTRIBUTES = ("ADDR", "PORT", "DESTADDR", "DESTPORT", "SESSION", "TTL")  # Dovecot's, as unquoted words


class SieveOpening(Opening):
    """The opening with a ManageSieve server, which lists its capabilities unasked: greeting, and after TLS."""

    LINE_MAX: ClassVar[int] = LINE_MAX

    def __init__(
        self,
        *,
        starttls: bool = False,
        identity: Identity | None = None,
        hello: bytes = b"",
        name: str = "localhost",
    ) -> None:
        super().__init__(starttls=starttls, identity=identity, hello=hello, name=name)
        self._names: dict[str, tuple[str, ...]] = {}

    def _read(self, line: bytes) -> Answer | None:
        is_list = self.state in (State.GREETING, State.NEW_CAPABILITIES)
        if match := _NAME.match(line):
            if not is_list:
                raise invalid(line)
            self._names[match[1].upper().decode("ascii")] = ()
            return None
        word = re.split(rb"[ (]", line, maxsplit=1)[0].upper()
        if word not in _VERDICTS:
            raise invalid(line)
        names, self._names = self._names, {}
        if is_list and word == b"OK" and not names:
            raise invalid(b"no list before " + line)
        return Answer(_VERDICTS[word], line, names)

    def _literal_bytes(self, line: bytes) -> int | None:
        match = _LITERAL.search(line)
        return match and int(match[1])

    def _ask(self) -> None:
        self._send_starttls()

    def _go_on_over_tls(self) -> None:
        # Without an identity the list that follows is the client's: it is the server's greeting, over TLS.
        if self._identity is not None:
            self.state = State.NEW_CAPABILITIES
        else:
            super()._go_on_over_tls()

    def _prepare_identity(self) -> None:
        self._identify()

    def _identify(self) -> None:
        self.greeting = self.greeting or self._raw
        super()._identify()

    def _identity_command(self, identity: Identity) -> bytes:
        if "XCLIENT" not in self.capabilities:
            return b""
        return b"XCLIENT " + xclient_arguments(identity, _ATTRIBUTES, has_prefix=False)
