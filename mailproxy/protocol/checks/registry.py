"""The dialogue of each protocol, by the protocol's name in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mailproxy.protocol.checks.imap import ImapCheck
from mailproxy.protocol.checks.mail import MailCheck
from mailproxy.protocol.checks.pop3 import Pop3Check
from mailproxy.protocol.checks.sieve import SieveCheck
from mailproxy.protocol.checks.smtp import LmtpCheck, SmtpCheck


class MakeDialogue(Protocol):
    """Makes a new dialogue; ``starttls`` is whether it upgrades the connection to TLS."""

    def __call__(self, *, starttls: bool = False) -> MailCheck: ...


DIALOGUES_WITH_NAME: Mapping[str, type[SmtpCheck]] = {
    "smtp": SmtpCheck,
    "submission": SmtpCheck,
    "lmtp": LmtpCheck,
}
"""The dialogues of protocols in which the client gives its name."""

DIALOGUES: Mapping[str, MakeDialogue] = {
    "imap": ImapCheck,
    "pop3": Pop3Check,
    "smtp": SmtpCheck,
    "submission": SmtpCheck,
    "lmtp": LmtpCheck,
    "sieve": SieveCheck,
}
