"""The greeter of each protocol, by the protocol's name in the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from mailproxy.protocol.greeter.greeter import Greeter
from mailproxy.protocol.greeter.imap import ImapGreeter
from mailproxy.protocol.greeter.pop3 import Pop3Greeter
from mailproxy.protocol.greeter.sieve import SieveGreeter
from mailproxy.protocol.greeter.smtp import LmtpGreeter, SmtpGreeter

GREETERS: Mapping[str, type[Greeter]] = {
    "imap": ImapGreeter,
    "pop3": Pop3Greeter,
    "smtp": SmtpGreeter,
    "submission": SmtpGreeter,
    "lmtp": LmtpGreeter,
    "sieve": SieveGreeter,
}
