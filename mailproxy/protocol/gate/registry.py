"""The gate of each protocol, by the protocol's name in the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from mailproxy.protocol.gate.gate import Gate
from mailproxy.protocol.gate.imap import ImapGate
from mailproxy.protocol.gate.line_protocols import LmtpGate, Pop3Gate, SieveGate, SmtpGate

GATES: Mapping[str, type[Gate]] = {
    "imap": ImapGate,
    "pop3": Pop3Gate,
    "smtp": SmtpGate,
    "submission": SmtpGate,
    "lmtp": LmtpGate,
    "sieve": SieveGate,
}
