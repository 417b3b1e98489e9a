"""The client's role towards servers: STARTTLS, identity, and what a server must not do, at every split."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import ndiff
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.protocol.lines import ANSWER_MAX
from mailproxy.protocol.opening.identity import Identity
from mailproxy.protocol.opening.opening import TABLE, Opening, State, Verdict
from mailproxy.protocol.opening.registry import OPENINGS
from tests.support.protocol.check_transcripts import Cut, byte_by_byte, in_one_piece

V6 = Identity(address=("2001:db8::1", 4711), destination=("2001:db8::2", 143), session="17")
V4 = Identity(address=("192.0.2.1", 4711), destination=None, session="17", ttl=3)

ID = 'ID ("x-session-id" "17" "x-originating-ip" "192.0.2.1" "x-originating-port" "4711" "x-proxy-ttl" "3")'

DIALOGUES: dict[str, tuple[str, dict[str, Any], str]] = {
    "IMAP, greeting is swallowed": ("imap", {}, "S: * OK [CAPABILITY IMAP4rev1] hi\n= READY"),
    "IMAP, STARTTLS": (
        "imap",
        {"starttls": True},
        """
S: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi
C: p1 CAPABILITY
S: * CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED
S: p1 OK done
C: p2 STARTTLS
S: * OK untagged and never shown
S: p2 OK go
(TLS)
= READY
""",
    ),
    "IMAP, STARTTLS and ID": (
        "imap",
        {"starttls": True, "identity": V4},
        f"""
S: * OK hi
C: p1 CAPABILITY
S: * CAPABILITY IMAP4rev1 STARTTLS
S: p1 OK done
C: p2 STARTTLS
S: p2 OK go
(TLS)
C: p3 {ID}
S: * ID ("name" {{7}}
S: Dovecot)
S: p3 OK ID completed.
= READY, identified
""",
    ),
    "IMAP, no ID": (
        "imap",
        {"identity": V4},
        f"S: * OK hi\nC: p1 {ID}\nS: p1 BAD what\n= READY, not identified",
    ),
    "IMAP, STARTTLS is not offered": (
        "imap",
        {"starttls": True},
        """
S: * OK [CAPABILITY STARTTLS] hi
C: p1 CAPABILITY
S: * CAPABILITY IMAP4rev1
S: p1 OK done
= STARTTLS is not offered
""",
    ),
    "IMAP, PREAUTH": (
        "imap",
        {"starttls": True},
        "S: * PREAUTH hi\n= the greeting: unexpected line: * PREAUTH hi",
    ),
    "IMAP, BYE": ("imap", {}, "S: * BYE full\n= the greeting is: * BYE full"),
    "IMAP, refuses STARTTLS": (
        "imap",
        {"starttls": True},
        """
S: * OK hi
C: p1 CAPABILITY
S: * CAPABILITY STARTTLS
S: p1 OK done
C: p2 STARTTLS
S: p2 NO not now
= the answer to STARTTLS is: p2 NO not now
""",
    ),
    "POP3, XCLIENT": (
        "pop3",
        {"identity": V6},
        """
S: +OK [XCLIENT] Dovecot ready.
C: XCLIENT ADDR=2001:db8::1 PORT=4711 SESSION=17 TTL=5 DESTADDR=2001:db8::2 DESTPORT=143
S: +OK Updated
= READY, identified
""",
    ),
    "POP3, XCLIENT is not offered": ("pop3", {"identity": V4}, "S: +OK ready.\n= READY, not identified"),
    "POP3, STLS": (
        "pop3",
        {"starttls": True},
        "S: +OK ready.\nC: CAPA\nS: +OK\nS: STLS\nS: UIDL\nS: .\nC: STLS\nS: +OK go\n(TLS)\n= READY",
    ),
    "POP3, refuses": ("pop3", {}, "S: -ERR [SYS/TEMP] later\n= the greeting is: -ERR [SYS/TEMP] later"),
    "SMTP, joined in clear": (
        "smtp",
        {"hello": b"EHLO client.example"},
        """
S: 220-mx.example wait
S: 220 mx.example ESMTP
C: EHLO client.example
S: 250-mx.example
S: 250 SIZE
= READY
""",
    ),
    "SMTP, XCLIENT": (
        "submission",
        {"identity": V6, "hello": b"EHLO client.example", "name": "proxy.example"},
        """
S: 220 mx.example ESMTP
C: EHLO proxy.example
S: 250-mx.example
S: 250-XCLIENT NAME ADDR PORT DESTADDR
S: 250 SIZE
C: XCLIENT ADDR=IPV6:2001:db8::1 PORT=4711 NAME=[UNAVAILABLE] DESTADDR=IPV6:2001:db8::2
S: 220 mx.example ESMTP again
C: EHLO client.example
S: 250 mx.example
= READY, identified
""",
    ),
    "SMTP, STARTTLS": (
        "smtp",
        {"starttls": True},
        """
S: 220 mx.example ESMTP
C: EHLO localhost
S: 250-mx.example
S: 250 STARTTLS
C: STARTTLS
S: 220 2.0.0 go
(TLS)
= READY
""",
    ),
    "SMTP, STARTTLS and XCLIENT, which was offered in clear only": (
        "smtp",
        {"starttls": True, "identity": V4},
        """
S: 220 mx.example ESMTP
C: EHLO localhost
S: 250-mx.example
S: 250-XCLIENT ADDR
S: 250 STARTTLS
C: STARTTLS
S: 220 2.0.0 go
(TLS)
C: EHLO localhost
S: 250 mx.example
= READY, not identified
""",
    ),
    "SMTP, closes": ("smtp", {}, "S: 421 4.3.2 later\n= the greeting is: 421 4.3.2 later"),
    "LMTP, XCLIENT": (
        "lmtp",
        {"identity": V4},
        """
S: 220 mx.example Dovecot
C: LHLO localhost
S: 250-mx.example
S: 250 XCLIENT ADDR TTL
C: XCLIENT ADDR=192.0.2.1 TTL=3
S: 220 mx.example Dovecot
= READY, identified
""",
    ),
    "ManageSieve, XCLIENT": (
        "sieve",
        {"identity": V4},
        """
S: "IMPLEMENTATION" "Dovecot"
S: "XCLIENT"
S: OK "ready."
C: XCLIENT ADDR=192.0.2.1 PORT=4711 SESSION=17 TTL=3
S: OK "Updated"
= READY, identified
""",
    ),
    "ManageSieve, STARTTLS and XCLIENT": (
        "sieve",
        {"starttls": True, "identity": V4},
        """
S: "IMPLEMENTATION" "Dovecot"
S: "STARTTLS"
S: OK "ready."
C: STARTTLS
S: OK "go"
(TLS)
S: "IMPLEMENTATION" "Dovecot"
S: "XCLIENT"
S: OK "ready."
C: XCLIENT ADDR=192.0.2.1 PORT=4711 SESSION=17 TTL=3
S: OK "Updated"
= READY, identified
""",
    ),
}


def run(opening: Opening, transcript: str, cut: Cut) -> None:
    """Fail with a diff unless the opening is as in the transcript."""
    expected = [line for line in transcript.splitlines() if line]
    actual = list(_run(opening, expected, cut))
    if actual != expected:
        pytest.fail("\n".join(ndiff(expected, actual)))


def _run(opening: Opening, expected: list[str], cut: Cut) -> Iterable[str]:
    yield from _sent(opening.start())
    for is_server, group in groupby(expected, lambda line: line.startswith("S: ")):
        lines = list(group)
        if is_server:
            yield from lines
            data = b"".join(line.removeprefix("S: ").encode() + b"\r\n" for line in lines)
            yield from _sent(b"".join([opening.receive(piece) for piece in cut(data)]))
        if "(TLS)" in lines and opening.wants_tls:
            yield "(TLS)"
            yield from _sent(opening.tls_started())
    word = {None: "", True: ", identified", False: ", not identified"}[opening.is_identified]
    yield f"= {opening.failure or opening.state.name + word}"


def _sent(data: bytes) -> Iterable[str]:
    lines = data.decode("latin-1").split("\r\n")
    assert lines.pop() == "", "every command ends with CRLF"
    return [f"C: {line}" for line in lines]


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte], ids=["whole", "byte by byte"])
def test_dialogue_with_a_server(name: str, cut: Cut) -> None:
    protocol, options, transcript = DIALOGUES[name]
    run(OPENINGS[protocol](**options), transcript, cut)


def test_what_was_listed_in_clear_is_forgotten_over_tls() -> None:
    opening = OPENINGS["imap"](starttls=True)
    run(opening, DIALOGUES["IMAP, STARTTLS"][2], in_one_piece)
    assert not opening.capabilities
    assert not opening.greeting


def test_last_greeting_is_kept_for_a_client_that_has_had_none() -> None:
    opening = OPENINGS["lmtp"](identity=V4)
    run(opening, DIALOGUES["LMTP, XCLIENT"][2], in_one_piece)
    assert opening.greeting == b"220 mx.example Dovecot\r\n"
    opening = OPENINGS["sieve"](starttls=True, identity=V4)
    run(opening, DIALOGUES["ManageSieve, STARTTLS and XCLIENT"][2], in_one_piece)
    assert opening.greeting == b'"IMPLEMENTATION" "Dovecot"\r\n"XCLIENT"\r\nOK "ready."\r\n'


UPGRADES = {
    "imap": [b"* OK hi\r\n", b"* CAPABILITY STARTTLS\r\np1 OK\r\n", b"p2 OK go\r\n"],
    "pop3": [b"+OK hi\r\n", b"+OK\r\nSTLS\r\n.\r\n", b"+OK go\r\n"],
    "smtp": [b"220 hi\r\n", b"250-hi\r\n250 STARTTLS\r\n", b"220 go\r\n"],
    "lmtp": [b"220 hi\r\n", b"250-hi\r\n250 STARTTLS\r\n", b"220 go\r\n"],
    "sieve": [b'"STARTTLS"\r\nOK\r\n', b"OK\r\n"],
}
INJECTED = {
    "imap": b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n",
    "pop3": b"+OK\r\n",
    "smtp": b"250 AUTH PLAIN\r\n",
    "lmtp": b"250 AUTH PLAIN\r\n",
    "sieve": b'"SASL" "PLAIN"\r\nOK\r\n',
}


@pytest.mark.parametrize("protocol", UPGRADES)
def test_bytes_behind_an_answer_end_the_opening(protocol: str) -> None:
    """Bytes that come with an answer, or behind the last one. In IMAP, untagged lines are read away earlier."""
    for number, answer in enumerate(UPGRADES[protocol]):
        opening = OPENINGS[protocol](starttls=True)
        for before in UPGRADES[protocol][:number]:
            opening.receive(before)
        opening.receive(answer + INJECTED[protocol])
        assert opening.state is State.FAILED, number


@pytest.mark.parametrize("protocol", UPGRADES)
def test_bytes_between_the_last_answer_and_tls_end_the_opening(protocol: str) -> None:
    data = b"".join([UPGRADES[protocol][-1], INJECTED[protocol]])
    for cut in range(1, len(data)):
        opening = OPENINGS[protocol](starttls=True)
        for before in UPGRADES[protocol][:-1]:
            opening.receive(before)
        for piece in (data[:cut], data[cut:]):
            assert not opening.receive(piece)
        assert opening.state is State.FAILED, cut


@pytest.mark.parametrize("protocol", OPENINGS)
def test_closing_server_fails_in_every_state(protocol: str) -> None:
    steps = UPGRADES["smtp" if protocol == "submission" else protocol]
    for count in range(len(steps)):
        opening = OPENINGS[protocol](starttls=True)
        for step in steps[:count]:
            opening.receive(step)
        opening.receive(b"")
        assert "closed the connection" in opening.failure


@pytest.mark.parametrize("protocol", OPENINGS)
def test_endless_answer_fails(protocol: str) -> None:
    opening = OPENINGS[protocol]()
    for _ in range(ANSWER_MAX // 512 + 2):
        opening.receive(b"220-" + b"x" * 508)
    assert opening.failure


@pytest.mark.parametrize(
    "state", [each for each in State if each not in (State.TLS, State.READY, State.FAILED)]
)
@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_in_each_state_has_a_step(state: State, verdict: Verdict) -> None:
    step = TABLE[state, verdict]
    assert (step.name == "FAIL") == (
        verdict is Verdict.BYE
        or (verdict is Verdict.NO and state not in (State.IDENTITY, State.NEW_CAPABILITIES))
    )


@pytest.mark.parametrize("protocol", OPENINGS)
@given(data=st.data())
def test_noise_never_raises_and_never_upgrades(protocol: str, data: st.DataObject) -> None:
    opening = OPENINGS[protocol](starttls=True, identity=V4, hello=b"EHLO x")
    for piece in data.draw(st.lists(st.binary(max_size=60), max_size=8)):
        opening.receive(piece)
    assert not opening.wants_tls
