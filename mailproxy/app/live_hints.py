"""Hints for ``mailproxy check --live``: how common mistakes show in a check, and what to write instead."""

from __future__ import annotations

from mailproxy.config.check_plan import Probe
from mailproxy.protocol.checks.result import CheckCode, CheckResult

_TLS_PORT = "the port may speak TLS from the first byte, and waits for it: give tls then"
_MISSING_HEADER = 'the listener may wait for a PROXY header (Dovecot: haproxy = yes): give send_proxy = "v2-ssl" then, or "v2" to Postfix'
_UNEXPECTED_HEADER = (
    "the listener may have taken the PROXY header for commands: tell the server to expect one, and from this proxy (Dovecot: "
    "haproxy = yes and haproxy_trusted_networks, Postfix: "
    'smtpd_upstream_proxy_protocol = haproxy), or give send_proxy = "none"'
)
_CLEAR_PORT = "the port speaks clear text first: remove tls, or give the port that speaks TLS"

# How Dovecot, Postfix and Exim answer to a PROXY header that they do not expect.
_ANSWERS_TO_HEADER = (
    "Too many invalid",
    "non-SMTP command",
    "syntax error",
    "command unrecognized",
    "Error in IMAP",
)
_IN_PLACE_OF_GREETING = "the greeting"


def hint(result: CheckResult, probe: Probe) -> str:
    """Return what may be wrong if the check of this probe failed with this result; else an empty text."""
    sends_header = probe.send_proxy != "none"
    if result.code is CheckCode.L6RSP and any(
        words in result.info.lower()
        for words in ("wrong version number", "record layer failure", "packet length too long")
    ):
        return _CLEAR_PORT if not sends_header else f"{_CLEAR_PORT}; or {_UNEXPECTED_HEADER}"
    if sends_header and result.code is CheckCode.L4CON and "reset" in result.info.lower():
        return _UNEXPECTED_HEADER
    if sends_header and any(words.lower() in result.info.lower() for words in _ANSWERS_TO_HEADER):
        return _UNEXPECTED_HEADER
    if not result.info.startswith(_IN_PLACE_OF_GREETING) and not result.info.endswith(_IN_PLACE_OF_GREETING):
        return ""
    if result.code is CheckCode.L7TOUT:
        maybe = [_TLS_PORT] if probe.tls is None else []
        maybe += [] if sends_header else [_MISSING_HEADER]
        return "; or ".join(maybe)
    if result.code is CheckCode.L7RSP and "closed" in result.info:
        return _UNEXPECTED_HEADER if sends_header else _MISSING_HEADER
    return ""
