"""The POP3 of health checks: greeting, CAPA, STLS, QUIT (RFC 1939, 2449, 2595)."""

from __future__ import annotations

from typing import ClassVar

from mailproxy.protocol.capabilities import by_name
from mailproxy.protocol.checks.mail import TABLE, Action, Answer, MailCheck, State, Table, Verdict
from mailproxy.protocol.checks.result import excerpt

# Bytes of a line: twice the 512 that RFC 2449 section 4 allows. The greeting of Exchange is the
# administrator's to write, and has the encoded name of the server appended.
LINE_MAX = 1024


class Pop3Check(MailCheck):
    """The check of a POP3 server.

    Servers without CAPA pass: qmail-pop3d and others from the time of RFC 1939 answer -ERR. They have no
    STLS.
    """

    NAME = "POP3"
    LINE_MAX = LINE_MAX
    ASK = b"CAPA"
    STARTTLS = b"STLS"
    LOGOUT = b"QUIT"
    TABLE: ClassVar[Table] = {**TABLE, (State.CAPABILITIES, Verdict.NO): Action.GO_ON}

    def __init__(self, *, starttls: bool = False) -> None:
        super().__init__(starttls=starttls)
        self._list: list[tuple[str, ...]] | None = None  # the lines so far of the answer to CAPA
        self._greeted_with: list[tuple[str, ...]] = []
        self._ok_text = ""

    def _read(self, line: bytes) -> Answer | None:
        if self._list is not None:
            return self._listed(self._list, line)
        word = line.partition(b" ")[0]
        if word not in (b"+OK", b"-ERR"):  # always in upper case (RFC 1939 section 3)
            raise self._invalid(line)
        if word == b"+OK" and self.state is State.CAPABILITIES:
            self._list, self._ok_text = list(self._greeted_with), excerpt(line)
            return None
        if self.state is State.GREETING and b"[XCLIENT]" in line:
            self._greeted_with = [("XCLIENT",)]  # Dovecot's, for those whose XCLIENT it takes
        return Answer(verdict=Verdict.YES if word == b"+OK" else Verdict.NO, text=excerpt(line))

    def _listed(self, names: list[tuple[str, ...]], line: bytes) -> Answer | None:
        """Read a line of the list. A lone dot ends it, and any other leading dot is doubled (RFC 1939 section 3)."""
        if line != b".":
            words = line.removeprefix(b".").decode("ascii", "replace").split()
            names.extend([tuple(words)] if words else [])
            return None
        self._list = None
        return Answer(verdict=Verdict.YES, text=self._ok_text, capabilities=by_name(names))
