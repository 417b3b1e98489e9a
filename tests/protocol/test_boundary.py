"""Where a goodbye may stand: sessions of each protocol that end at every byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.protocol.boundary import BOUNDARIES, BULK_BYTES, TAIL_MAX, Boundary

# C is the client; S the server. A server's line with "|" at its end is the last one of a response.
DIALOGUES = {
    "imap": """\
S * OK [CAPABILITY IMAP4rev1] hi|
C a LOGIN joe secret
S * CAPABILITY IMAP4rev1|
S a OK in|
C b FETCH 1 BODY[]
S * 1 FETCH (FLAGS (\\Seen) BODY[] {41}
S * BYE this is mail, and no response ...
S )|
S b OK done|
C c FETCH 1 (BODY[TEXT] BODY[HEADER])
S * 1 FETCH (BODY[TEXT] {3}
S a BODY[HEADER] {0}
S )|
S c OK done|
C d IDLE
S + idling|
S * 2 EXISTS|
""",
    "pop3": """\
S +OK hi|
C CAPA
S +OK
S USER
S .|
C USER joe
S +OK|
C PASS secret
S +OK|
C LIST
S +OK
S 1 120
S .|
C LIST 1
S +OK 1 120|
C RETR 1
S +OK
S +OK is mail
S ..
S .|
C AUTH PLAIN
S +|
C AGpvZQBzZWNyZXQ=
S -ERR|
C TOP 9 1
S -ERR none|
""",
    "smtp": """\
S 220-mx waits
S 220 mx|
C EHLO x
S 250-mx
S 250-SIZE
S 250 PIPELINING|
C MAIL FROM:<a>
S 250 ok|
C DATA
S 354 go
C x
C .
S 250 queued|
""",
    "lmtp": """\
S 220 mx|
C LHLO x
S 250-mx
S 250 PIPELINING|
C DATA
S 354 go
C .
S 250 a|
S 450 b|
""",
    "sieve": """\
S "IMPLEMENTATION" "x"
S "SASL" "PLAIN"
S OK|
C AUTHENTICATE "PLAIN" "x"
S OK "in"|
C GETSCRIPT "a"
S {21}
S OK "this is script"
S
S OK|
C LISTSCRIPTS
S "a" ACTIVE
S OK (TAG {5}
S abcde) "done"|
C NOOP
S NO (QUOTA) {9}
S too large|
""",
}


def steps(protocol: str) -> list[tuple[str, bytes, bool]]:
    """Return who sends, the line, and whether it ends a response."""
    return [
        (line[0], line[2:].removesuffix("|").encode() + b"\r\n", line.endswith("|"))
        for line in DIALOGUES[protocol].splitlines()
    ]


@pytest.mark.parametrize("protocol", DIALOGUES)
def test_boundary_is_reached_behind_complete_responses_only(protocol: str) -> None:
    """The session ends behind each byte: a new tracker has got all before, byte by byte."""
    sent: list[tuple[str, bytes]] = []
    for who, line, is_last in steps(protocol):
        for offset in range(1, len(line) + 1):
            tracker = replayed(protocol, [*sent, (who, line[:offset])], 1)
            is_end = who == "S" and is_last and offset == len(line)
            if who == "S":
                assert tracker.is_reached() == is_end, (line, offset)
        sent.append((who, line))


def replayed(protocol: str, pieces: list[tuple[str, bytes]], size: int) -> Boundary:
    tracker = BOUNDARIES[protocol]()
    for who, data in pieces:
        for start in range(0, len(data), size):
            piece = memoryview(data[start : start + size])
            if who == "S":
                tracker.from_server(piece)
            else:
                tracker.from_client(piece)
    return tracker


@pytest.mark.parametrize("protocol", DIALOGUES)
def test_nothing_yet_is_a_boundary(protocol: str) -> None:
    assert BOUNDARIES[protocol]().is_reached()
    assert BOUNDARIES[protocol](greeted=True).is_reached()


@pytest.mark.parametrize("protocol", DIALOGUES)
def test_any_split_gives_the_same(protocol: str) -> None:
    pieces = [(who, line) for who, line, _ in steps(protocol)]
    for size in (2, 7, 100):
        assert replayed(protocol, pieces, size).is_reached()


def test_long_literal_is_skipped_by_its_length() -> None:
    tracker = BOUNDARIES["imap"]()
    size = 10 * BULK_BYTES
    tracker.from_server(memoryview(b"* 1 FETCH (BODY[] {%d}\r\n" % size + b"\0" * BULK_BYTES))
    for _ in range(9):
        assert not tracker.from_server(memoryview(b"* BYE\r\n" + b"\0" * (BULK_BYTES - 7)))
        assert not tracker.is_reached()
    assert not tracker.from_server(memoryview(b")\r\na OK\r\n"))
    assert tracker.is_reached()


@pytest.mark.parametrize("size", [TAIL_MAX, 3000, BULK_BYTES, 4 * BULK_BYTES])
def test_long_mail_of_pop3_ends_with_its_lone_dot(size: int) -> None:
    """Only the bytes in which a piece ends are read. Any piece may have dots in its middle."""
    mail = b"+OK\r\n" + b"text\r\n..\r\n.x\r\n\r\n" * BULK_BYTES
    pieces = [("C", b"RETR 1\r\n"), ("S", mail)]
    greeting = ("S", b"+OK server\r\n")
    assert not replayed("pop3", [greeting, *pieces], size).is_reached()
    for last in (b".\r\n", b"x" * 2 * TAIL_MAX + b"\r\n.\r\n"):
        assert replayed("pop3", [greeting, *pieces, ("S", last)], size).is_reached()
        assert replayed("pop3", [greeting, pieces[0], ("S", mail + last)], size).is_reached()
        assert not replayed("pop3", [greeting, *pieces, ("S", last[:-1])], size).is_reached()
        again = [greeting, *pieces, ("S", last), ("C", b"NOOP\r\n")]
        assert not replayed("pop3", again, size).is_reached()
        assert replayed("pop3", [*again, ("S", b"+OK\r\n")], size).is_reached()


@pytest.mark.parametrize("protocol", DIALOGUES)
@pytest.mark.parametrize(
    "data", [b"\x16\x03\x03\x00\x5a\x02\r\n", b"x" * (2 * BULK_BYTES), b"\0\r\n" * TAIL_MAX]
)
def test_what_is_no_text_is_no_boundary(protocol: str, data: bytes) -> None:
    tracker = replayed(protocol, [("S", data)], 4096)
    assert not tracker.is_reached()


@pytest.mark.parametrize("protocol", DIALOGUES)
@given(st.lists(st.tuples(st.sampled_from("CS"), st.binary(max_size=40)), max_size=10))
def test_noise_never_raises(protocol: str, pieces: list[tuple[str, bytes]]) -> None:
    tracker = replayed(protocol, pieces, 16)
    tracker.is_reached()
