"""Which dialogue checks which protocol, by the configuration's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mailproxy.protocol.checks.imap import ImapCheck
from mailproxy.protocol.checks.mail import MailCheck
from mailproxy.protocol.checks.pop3 import Pop3Check
from mailproxy.protocol.checks.sieve import SieveCheck
from mailproxy.protocol.checks.smtp import LmtpCheck, SmtpCheck


class MakeDialogue(Protocol):
    """``starttls``: over a clear port that is upgraded."""

    def __call__(self, *, starttls: bool = False) -> MailCheck: ...


SAYING_HELLO: Mapping[str, type[SmtpCheck]] = {
    "smtp": SmtpCheck,
    "submission": SmtpCheck,
    "lmtp": LmtpCheck,
}
"""Those in which the client says its name."""

DIALOGUES: Mapping[str, MakeDialogue] = {
    "imap": ImapCheck,
    "pop3": Pop3Check,
    "smtp": SmtpCheck,
    "submission": SmtpCheck,
    "lmtp": LmtpCheck,
    "sieve": SieveCheck,
}
