"""The server's role before TLS: what is answered, refused and passed on, at every split of the bytes."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.protocol.greeter.announcement import ANNOUNCED_MAX, announced, parse_announcement
from mailproxy.protocol.greeter.commands import LINE_MAX, LITERAL_MAX
from mailproxy.protocol.greeter.greeter import REFUSALS, TOTAL_MAX, Action, Command, Greeter, Outcome, State
from mailproxy.protocol.greeter.registry import GREETERS
from tests.support.protocol.check_transcripts import byte_by_byte, in_one_piece
from tests.support.protocol.greetings import LISTED, Cut, client_bytes, make_greeter, run_greeting, talk

STARTTLS = {
    "imap": b"a STARTTLS\r\n",
    "pop3": b"STLS\r\n",
    "smtp": b"STARTTLS\r\n",
    "submission": b"STARTTLS\r\n",
    "lmtp": b"STARTTLS\r\n",
    "sieve": b"STARTTLS\r\n",
}
HELLO = {"smtp": b"EHLO c\r\n", "submission": b"EHLO c\r\n", "lmtp": b"LHLO c\r\n"}
NOOP = {"imap": b"n NOOP\r\n"}
PROTOCOLS = sorted(GREETERS)

REQUIRED: dict[str, tuple[str, str]] = {
    "IMAP": (
        "imap",
        """
S: * OK [CAPABILITY IMAP4rev1 ID IDLE STARTTLS LOGINDISABLED] ready
C: a1 capability
S: * CAPABILITY IMAP4rev1 ID IDLE STARTTLS LOGINDISABLED
S: a1 OK CAPABILITY completed.
C: a2 ID ("name" "imaplib" "x-originating-ip" "192.0.2.1")
S: * ID NIL
S: a2 OK ID completed.
C: a3 NOOP
S: a3 OK NOOP completed.
C: a4 LOGIN joe {6}
S: a4 NO [PRIVACYREQUIRED] Logins need TLS. Send STARTTLS first.
C: a5 LOGIN {3+}
C: joe secret
S: a5 NO [PRIVACYREQUIRED] Logins need TLS. Send STARTTLS first.
C: a6 AUTHENTICATE PLAIN
S: a6 NO [PRIVACYREQUIRED] Logins need TLS. Send STARTTLS first.
C: a7 SELECT INBOX
S: a7 BAD Not before STARTTLS and a login.
C: a8 XYZZY
S: a8 BAD Unknown command.
C: a9 STARTTLS now
S: a9 BAD Invalid command.
C: +
S: * BAD Invalid tag.
C: b1 STARTTLS
S: b1 OK Begin TLS negotiation now.
= UPGRADE
""",
    ),
    "IMAP, logout": (
        "imap",
        """
S: * OK [CAPABILITY IMAP4rev1 ID IDLE STARTTLS LOGINDISABLED] ready
C: a LOGOUT
S: * BYE Logging out.
S: a OK LOGOUT completed.
= LEFT
""",
    ),
    "POP3": (
        "pop3",
        """
S: +OK ready
C: CAPA
S: +OK Capability list follows.
S: TOP
S: UIDL
S: STLS
S: .
C: NOOP
S: +OK
C: USER joe
S: -ERR Logins need TLS. Send STLS first.
C: AUTH
S: -ERR Logins need TLS. Send STLS first.
C: STAT
S: -ERR Not before STLS and a login.
C: XCLIENT ADDR=192.0.2.1
S: -ERR Only for trusted proxies.
C: GET / HTTP/1.1
S: -ERR Unknown command.
C: stls
S: +OK Begin TLS negotiation now.
= UPGRADE
""",
    ),
    "SMTP": (
        "smtp",
        """
S: 220 mx.example ESMTP ready
C: STARTTLS
S: 503 5.5.1 Say hello first
C: EHLO
S: 501 5.5.4 Invalid command or arguments
C: HELO client.example
S: 250 mx.example
C: EHLO client.example
S: 250-mx.example
S: 250-PIPELINING
S: 250-SIZE 1000
S: 250-CHUNKING
S: 250 STARTTLS
C: NOOP
C: RSET
S: 250 2.0.0 OK
S: 250 2.0.0 OK
C: HELP
S: 502 5.5.1 Command is not available here
C: VRFY joe
S: 502 5.5.1 Command is not available here
C: AUTH PLAIN AGpvZQBqb2U=
S: 530 5.7.0 Must issue a STARTTLS command first
C: MAIL FROM:<joe@example.com>
S: 530 5.7.0 Must issue a STARTTLS command first
C: XFORWARD NAME=spike.example
S: 550 5.7.0 Only for trusted proxies
C: STARTTLS
S: 220 2.0.0 Ready to start TLS
= UPGRADE
""",
    ),
    "LMTP": (
        "lmtp",
        """
S: 220 mx.example LMTP ready
C: EHLO client.example
S: 500 5.5.2 Command is not recognized
C: LHLO client.example
S: 250-mx.example
S: 250-PIPELINING
S: 250-8BITMIME
S: 250 STARTTLS
C: QUIT
S: 221 2.0.0 Bye
= LEFT
""",
    ),
    "ManageSieve": (
        "sieve",
        """
S: "IMPLEMENTATION" "Dovecot"
S: "SIEVE" "fileinto reject"
S: "VERSION" "1.0"
S: "SASL" ""
S: "STARTTLS"
S: OK "ready"
C: CAPABILITY
S: "IMPLEMENTATION" "Dovecot"
S: "SIEVE" "fileinto reject"
S: "VERSION" "1.0"
S: "SASL" ""
S: "STARTTLS"
S: OK "Capability completed."
C: NOOP "STARTTLS-SYNC-42"
S: OK (TAG "STARTTLS-SYNC-42") "Done."
C: AUTHENTICATE "PLAIN" {3+}
C: abc
S: NO (ENCRYPT-NEEDED) "Logins need TLS. Send STARTTLS first."
C: XCLIENT ADDR=192.0.2.1
S: NO "Only for trusted proxies."
C: LISTSCRIPTS
S: NO "Not before STARTTLS and a login."
C: STARTTLS
S: OK "Begin TLS negotiation now."
= UPGRADE
""",
    ),
}

OPTIONAL: dict[str, tuple[str, str]] = {
    "SMTP, mail in clear": (
        "smtp",
        """
S: 220 mx.example ESMTP ready
C: EHLO client.example
S: 250-mx.example
S: 250-PIPELINING
S: 250-SIZE 1000
S: 250-AUTH PLAIN
S: 250-CHUNKING
S: 250 STARTTLS
C: MAIL ...
= JOIN, unread b'MAIL '
""",
    ),
    "IMAP, login in clear": (
        "imap",
        """
S: * OK [CAPABILITY IMAP4rev1 ID IDLE AUTH=PLAIN SASL-IR STARTTLS] ready
C: a NOOP
S: a OK NOOP completed.
C: b LOGIN ...
= JOIN, unread b'b LOGIN '
""",
    ),
    "POP3, a command of the server's own": (
        "pop3",
        """
S: +OK ready
C: XTND
= JOIN, unread b'XTND\\r\\n'
""",
    ),
    "SMTP, a client that poses as a proxy": (
        "smtp",
        """
S: 220 mx.example ESMTP ready
C: EHLO client.example
S: 250-mx.example
S: 250-PIPELINING
S: 250-SIZE 1000
S: 250-AUTH PLAIN
S: 250-CHUNKING
S: 250 STARTTLS
C: XCLIENT ADDR=192.0.2.1
S: 550 5.7.0 Only for trusted proxies
C: STARTTLS
S: 220 2.0.0 Ready to start TLS
= UPGRADE
""",
    ),
}


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte], ids=["whole", "byte by byte"])
def test_client_is_answered_until_it_upgrades(name: str, cut: Cut) -> None:
    protocol, transcript = REQUIRED[name]
    run_greeting(make_greeter(protocol), transcript, cut)


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte], ids=["whole", "byte by byte"])
def test_client_that_need_not_upgrade_is_joined(name: str, cut: Cut) -> None:
    protocol, transcript = OPTIONAL[name]
    run_greeting(make_greeter(protocol, required=False), transcript, cut)


@pytest.mark.parametrize("name", REQUIRED)
def test_every_split_in_two_gives_the_same_answers(name: str) -> None:
    protocol, transcript = REQUIRED[name]
    data = client_bytes(transcript)
    whole = talk(make_greeter(protocol), [data])
    assert whole
    for cut in range(1, len(data)):
        assert talk(make_greeter(protocol), [data[:cut], data[cut:]]) == whole


# Injection


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("required", [True, False], ids=["required", "optional"])
def test_bytes_behind_starttls_are_never_answered(protocol: str, required: bool) -> None:
    for injected in (NOOP.get(protocol, b"NOOP\r\n"), b"\r\n", b"\n", b"\x16\x03\x01", b"x"):
        greeter = make_greeter(protocol, required=required)
        before = HELLO.get(protocol, b"")
        answers = talk(greeter, [before + STARTTLS[protocol] + injected])
        assert greeter.outcome is Outcome.INJECTION
        assert answers == talk(make_greeter(protocol, required=required), [before])
        greeter.receive(injected)
        assert greeter.next_answer() == b""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_starttls_without_cr_does_not_upgrade(protocol: str) -> None:
    greeter = make_greeter(protocol)
    talk(greeter, [HELLO.get(protocol, b"") + STARTTLS[protocol].replace(b"\r\n", b"\n") + b"NOOP\r\n"])
    assert greeter.outcome is None


# Bounds


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_last_bad_command_is_answered(protocol: str) -> None:
    greeter = make_greeter(protocol, max_errors=3)
    answers = [talk(greeter, [b"x XYZZY\r\n"]) for _ in range(3)]
    assert all(answers)
    assert greeter.outcome is Outcome.TOO_MANY_ERRORS
    assert b"Too many errors" in answers[-1]
    assert b"Too many errors" not in answers[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("required", [True, False], ids=["required", "optional"])
def test_endless_line_stays_within_8_kib(protocol: str, required: bool) -> None:
    greeter = make_greeter(protocol, required=required)
    for _ in range(2 * TOTAL_MAX // LINE_MAX):
        talk(greeter, [b"x" * LINE_MAX])
        assert _bytes_held(greeter) < 8192
    assert greeter.outcome in (Outcome.TOO_MANY_ERRORS, Outcome.JOIN)


@pytest.mark.parametrize("protocol", ["imap", "sieve"])
def test_literals_are_dropped_and_bounded(protocol: str) -> None:
    greeter = make_greeter(protocol)
    talk(greeter, [b"x XYZZY {%d+}\r\n" % LITERAL_MAX])
    for _ in range(LITERAL_MAX // 1024):
        talk(greeter, [b"\r\n" * 512])
        assert _bytes_held(greeter) < 4096
    assert talk(greeter, [b"\r\n"])
    assert greeter.errors == 1
    talk(greeter, [b"x XYZZY {%d+}\r\n" % (LITERAL_MAX + 1)])
    assert greeter.outcome is Outcome.TOO_MANY_ERRORS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_line_is_one_error(protocol: str) -> None:
    greeter = make_greeter(protocol)
    talk(greeter, byte_by_byte(b"y" * (3 * LINE_MAX) + b"\r\n"))
    assert greeter.errors == 1
    assert talk(greeter, [NOOP.get(protocol, b"NOOP\r\n")])
    assert greeter.errors == 1


def _bytes_held(greeter: Greeter) -> int:
    return sum(sys.getsizeof(value) for value in (greeter.unread, greeter.hello)) + sys.getsizeof(greeter)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("required", [True, False], ids=["required", "optional"])
@given(data=st.data())
def test_noise_gets_orderly_refusals(protocol: str, required: bool, data: st.DataObject) -> None:
    verbs = [verb.decode() for verb in GREETERS[protocol].VERBS]
    lines = st.builds(
        lambda tag, verb, rest, end: f"{tag}{verb}{rest}{end}".encode("latin-1"),
        st.sampled_from(["", "a ", "b2 ", "* ", " "]),
        st.sampled_from([*verbs, "", "XYZZY"]),
        st.sampled_from(["", " ", " {3+}\r\nabc", " {2}", " x", " \x00", ' "q"']),
        st.sampled_from(["\r\n", "\n", "", "\r"]),
    )
    pieces = data.draw(st.lists(st.one_of(lines, st.binary(max_size=80)), max_size=12))
    greeter = make_greeter(protocol, required=required)
    answers = talk(greeter, pieces)
    assert not answers or answers.endswith(b"\r\n")
    if greeter.outcome is Outcome.JOIN:
        assert b"".join(pieces).find(greeter.unread) >= 0
    assert (greeter.outcome is Outcome.TOO_MANY_ERRORS) <= (greeter.errors >= 0)


# The table


@pytest.mark.parametrize("greeter", list(dict.fromkeys(GREETERS.values())))
def test_each_command_in_each_state_has_an_action(greeter: type[Greeter]) -> None:
    states = {greeter.FIRST, State.READY}
    for state in states:
        for command in {*greeter.VERBS.values(), Command.UNKNOWN, Command.INVALID}:
            action = greeter.TABLE[state, command]
            assert (action in REFUSALS) == (
                command
                in (
                    Command.HELP,
                    Command.LOGIN,
                    Command.OTHER,
                    Command.IDENTITY,
                    Command.UNKNOWN,
                    Command.INVALID,
                )
                or (state is State.GREETED and command is Command.STARTTLS)
            )
    assert {greeter.TABLE[State.READY, command] for command in greeter.VERBS.values()} >= {
        Action.UPGRADE, Action.LOG_OUT, Action.NO_LOGIN, Action.ACCEPT,
    }  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_verb_has_an_answer_in_every_state(protocol: str) -> None:
    for verb in GREETERS[protocol].VERBS:
        for hello in (b"", HELLO.get(protocol, b"")):
            greeter = make_greeter(protocol)
            talk(greeter, [hello])
            line = b"t " + verb if protocol == "imap" else verb
            assert talk(greeter, [line + b"\r\n"]).endswith(b"\r\n")


# What is announced


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_announcement_offers_no_login_before_tls(protocol: str) -> None:
    text = b" ".join(announced(protocol, LISTED[protocol])).replace(b'"SASL" ""', b"")
    assert not any(word in text for word in (b"AUTH", b"SASL", b"USER", b"PLAIN", b"XCLIENT", b"REQUIRETLS"))
    assert (b"STLS" if protocol == "pop3" else b"STARTTLS") in text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_announcement_is_bounded_and_keeps_starttls(protocol: str) -> None:
    lines = announced(protocol, [(f"X{number}", "y" * 50) for number in range(1000)])
    assert sum(len(line) + 2 for line in lines) <= ANNOUNCED_MAX
    assert any(b"STARTTLS" in line or b"STLS" in line for line in lines)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_announcement_has_defaults_without_a_list(protocol: str) -> None:
    assert len(announced(protocol, [])) > 1
    assert announced(protocol, [("BAD\r\nINJECTED",), ("X\x00",)]) == announced(protocol, [])


def test_configured_capabilities_are_words() -> None:
    assert parse_announcement("smtp", "SIZE 1000") == ("SIZE", "1000")
    assert parse_announcement("sieve", "SIEVE fileinto reject") == ("SIEVE", "fileinto reject")
    assert parse_announcement("sieve", "VERSION") == ("VERSION",)
