"""Capabilities of servers, and whether clients can log in with them."""

from __future__ import annotations

import pytest

from mailproxy.protocol.capabilities import login_obstacle
from mailproxy.protocol.checks.mail import MailCheck
from mailproxy.protocol.checks.registry import DIALOGUES

SIEVE = b'"IMPLEMENTATION" "Dovecot"\r\n"SIEVE" "fileinto"\r\n'


def run_dialogue(protocol: str, *answers: bytes) -> MailCheck:
    dialogue = DIALOGUES[protocol]()
    dialogue.start()
    for answer in answers:
        dialogue.receive(answer)
    assert dialogue.failure is None
    return dialogue


def imap(words: bytes) -> list[bytes]:
    return [b"* OK\r\n", b"* CAPABILITY IMAP4rev1 %b\r\na1 OK\r\n" % words]


def pop3(*lines: bytes, greeting: bytes = b"+OK ready") -> list[bytes]:
    return [greeting + b"\r\n", b"\r\n".join([b"+OK", *lines, b".", b""])]


def smtp(*lines: bytes) -> list[bytes]:
    return [b"220 hi\r\n", b"".join(b"250-%b\r\n" % line for line in (b"me", *lines)) + b"250 8BITMIME\r\n"]


CASES = [
    ("imap", imap(b"STARTTLS LOGINDISABLED"), "announces LOGINDISABLED"),
    ("imap", imap(b"STARTTLS LOGINDISABLED AUTH=NTLM AUTH=GSSAPI"), "announces LOGINDISABLED"),
    ("imap", imap(b"LOGINDISABLED AUTH=PLAIN"), None),
    ("imap", imap(b"LOGINDISABLED AUTH=SCRAM-SHA-256"), None),
    ("imap", imap(b"STARTTLS"), None),
    ("pop3", pop3(b"STLS", b"SASL"), "announces neither USER nor a SASL mechanism for passwords"),
    ("pop3", pop3(b"STLS"), "announces neither USER nor a SASL mechanism for passwords"),
    ("pop3", pop3(b"USER"), None),
    ("pop3", pop3(b"SASL PLAIN LOGIN"), None),
    ("pop3", pop3(b"STLS", greeting=b"+OK <1.2@mail.example>"), None),
    ("pop3", [b"+OK ready\r\n", b"-ERR what?\r\n"], None),
    ("submission", smtp(b"STARTTLS"), "announces STARTTLS but no AUTH"),
    ("submission", smtp(b"SIZE 100"), "announces no AUTH"),
    ("submission", smtp(b"AUTH PLAIN LOGIN"), None),
    ("submission", smtp(b"AUTH=PLAIN LOGIN"), None),
    ("submission", [b"220 hi\r\n", b"502 what?\r\n", b"250 me\r\n"], None),
    ("smtp", smtp(b"STARTTLS"), None),
    ("lmtp", smtp(b"STARTTLS"), None),
    ("sieve", [SIEVE + b'"SASL" ""\r\n"STARTTLS"\r\nOK\r\n'], "announces no SASL mechanism"),
    ("sieve", [SIEVE + b'"STARTTLS"\r\nOK\r\n'], "announces no SASL mechanism"),
    ("sieve", [SIEVE + b'"SASL" "PLAIN LOGIN"\r\nOK\r\n'], None),
    ("sieve", [SIEVE + b'"SASL" {5}\r\nPLAIN\r\nOK\r\n'], None),
]


@pytest.mark.parametrize(("protocol", "answers", "obstacle"), CASES)
def test_login_obstacle_follows_the_capabilities(
    protocol: str, answers: list[bytes], obstacle: str | None
) -> None:
    dialogue = run_dialogue(protocol, *answers)
    assert login_obstacle(protocol, dialogue.capabilities, dialogue.greeting) == obstacle


def test_mechanisms_are_read_in_each_protocol() -> None:
    for protocol, answers in (
        ("imap", imap(b"AUTH=PLAIN AUTH=LOGIN")),
        ("pop3", pop3(b"SASL plain login")),
        ("submission", smtp(b"AUTH PLAIN", b"AUTH=PLAIN LOGIN")),
        ("sieve", [SIEVE + b'"SASL" "PLAIN LOGIN"\r\nOK\r\n']),
    ):
        assert run_dialogue(protocol, *answers).capabilities.mechanisms == {"PLAIN", "LOGIN"}, protocol
