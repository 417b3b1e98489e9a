"""Health checks of mail protocols: real servers, refusals, other protocols, and each size limit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailproxy.protocol.checks.imap import LINE_MAX as IMAP_LINE_MAX
from mailproxy.protocol.checks.imap import ImapCheck
from mailproxy.protocol.checks.mail import Action, MailCheck, State, Verdict
from mailproxy.protocol.checks.pop3 import Pop3Check
from mailproxy.protocol.checks.registry import DIALOGUES
from mailproxy.protocol.checks.result import INFO_MAX, CheckCode
from mailproxy.protocol.checks.sieve import SieveCheck
from mailproxy.protocol.checks.smtp import NAME_MAX, LmtpCheck, SmtpCheck
from mailproxy.protocol.lines import ANSWER_MAX
from tests.support.protocol.check_transcripts import (
    Cut,
    byte_by_byte,
    in_one_piece,
    outcome,
    run_transcript,
    server_bytes,
)
from tests.support.protocol.recorded_checks import RECORDED_CHECKS

CHECKS = [ImapCheck, Pop3Check, SmtpCheck, LmtpCheck, SieveCheck]

# Real servers


@pytest.mark.parametrize("name", RECORDED_CHECKS)
@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte], ids=["whole", "byte by byte"])
def test_recorded_server_passes(name: str, cut: Cut) -> None:
    make_check, transcript = RECORDED_CHECKS[name]
    run_transcript(make_check(), transcript, cut)


def test_greeting_and_capabilities_are_kept() -> None:
    make_check, transcript = RECORDED_CHECKS["Dovecot 2.3.19, POP3"]
    check = make_check()
    run_transcript(check, transcript)
    assert check.greeting == "+OK Dovecot (Debian) ready."
    names = {"CAPA", "TOP", "UIDL", "RESP-CODES", "PIPELINING", "AUTH-RESP-CODE", "USER", "SASL"}
    assert check.capabilities.names == names


def test_capabilities_before_tls_are_forgotten() -> None:
    make_check, transcript = RECORDED_CHECKS["Dovecot 2.3.19, ManageSieve with STARTTLS"]
    check = make_check()
    run_transcript(check, transcript)
    assert check.capabilities.names == {"IMPLEMENTATION", "SIEVE", "NOTIFY", "SASL", "VERSION"}


def test_each_protocol_has_a_dialogue() -> None:
    assert set(DIALOGUES) == {"imap", "pop3", "smtp", "submission", "lmtp", "sieve"}
    for make_check in DIALOGUES.values():
        assert make_check(starttls=True).expecting == "the greeting"


# The table


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("state", [s for s in State if s not in (State.TLS, State.OVER)])
@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_in_each_state_has_an_action(
    check: type[MailCheck], state: State, verdict: Verdict
) -> None:
    move = check.TABLE[state, verdict]
    if state is State.LOGOUT:
        assert move is Action.END
    elif verdict is Verdict.BYE:
        assert move is Action.SERVER_BYE
    elif verdict is Verdict.YES:
        assert move in (Action.ASK, Action.GO_ON, Action.UPGRADE)
    else:
        assert move in (Action.REFUSED, Action.GO_ON, Action.ASK_FALLBACK)


# Refusals: reported in the server's own words, after a logout if the connection is still open

LIST = "S: * CAPABILITY IMAP4rev1 STARTTLS\nS: a1 OK done"
REFUSALS: dict[str, tuple[Callable[[], MailCheck], str]] = {
    "IMAP greets with BYE": (
        ImapCheck,
        """
S: * BYE [ALERT] Too many connections.
= Layer7 wrong status, code: 0, info: "BYE [ALERT] Too many connections."
""",
    ),
    "IMAP says BYE in between": (
        ImapCheck,
        """
S: * OK ready
C: a1 CAPABILITY
S: * BYE Server shutting down.
= Layer7 wrong status, code: 0, info: "BYE Server shutting down."
""",
    ),
    "IMAP refuses CAPABILITY": (
        ImapCheck,
        """
S: * OK ready
C: a1 CAPABILITY
S: a1 NO [UNAVAILABLE] Internal error.
C: a2 LOGOUT
S: * BYE out
S: a2 OK done
= Layer7 wrong status, code: 0, info: "NO [UNAVAILABLE] Internal error."
""",
    ),
    "IMAP knows no CAPABILITY": (
        ImapCheck,
        """
S: * OK ready
C: a1 CAPABILITY
S: a1 BAD what?
C: a2 LOGOUT
S: a2 BAD what?
= Layer7 wrong status, code: 0, info: "BAD what?"
""",
    ),
    "IMAP refuses STARTTLS": (
        lambda: ImapCheck(starttls=True),
        f"""
S: * OK ready
C: a1 CAPABILITY
{LIST}
C: a2 STARTTLS
S: a2 NO TLS isn't available
C: a3 LOGOUT
S: * BYE out
S: a3 OK done
= Layer7 wrong status, code: 0, info: "NO TLS isn't available"
""",
    ),
    "IMAP does not offer STARTTLS": (
        lambda: ImapCheck(starttls=True),
        """
S: * OK ready
C: a1 CAPABILITY
S: * CAPABILITY IMAP4rev1
S: a1 OK done
C: a2 LOGOUT
S: a2 OK done
= Layer7 invalid response, info: "STARTTLS is not offered"
""",
    ),
    "POP3 greets with -ERR": (
        Pop3Check,
        """
S: -ERR [SYS/TEMP] Too many connections
C: QUIT
(closed)
= Layer7 wrong status, code: 0, info: "-ERR [SYS/TEMP] Too many connections"
""",
    ),
    "POP3 without CAPA has no STLS": (
        lambda: Pop3Check(starttls=True),
        """
S: +OK
C: CAPA
S: -ERR
C: QUIT
S: +OK
= Layer7 invalid response, info: "STLS is not offered"
""",
    ),
    "SMTP greets with 554": (
        SmtpCheck,
        """
S: 554-mail.example
S: 554 5.7.1 go away
C: QUIT
S: 221 Bye
= Layer7 wrong status, code: 554, info: "554 mail.example 5.7.1 go away"
""",
    ),
    "SMTP greets with 421": (
        SmtpCheck,
        """
S: 421 4.3.2 All server ports are busy
= Layer7 wrong status, code: 421, info: "421 4.3.2 All server ports are busy"
""",
    ),
    "SMTP refuses EHLO": (
        SmtpCheck,
        """
S: 220 ready
C: EHLO localhost
S: 550 5.7.1 not from you
C: QUIT
S: 221 Bye
= Layer7 wrong status, code: 550, info: "550 5.7.1 not from you"
""",
    ),
    "SMTP refuses HELO, too": (
        SmtpCheck,
        """
S: 220 ready
C: EHLO localhost
S: 500 what?
C: HELO localhost
S: 502 what?
C: QUIT
S: 502 what?
= Layer7 wrong status, code: 502, info: "502 what?"
""",
    ),
    "SMTP refuses STARTTLS": (
        lambda: SmtpCheck(starttls=True),
        """
S: 220 ready
C: EHLO localhost
S: 250-mail
S: 250 STARTTLS
C: STARTTLS
S: 454 4.7.0 TLS not available due to local problem
C: QUIT
S: 221 Bye
= Layer7 wrong status, code: 454, info: "454 4.7.0 TLS not available due to local problem"
""",
    ),
    "SMTP behind LMTP's port": (
        LmtpCheck,
        """
S: 220 postfix.example ESMTP Postfix
C: LHLO localhost
S: 500 5.5.2 Error: command not recognized
C: QUIT
S: 221 2.0.0 Bye
= Layer7 wrong status, code: 500, info: "500 5.5.2 Error: command not recognized"
""",
    ),
    "ManageSieve greets with BYE": (
        SieveCheck,
        """
S: BYE (TRYLATER) "come back \\"later\\""
= Layer7 wrong status, code: 0, info: "BYE (TRYLATER) come back "later""
""",
    ),
    "ManageSieve greets with NO": (
        SieveCheck,
        """
S: NO "not today"
C: LOGOUT
S: OK
= Layer7 wrong status, code: 0, info: "NO not today"
""",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte], ids=["whole", "byte by byte"])
def test_refusal_is_reported_in_words_of_server(name: str, cut: Cut) -> None:
    make_check, transcript = REFUSALS[name]
    run_transcript(make_check(), transcript, cut)


def test_refusal_is_known_before_logout_is_answered() -> None:
    check = SmtpCheck()
    assert check.receive(b"554 no\r\n") == b"QUIT\r\n"
    assert check.failure
    assert check.failure.status == 554
    assert not check.is_over
    assert check.expecting == "the answer to the logout"


@pytest.mark.parametrize("check", CHECKS)
def test_failure_info_is_bounded_and_printable(
    check: type[MailCheck],
) -> None:
    refusals = {
        ImapCheck: b"* BYE \x1b[31m\xff%s\r\n",
        Pop3Check: b"-ERR \x1b[31m\xff%s\r\n",
        SmtpCheck: b"554 \x1b[31m\xff%s\r\n",
        LmtpCheck: b"554 \x1b[31m\xff%s\r\n",
        SieveCheck: b'BYE "\x1b[31m\xff%s"\r\n',
    }
    dialogue = check()
    dialogue.receive(refusals[check] % (b"x" * 400))
    assert dialogue.failure
    assert len(dialogue.failure.info) == INFO_MAX
    assert dialogue.failure.info.isprintable()


# The server closes the connection


@pytest.mark.parametrize("check", CHECKS)
def test_close_instead_of_greeting_fails(check: type[MailCheck]) -> None:
    run_transcript(
        check(),
        """
(closed)
= Layer7 invalid response, info: "the connection was closed instead of the greeting"
""",
    )


def test_logout_needs_no_answer() -> None:
    check = Pop3Check()
    check.receive(b"+OK\r\n")
    assert check.receive(b"-ERR\r\n") == b"QUIT\r\n"
    assert check.receive(b"") == b""
    assert check.is_over
    assert check.result.code is CheckCode.L7OK


def test_input_after_the_end_is_ignored() -> None:
    check = ImapCheck()
    check.receive(b"* BYE no\r\n")
    result = check.result
    assert check.receive(b"\xff" * 100_000) == check.receive(b"") == b""
    assert check.result is result


# STARTTLS


@pytest.mark.parametrize(
    ("check", "before", "word"),
    [
        (ImapCheck, b"* OK hi\r\n* CAPABILITY STARTTLS\r\na1 OK\r\na2 OK go\r\n", "STARTTLS"),
        (Pop3Check, b"+OK\r\n+OK\r\nSTLS\r\n.\r\n+OK\r\n", "STLS"),
        (SmtpCheck, b"220 hi\r\n250-hi\r\n250 STARTTLS\r\n220 go\r\n", "STARTTLS"),
        (LmtpCheck, b"220 hi\r\n250-hi\r\n250 STARTTLS\r\n220 go\r\n", "STARTTLS"),
        (SieveCheck, b'"STARTTLS"\r\nOK\r\nOK\r\n', "STARTTLS"),
    ],
)
@pytest.mark.parametrize("extra", [b"x", b"a3 OK injected\r\n", b""])
def test_plain_bytes_after_starttls_fail(
    check: type[MailCheck], before: bytes, word: str, extra: bytes
) -> None:
    for pieces in (
        [before + extra],
        [before, extra] if extra else [before],
        byte_by_byte(before + extra),
    ):
        dialogue = check(starttls=True)
        sent = [dialogue.receive(piece) for piece in pieces]
        assert not b"".join(sent).endswith((b"LOGOUT\r\n", b"QUIT\r\n"))
        if extra:
            assert not dialogue.wants_tls
            assert dialogue.is_over
            assert str(dialogue.result).endswith(f'"plain bytes behind the answer to {word}"')
        else:
            assert dialogue.wants_tls
            assert dialogue.expecting == "TLS"


def test_close_instead_of_tls_fails() -> None:
    check = SmtpCheck(starttls=True)
    check.receive(b"220 hi\r\n250-hi\r\n250 STARTTLS\r\n220 go\r\n")
    check.receive(b"")
    assert check.result.info == "the connection was closed instead of TLS"


def test_tls_started_without_starttls_raises() -> None:
    with pytest.raises(RuntimeError):
        ImapCheck().tls_started()


# Other protocols: the logout is sent, but its answer cannot be recognized

OTHER_PROTOCOLS: list[tuple[type[MailCheck], bytes, str]] = [
    (ImapCheck, b"220 mail.example ESMTP\r\n", "the greeting: this is not IMAP: 220 mail.example ESMTP"),
    (ImapCheck, b"* NO hi\r\n", "the greeting: this is not IMAP: * NO hi"),
    (ImapCheck, b"* \r\n", "the greeting: this is not IMAP: *"),
    (ImapCheck, b"\r\n", "the greeting: this is not IMAP:"),
    (ImapCheck, b"* OK\r\n+ go on\r\n", "the capabilities: this is not IMAP: + go on"),
    (ImapCheck, b"* OK\r\na2 OK\r\n", "the capabilities: this is not IMAP: a2 OK"),
    (ImapCheck, b"* OK\r\na1 MAYBE\r\n", "the capabilities: this is not IMAP: a1 MAYBE"),
    (ImapCheck, b"* OK\r\na1 OK\r\n", "the capabilities: this is not IMAP: no list before a1 OK"),
    (ImapCheck, b"* OK\n", "the greeting: a line feed without carriage return"),
    (Pop3Check, b"* OK hi\r\n", "the greeting: this is not POP3: * OK hi"),
    (Pop3Check, b"+ok hi\r\n", "the greeting: this is not POP3: +ok hi"),
    (Pop3Check, b"+OKAY\r\n", "the greeting: this is not POP3: +OKAY"),
    (SmtpCheck, b"+OK hi\r\n", "the greeting: this is not SMTP: +OK hi"),
    (SmtpCheck, b"2200\r\n", "the greeting: this is not SMTP: 2200"),
    (SmtpCheck, b"120 soon\r\n", "the greeting: this is not SMTP: 120 soon"),
    (SmtpCheck, b"250 hi\r\n", "the greeting: this is not SMTP: 250 hi"),
    (SmtpCheck, b"220-hi\r\n250 hi\r\n", "the greeting: this is not SMTP: 250 hi"),
    (SmtpCheck, b"220 hi\r\n354 go\r\n", "the capabilities: this is not SMTP: 354 go"),
    (LmtpCheck, b"HTTP/1.1 400\r\n", "the greeting: this is not LMTP: HTTP/1.1 400"),
    (SieveCheck, b"* OK hi\r\n", "the greeting: this is not ManageSieve: * OK hi"),
    (SieveCheck, b"\r\n", "the greeting: this is not ManageSieve:"),
    (SieveCheck, b'"open\r\n', 'the greeting: this is not ManageSieve: "open'),
    (SieveCheck, b"OK\r\n", "the greeting: this is not ManageSieve: no list before OK"),
    (SieveCheck, b'"A"\r\nOK\r\n"B"\r\n', 'the answer to the logout: this is not ManageSieve: "B"'),
    (ImapCheck, b"\x15\x03\x01\x00\x02\x02\x16\r\n", "the greeting: this is not IMAP: ????????"[:-1]),
]


@pytest.mark.parametrize(("check", "wire", "info"), OTHER_PROTOCOLS)
def test_other_protocol_is_reported(check: type[MailCheck], wire: bytes, info: str) -> None:
    for pieces in ([wire], byte_by_byte(wire)):
        dialogue = check()
        sent = b"".join(dialogue.receive(piece) for piece in pieces)
        assert dialogue.is_over
        assert (dialogue.result.code, dialogue.result.info) == (CheckCode.L7RSP, info)
        assert sent.endswith(check.LOGOUT + b"\r\n")
        assert sent.count(check.LOGOUT) == 1


# Unusual, but allowed


def test_imap_untagged_responses_are_skipped() -> None:
    run_transcript(
        ImapCheck(),
        """
S: * preauth you are in
C: a1 CAPABILITY
S: * OK Still here {3}
S: * NO Disk is nearly full
S: * BAD bad
S: * 12 EXISTS
S: * capability IMAP4rev2
S: * LIST () "/" {7}
S: a1 NO x
S: a1 ok done
C: a2 LOGOUT
S: * CAPABILITY IMAP4rev1
S: * BYE so long {1}
S: a2 OK done
= Layer7 check passed, code: 0
""",
    )


def test_imap_literal_is_data() -> None:
    literal = b"a1 NO\r\n* BYE no\r\n"
    data = b"* OK\r\n* CAPABILITY X\r\n* X {%d}\r\n%s {0}\r\n\r\na1 OK\r\n" % (len(literal), literal)
    for pieces in ([data], byte_by_byte(data)):
        sent, result = outcome(ImapCheck(), pieces)
        assert sent == b"a1 CAPABILITY\r\na2 LOGOUT\r\n"
        assert result == "nothing, waits for the answer to the logout"


def test_sieve_literals_and_escapes_are_read() -> None:
    data = (
        b'{14}\r\nIMPLEMENTATION "x \\"y\\" \\\\"\r\n"SIEVE" {9}\r\na\r\nOK\r\nb \r\n{8}\r\nStartTLS\r\n'
        b"ok (TAG {2}\r\n\r\n (x)) {5}\r\nready\r\n"
    )
    for pieces in ([data], byte_by_byte(data)):
        check = SieveCheck()
        assert b"".join(check.receive(piece) for piece in pieces) == b"LOGOUT\r\n"
        assert check.capabilities.names == {"IMPLEMENTATION", "SIEVE", "STARTTLS"}


def test_pop3_doubled_dots_are_undone() -> None:
    check = Pop3Check()
    check.receive(b"+OK\r\n+OK\r\n..X\r\n.Y z\r\n\r\n.\r\n")
    assert check.capabilities.names == {".X", "Y"}
    assert check.state is State.LOGOUT


# Size limits


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (ImapCheck, b"* OK "),
        (Pop3Check, b"+OK "),
        (SmtpCheck, b"220 "),
        (LmtpCheck, b"220 "),
        (SieveCheck, b'"A" "'),
    ],
)
def test_line_length_is_limited(check: type[MailCheck], line: bytes) -> None:
    end = b'"\r\n' if check is SieveCheck else b"\r\n"
    longest = line.ljust(check.LINE_MAX - len(end), b"x") + end
    too_long = f"the greeting: a line of more than {check.LINE_MAX} bytes"
    dialogue = check()
    dialogue.receive(longest)
    assert dialogue.failure is None
    for wire in (line + b"x" + longest[len(line) :], longest[:-2] + b"xx"):
        for pieces in ([wire], byte_by_byte(wire)):
            dialogue = check()
            for piece in pieces:
                dialogue.receive(piece)
            assert dialogue.is_over
            assert dialogue.result.info == too_long


@pytest.mark.parametrize(
    ("check", "greeting", "line"),
    [
        (ImapCheck, b"* OK\r\n", b"* 1 EXISTS\r\n"),
        (ImapCheck, b"* OK\r\n", b"* X {1}\r\nx\r\n"),
        (Pop3Check, b"+OK\r\n+OK\r\n", b"X\r\n"),
        (SmtpCheck, b"", b"220-hi\r\n"),
        (LmtpCheck, b"220\r\n", b"250-hi\r\n"),
        (SieveCheck, b"", b'"A" "b"\r\n'),
        (SieveCheck, b"", b'"A" {1}\r\nb\r\n'),
    ],
)
def test_answer_length_is_limited(check: type[MailCheck], greeting: bytes, line: bytes) -> None:
    dialogue = check()
    if greeting:
        dialogue.receive(greeting)
    counted = 5 if check is Pop3Check else 0  # CAPA's +OK belongs to the same answer
    for _ in range((ANSWER_MAX - counted) // len(line)):
        dialogue.receive(line)
    assert dialogue.failure is None
    dialogue.receive(line)
    assert dialogue.failure
    state = State.CAPABILITIES if greeting else State.GREETING
    assert dialogue.failure.info == f"{state.value}: an answer of more than {ANSWER_MAX} bytes"


@pytest.mark.parametrize(
    ("check", "wire"),
    [
        (ImapCheck, b"* OK\r\n* X {%d}\r\n"),
        (ImapCheck, b"* OK\r\n* X {999999999}\r\n"),
        (SieveCheck, b"{%d}\r\n"),
        (SieveCheck, b'"A" {999999999}\r\n'),
    ],
)
def test_too_long_literal_fails_at_once(check: type[MailCheck], wire: bytes) -> None:
    dialogue = check()
    dialogue.receive(wire % ANSWER_MAX if b"%d" in wire else wire)
    assert dialogue.failure
    assert dialogue.failure.info.endswith(f"an answer of more than {ANSWER_MAX} bytes")


def test_answer_limit_applies_to_each_answer() -> None:
    check = ImapCheck()
    check.receive(b"* OK ".ljust(IMAP_LINE_MAX - 2, b"x") + b"\r\n")
    line = b"* 1 X ".ljust(IMAP_LINE_MAX - 2, b"x") + b"\r\n"
    check.receive(line)
    assert check.failure is None


@pytest.mark.parametrize("name", ["", "a b", "a\r\nQUIT", "bücher.example", "x" * (NAME_MAX + 1)])
def test_invalid_helo_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a host"):
        SmtpCheck(name)


# Split input and noise

_checks = st.sampled_from([make_check for make_check, _ in (*RECORDED_CHECKS.values(), *REFUSALS.values())])
_wires = st.sampled_from(
    [server_bytes(transcript) for _, transcript in (*RECORDED_CHECKS.values(), *REFUSALS.values())]
)
_words = st.sampled_from(
    b'* |a1 |a2 |OK|NO|BYE|+OK|-ERR|.|220|250|421|-| |\r\n|{3}\r\n|"|\\|CAPABILITY|STARTTLS|STLS|\n|\0|\xff|('.split(
        b"|"
    )
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Return the bytes of a real server with ranges removed, doubled or replaced."""
    data = draw(_wires)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        other = draw(st.one_of(st.just(b""), st.just(data[start:end] * 2), st.binary(max_size=8), _words))
        data = data[:start] + other + data[end:]
    return data


noise = st.one_of(_damaged(), st.lists(_words | st.binary(max_size=4), max_size=30).map(b"".join))


@settings(max_examples=400, deadline=None)
@given(_checks, noise, st.sets(st.integers(1, 400), max_size=12))
def test_result_is_independent_of_splits(
    make_check: Callable[[], MailCheck], data: bytes, cuts: set[int]
) -> None:
    offsets = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in pairwise(offsets) if a < b]
    check = make_check()
    expected = outcome(check, [data] if data else [])
    assert expected == outcome(make_check(), pieces) == outcome(make_check(), byte_by_byte(data))
    if check.failure:
        assert check.failure.code in (CheckCode.L7RSP, CheckCode.L7STS)
        assert check.failure.info.isprintable()
        assert len(check.failure.info) <= INFO_MAX


@settings(max_examples=200, deadline=None)
@given(_checks, noise)
def test_close_ends_every_check(make_check: Callable[[], MailCheck], data: bytes) -> None:
    check = make_check()
    if data:
        check.receive(data)
    check.receive(b"")
    assert check.is_over
    assert check.result.code in (CheckCode.L7OK, CheckCode.L7RSP, CheckCode.L7STS)
