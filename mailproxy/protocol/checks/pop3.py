"""POP3, as far as a health check speaks it: greeting, CAPA, STLS, QUIT (RFC 1939, 2449, 2595)."""

from __future__ import annotations

from typing import ClassVar

from mailproxy.protocol.capabilities import by_name
from mailproxy.protocol.checks.mail import TABLE, Action, Answer, MailCheck, State, Table, Verdict
from mailproxy.protocol.checks.result import printable

# Bytes of a line: RFC 2449 section 4 allows 512. Twice as many, for Exchange's greeting is its administrator's to
# write and has the server's name encoded behind it.
LINE_MAX = 1024


class Pop3Check(MailCheck):
    """Servers without CAPA are fine: qmail-pop3d and others of RFC 1939's time answer -ERR, and need no STLS."""

    NAME = "POP3"
    LINE_MAX = LINE_MAX
    ASK = b"CAPA"
    STARTTLS = b"STLS"
    GOODBYE = b"QUIT"
    TABLE: ClassVar[Table] = {**TABLE, (State.CAPABILITIES, Verdict.NO): Action.GO_ON}

    def __init__(self, *, starttls: bool = False) -> None:
        super().__init__(starttls=starttls)
        self._list: list[tuple[str, ...]] | None = None  # of CAPA's answer, while it comes
        self._said_ok = ""

    def _read(self, line: bytes) -> Answer | None:
        if self._list is not None:
            return self._listed(self._list, line)
        word = line.partition(b" ")[0]
        if word not in (b"+OK", b"-ERR"):  # in upper case (RFC 1939 section 3)
            raise self._no(line)
        if word == b"+OK" and self.state is State.CAPABILITIES:
            self._list, self._said_ok = [], printable(line)
            return None
        return Answer(verdict=Verdict.YES if word == b"+OK" else Verdict.NO, text=printable(line))

    def _listed(self, names: list[tuple[str, ...]], line: bytes) -> Answer | None:
        """A line of the list; a dot alone ends it, and any other dot at the beginning is doubled (RFC 1939 section 3)."""
        if line != b".":
            words = line.removeprefix(b".").upper().decode("ascii", "replace").split()
            names.extend([tuple(words)] if words else [])
            return None
        self._list = None
        return Answer(verdict=Verdict.YES, text=self._said_ok, capabilities=by_name(names))
