"""What a client is sent when the proxy ends its session: one line in its protocol.

A refusal comes in place of a greeting, or of an answer. A goodbye comes unasked, where the server's last
response is complete. Both have the same words, with a code that says what a client should do:

===========  ========================  ==================  =======================  ====================
meaning      IMAP (RFC 5530)           POP3 (RFC 3206)     SMTP, LMTP (RFC 3463)    ManageSieve (5804)
===========  ========================  ==================  =======================  ====================
UNAVAILABLE  ``* BYE [UNAVAILABLE]``   -ERR [SYS/TEMP]     421 4.3.2                BYE (TRYLATER)
LIMIT        ``* BYE [LIMIT]``         -ERR [SYS/TEMP]     421 4.7.0                BYE (TRYLATER)
IDLE         ``* BYE``                 nothing             421 4.4.2                BYE
DENIED       ``* BYE``                 -ERR [SYS/PERM]     421 4.7.0                BYE
===========  ========================  ==================  =======================  ====================

POP3 has no word for the end of an idle session: the server closes the connection without one (RFC 1939 section
3). SMTP servers give 421 at any time, also in place of a greeting (RFC 5321 section 3.8 and 4.2.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Meaning(Enum):
    """What the client should make of the end."""

    UNAVAILABLE = "Service is unavailable, try again later."
    LIMIT = "Too many connections, try again later."
    IDLE = "Idle for too long."
    DENIED = "Access is denied."


_CODES: Mapping[str, Mapping[Meaning, str]] = {
    "imap": {
        Meaning.UNAVAILABLE: "* BYE [UNAVAILABLE]",
        Meaning.LIMIT: "* BYE [LIMIT]",
        Meaning.IDLE: "* BYE",
        Meaning.DENIED: "* BYE",
    },
    "pop3": {
        Meaning.UNAVAILABLE: "-ERR [SYS/TEMP]",
        Meaning.LIMIT: "-ERR [SYS/TEMP]",
        Meaning.DENIED: "-ERR [SYS/PERM]",
    },
    "smtp": {
        Meaning.UNAVAILABLE: "421 4.3.2",
        Meaning.LIMIT: "421 4.7.0",
        Meaning.IDLE: "421 4.4.2",
        Meaning.DENIED: "421 4.7.0",
    },
    "sieve": {
        Meaning.UNAVAILABLE: "BYE (TRYLATER)",
        Meaning.LIMIT: "BYE (TRYLATER)",
        Meaning.IDLE: "BYE",
        Meaning.DENIED: "BYE",
    },
}
_SAME_AS_SMTP = ("submission", "lmtp")


def last_words(protocol: str, meaning: Meaning, text: str | None = None) -> bytes:
    """Return the line for a client whose session ends.

    Args:
        protocol: The protocol by its name in the configuration.
        meaning: Why it ends.
        text: What follows the code, None for the usual text.

    Returns:
        Empty where the protocol has no words for it.
    """
    code = _CODES.get("smtp" if protocol in _SAME_AS_SMTP else protocol, {}).get(meaning)
    if code is None:
        return b""
    words = text or meaning.value
    if protocol == "sieve":
        words = '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{code} {words}\r\n".encode("ascii", "replace")
