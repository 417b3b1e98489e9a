"""The opening of each protocol, by the protocol's name in the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from mailproxy.protocol.opening.imap import ImapOpening
from mailproxy.protocol.opening.opening import Opening
from mailproxy.protocol.opening.pop3 import Pop3Opening
from mailproxy.protocol.opening.sieve import SieveOpening
from mailproxy.protocol.opening.smtp import LmtpOpening, SmtpOpening

OPENINGS: Mapping[str, type[Opening]] = {
    "imap": ImapOpening,
    "pop3": Pop3Opening,
    "smtp": SmtpOpening,
    "submission": SmtpOpening,
    "lmtp": LmtpOpening,
    "sieve": SieveOpening,
}
