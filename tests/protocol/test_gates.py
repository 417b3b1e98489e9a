"""The gate: no word of a proxy from a client that has not logged in, in any split, pipelined or in literals."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.protocol.gate.gate import LINE_MAX, REPLACEMENT, Fault, Gate, State
from mailproxy.protocol.gate.registry import GATES
from tests.support.protocol.check_transcripts import Cut, byte_by_byte, in_one_piece

SPOOF = b"192.0.2.66"

# The client's bytes, and what the server answers to each line that it gets. "S" is what it must have got.
DIALOGUES: dict[str, tuple[str, bytes, list[bytes], bytes]] = {
    "IMAP, login": (
        "imap",
        b'a NOOP\r\nb LOGIN joe secret\r\nc ID ("x-originating-ip" "192.0.2.66")\r\n',
        [b"a OK\r\n", b"b OK in\r\n"],
        # after the login, the server reads what the client sends
        b'a NOOP\r\nb LOGIN joe secret\r\nc ID ("x-originating-ip" "192.0.2.66")\r\n',
    ),
    "IMAP, failed login": (
        "imap",
        b'b LOGIN joe wrong\r\nb ID ("name" "x" "X-Originating-IP" "192.0.2.66" "os" NIL)\r\nb NOOP\r\n',
        [b"b NO\r\n", b"b OK\r\n", b"b OK\r\n"],
        b'b LOGIN joe wrong\r\nb ID ("name" "x" "os" NIL)\r\nb NOOP\r\n',
    ),
    "IMAP, literal that waits": (
        "imap",
        b'a LOGIN {3}\r\njoe {6}\r\nsecret\r\nb ID ("x-originating-ip" "192.0.2.66")\r\n',
        [b"+ go\r\n", b"+ go\r\n", b"a NO\r\n", b"* ID NIL\r\nb OK\r\n"],
        b"a LOGIN {3}\r\njoe {6}\r\nsecret\r\nb ID NIL\r\n",
    ),
    "IMAP, literal that the server refuses": (
        "imap",
        b'a LOGIN {99}\r\nb ID ("x-originating-ip" "192.0.2.66")\r\n',
        [b"a BAD too long\r\n", b"b OK\r\n"],
        b"a LOGIN {99}\r\nb ID NIL\r\n",
    ),
    "IMAP, fields in literals": (
        "imap",
        b'a ID ("x-originating-ip" {10+}\r\n192.0.2.66 "name" {2+}\r\nmy)\r\n',
        [b"a OK\r\n"],
        b'a ID ("name" "my")\r\n',
    ),
    "IMAP, fields in a literal that waits": (
        "imap",
        b'a ID ("x-originating-ip" {10}\r\n',
        [b"a BAD\r\n"],
        b"a " + REPLACEMENT + b"\r\n",
    ),
    "IMAP, challenge": (
        "imap",
        b'a AUTHENTICATE PLAIN\r\nb LOGIN x y\r\nb ID ("x-session-id" "192.0.2.66")\r\nb NOOP\r\n',
        [b"+ \r\n", b"a NO\r\n", b"b OK\r\n", b"b OK\r\n"],
        b"a AUTHENTICATE PLAIN\r\nb LOGIN x y\r\nb ID NIL\r\nb NOOP\r\n",
    ),
    "POP3": (
        "pop3",
        b"XCLIENT ADDR=192.0.2.66\r\nCAPA\r\nUSER joe\r\nPASS x\r\nxclient ADDR=192.0.2.66\r\nPASS y\r\nSTAT\r\n",
        [b"-ERR\r\n", b"+OK\r\nUSER\r\n.\r\n", b"+OK\r\n", b"-ERR\r\n", b"-ERR\r\n", b"+OK in\r\n"],
        b"X-REFUSED\r\nCAPA\r\nUSER joe\r\nPASS x\r\nX-REFUSED\r\nPASS y\r\nSTAT\r\n",
    ),
    "SMTP, mail": (
        "smtp",
        b"MAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\nXCLIENT in the text\r\n..\r\n.\r\nXFORWARD ADDR=192.0.2.66\r\nQUIT\r\n",
        [
            b"250 ok\r\n",
            b"250 ok\r\n",
            b"354 go\r\n",
            b"",
            b"",
            b"250 queued\r\n",
            b"500 what\r\n",
            b"221 bye\r\n",
        ],
        b"MAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\nXCLIENT in the text\r\n..\r\n.\r\nX-REFUSED\r\nQUIT\r\n",
    ),
    "SMTP, mail that is refused": (
        "smtp",
        b"DATA\r\nXCLIENT ADDR=192.0.2.66\r\n.\r\n",
        [b"503 no\r\n", b"500 what\r\n", b"500 what\r\n"],
        b"DATA\r\nX-REFUSED\r\n.\r\n",
    ),
    "SMTP, chunks": (
        "smtp",
        b"BDAT 9\r\nXCLIENT\r\nXCLIENT ADDR=192.0.2.66\r\nBDAT 0 LAST\r\n",
        [b"", b"250 9\r\n", b"500 what\r\n", b"250 ok\r\n"],
        b"BDAT 9\r\nXCLIENT\r\nX-REFUSED\r\nBDAT 0 LAST\r\n",
    ),
    "LMTP, two recipients": (
        "lmtp",
        b"RCPT TO:<a>\r\nRCPT TO:<b>\r\nDATA\r\nx\r\n.\r\nXCLIENT ADDR=192.0.2.66\r\n",
        [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"", b"250 a\r\n250 b\r\n", b"500 what\r\n"],
        b"RCPT TO:<a>\r\nRCPT TO:<b>\r\nDATA\r\nx\r\n.\r\nX-REFUSED\r\n",
    ),
    "submission, login": (
        "submission",
        b"AUTH LOGIN\r\nam9l\r\nc2VjcmV0\r\nXCLIENT ADDR=192.0.2.66\r\n",
        [b"334 VXNlcg==\r\n", b"334 UGFzcw==\r\n", b"235 in\r\n"],
        b"AUTH LOGIN\r\nam9l\r\nc2VjcmV0\r\nXCLIENT ADDR=192.0.2.66\r\n",
    ),
    "ManageSieve": (
        "sieve",
        b'AUTHENTICATE "PLAIN" {3+}\r\nabc\r\nXCLIENT ADDR=192.0.2.66\r\nAUTHENTICATE "LOGIN"\r\n"am9l"\r\nLISTSCRIPTS\r\n',
        [b"", b'NO "wrong"\r\n', b'NO "what"\r\n', b'"VXNlcg=="\r\n', b'OK "in"\r\n'],
        b'AUTHENTICATE "PLAIN" {3+}\r\nabc\r\nX-REFUSED\r\nAUTHENTICATE "LOGIN"\r\n"am9l"\r\nLISTSCRIPTS\r\n',
    ),
}


def play(gate: Gate, client: Iterable[bytes], answers: list[bytes], cut: Cut) -> bytes:
    """Return what the server gets. It answers each line as it comes; an empty answer is none."""
    remaining = iter(answers)
    sent = b""
    answered = 0

    def to_server(data: bytes) -> None:
        nonlocal sent, answered
        sent += data
        while sent.count(b"\n") > answered:
            answered += 1
            for piece in cut(next(remaining, b"")):
                gate.from_server(piece)
            to_server(gate.released())

    for piece in client:
        to_server(gate.from_client(piece))
    return sent


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte], ids=["whole", "byte by byte"])
def test_server_gets_no_word_of_a_proxy_before_the_login(name: str, cut: Cut) -> None:
    protocol, client, answers, expected = DIALOGUES[name]
    assert play(GATES[protocol](), cut(client), answers, cut) == expected


@pytest.mark.parametrize("name", DIALOGUES)
def test_every_split_gives_the_same(name: str) -> None:
    protocol, client, answers, expected = DIALOGUES[name]
    for cut in range(1, len(client)):
        gate = GATES[protocol]()
        assert play(gate, [client[:cut], client[cut:]], answers, in_one_piece) == expected, cut


@pytest.mark.parametrize(
    ("protocol", "before", "early"),
    [("pop3", b"+OK hi\r\n", b"NOOP\r\nPASS x\r\n"), ("smtp", b"220 hi\r\n", b"NOOP\r\nAUTH x\r\n")],
)
def test_greeting_is_no_answer_to_an_early_command(protocol: str, before: bytes, early: bytes) -> None:
    gate = GATES[protocol](greeted=False)
    assert gate.from_client(early) == b""
    gate.from_server(before)
    assert gate.released() == b"NOOP\r\n"
    gate.from_server(b"+OK\r\n" if protocol == "pop3" else b"250 ok\r\n")
    assert gate.released() != b""
    assert not gate.is_open


def test_answer_of_an_earlier_command_with_the_same_tag_is_no_login() -> None:
    gate = GATES["imap"]()
    assert gate.from_client(b"a NOOP\r\na LOGIN x y\r\n") == b"a NOOP\r\n"
    gate.from_server(b"a OK\r\n")
    assert not gate.is_open
    assert gate.released() == b"a LOGIN x y\r\n"
    gate.from_server(b"a NO\r\n")
    assert not gate.is_open


@pytest.mark.parametrize(("theirs", "expected"), [("9", b'"x-proxy-ttl" "5"'), ("3", b'"x-proxy-ttl" "2"')])
def test_hop_count_of_a_client_only_lowers_ours(theirs: str, expected: bytes) -> None:
    gate = GATES["imap"](ttl=5)
    sent = gate.from_client(f'a ID ("x-proxy-ttl" "{theirs}")\r\n'.encode())
    assert sent == b"a ID (" + expected + b")\r\n"


@pytest.mark.parametrize("theirs", ["1", "0", "x", "-3"])
def test_hop_count_at_its_end_refuses_the_session(theirs: str) -> None:
    gate = GATES["imap"](ttl=5)
    assert gate.from_client(f'a ID ("x-proxy-ttl" "{theirs}")\r\n'.encode()) == b""
    assert "too many proxies" in gate.failure


def test_odd_end_of_mail_ends_the_session() -> None:
    gate = GATES["smtp"]()
    gate.from_client(b"DATA\r\n")
    gate.from_server(b"354 go\r\n")
    gate.from_client(b"x\n.\nXCLIENT ADDR=192.0.2.66\r\n")
    assert gate.state is State.CLOSED


@pytest.mark.parametrize("protocol", GATES)
def test_endless_line_is_refused(protocol: str) -> None:
    gate = GATES[protocol]()
    sent = b"".join(gate.from_client(b"x" * 1024) for _ in range(2 * LINE_MAX // 1024) if gate.has_room)
    assert gate.failure
    assert not sent


@pytest.mark.parametrize("protocol", GATES)
@given(data=st.data())
def test_no_split_of_noise_lets_an_address_through(protocol: str, data: st.DataObject) -> None:
    spoofs = [
        b'a ID ("x-originating-ip" "192.0.2.66")\r\n',
        b'a ID ("X-ORIGINATING-IP" {10+}\r\n192.0.2.66)\r\n',
        b"XCLIENT ADDR=192.0.2.66\r\n",
        b"XFORWARD ADDR=192.0.2.66\r\n",
    ]
    own = spoofs[:2] if protocol == "imap" else spoofs[2:]
    others = [b"a NOOP\r\n", b"NOOP\r\n", b"\r\n", b"a LOGIN x y\r\n", b"AUTH x\r\n", b"x y z\n"]
    pieces = data.draw(st.lists(st.sampled_from(own + others), max_size=8))
    answers = data.draw(
        st.lists(
            st.sampled_from([b"a NO\r\n", b"a BAD\r\n", b"-ERR\r\n", b"500 x\r\n", b"NO\r\n", b"* x\r\n"]),
            max_size=20,
        )
    )
    gate = GATES[protocol]()
    sent = b"".join(
        itertools.chain.from_iterable(
            (gate.from_client(piece), *_answered(gate, answers)) for piece in pieces
        )
    )
    assert SPOOF not in sent


def _answered(gate: Gate, answers: list[bytes]) -> Iterable[bytes]:
    for answer in answers:
        gate.from_server(answer)
        yield gate.released()


@pytest.mark.parametrize("protocol", ["pop3", "smtp", "lmtp", "sieve"])
@pytest.mark.parametrize(("ttl", "is_over"), [(0, True), (1, True), (2, False)])
def test_hop_count_of_xclient_ends_sessions_that_go_in_circles(
    protocol: str, ttl: int, is_over: bool
) -> None:
    gate = GATES[protocol]()
    sent = gate.from_client(b"XCLIENT ADDR=192.0.2.66 ttl=%d\r\n" % ttl)
    assert bool(gate.failure) == is_over
    assert sent == (b"" if is_over else REPLACEMENT + b"\r\n")


STARTTLS = {
    "imap": (b"a STARTTLS\r\n", b"a OK go\r\n", b"a NO\r\n"),
    "pop3": (b"STLS\r\n", b"+OK go\r\n", b"-ERR\r\n"),
    "smtp": (b"STARTTLS\r\n", b"220 go\r\n", b"454 no\r\n"),
    "lmtp": (b"STARTTLS\r\n", b"220 go\r\n", b"454 no\r\n"),
    "sieve": (b"STARTTLS\r\n", b'OK "go"\r\n', b'NO "no"\r\n'),
}


@pytest.mark.parametrize("protocol", STARTTLS)
def test_starttls_passes_where_client_and_server_may_use_it(protocol: str) -> None:
    command, consent, refusal = STARTTLS[protocol]
    gate = GATES[protocol](passes_starttls=True)
    assert gate.from_client(command) == command
    gate.from_server(refusal)
    assert not gate.is_open
    assert gate.released() == b""
    assert gate.from_client(command) == command
    gate.from_server(consent)
    assert gate.is_open
    assert REPLACEMENT in GATES[protocol]().from_client(command)


@pytest.mark.parametrize("protocol", STARTTLS)
def test_bytes_behind_a_starttls_that_passes_close_the_gate(protocol: str) -> None:
    command, consent, _ = STARTTLS[protocol]
    gate = GATES[protocol](passes_starttls=True)
    assert gate.from_client(command + b"b NOOP\r\n") == command
    gate.from_server(consent)
    assert (gate.failure, gate.fault) == ("bytes in clear text behind STARTTLS", Fault.INJECTION)
    assert gate.released() == b""


def test_line_that_gets_an_untagged_bad_holds_nothing_back() -> None:
    gate = GATES["imap"]()
    assert gate.from_client(b"* x\r\nb NOOP\r\n") == b"* x\r\n"
    gate.from_server(b"* BAD what\r\n")
    assert gate.released() == b"b NOOP\r\n"


GREETINGS = {
    "imap": [b"* OK hi\r\n", b"* PREAUTH hi\r\n", b"* BYE no\r\n", b"* OK\r\n"],
    "pop3": [b"+OK hi\r\n", b"-ERR no\r\n", b"+OK\r\n"],
    "smtp": [b"220-mail\r\nhello\r\n220 hi\r\n", b"220\r\n", b"554 no\r\n"],
    "sieve": [
        b'{14}\r\nIMPLEMENTATION "x"\r\nOK\r\n',
        b'"IMPLEMENTATION" {5}\r\nsieve\r\n"SASL" ""\r\nOK\r\n',
        b'OK "hi"\r\n',
        b'BYE "no"\r\n',
    ],
}


@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("spoken", GREETINGS)
@pytest.mark.parametrize("expected", GREETINGS)
def test_server_that_greets_in_another_protocol_ends_the_session(
    expected: str, spoken: str, cut: Cut
) -> None:
    for greeting in GREETINGS[spoken]:
        gate = GATES[expected](greeted=False)
        gate.from_client(b"a NOOP\r\n")
        for piece in cut(greeting + b"a OK\r\n"):
            gate.from_server(piece)
        if spoken == expected:
            assert not gate.failure
        else:
            first = greeting.split(b"\r\n")[0].decode()
            assert (gate.state, gate.fault) == (State.CLOSED, Fault.SERVER)
            assert gate.failure.startswith("the server's greeting is not one of this protocol: " + first[:5])
            assert gate.released() == b""
