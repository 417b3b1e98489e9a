"""The health checks of mail protocols: real servers, refusals, what is not the protocol, and each bound."""

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
from tests.support.protocol.check_playbook import Cut, byte_by_byte, in_one_piece, outcome, play, server_bytes
from tests.support.protocol.recorded_checks import RECORDED_CHECKS

CHECKS = [ImapCheck, Pop3Check, SmtpCheck, LmtpCheck, SieveCheck]

# Real servers


@pytest.mark.parametrize("name", RECORDED_CHECKS)
@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte], ids=["whole", "byte by byte"])
def test_a_real_server_passes(name: str, cut: Cut) -> None:
    begin, book = RECORDED_CHECKS[name]
    play(begin(), book, cut)


def test_what_the_server_said_of_itself_is_kept() -> None:
    begin, book = RECORDED_CHECKS["Dovecot 2.3.19, POP3"]
    check = begin()
    play(check, book)
    assert check.greeting == "+OK Dovecot (Debian) ready."
    names = {"CAPA", "TOP", "UIDL", "RESP-CODES", "PIPELINING", "AUTH-RESP-CODE", "USER", "SASL"}
    assert check.capabilities.names == names


def test_what_was_offered_before_tls_is_forgotten() -> None:
    begin, book = RECORDED_CHECKS["Dovecot 2.3.19, ManageSieve with STARTTLS"]
    check = begin()
    play(check, book)
    assert check.capabilities.names == {"IMPLEMENTATION", "SIEVE", "NOTIFY", "SASL", "VERSION"}


def test_there_is_a_dialogue_for_each_protocol() -> None:
    assert set(DIALOGUES) == {"imap", "pop3", "smtp", "submission", "lmtp", "sieve"}
    for begin in DIALOGUES.values():
        assert begin(starttls=True).expecting == "the greeting"


# The table


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("state", [s for s in State if s not in (State.TLS, State.OVER)])
@pytest.mark.parametrize("verdict", Verdict)
def test_each_answer_in_each_state_has_its_move(
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


# Refusals: in the server's own words, and with a goodbye to whoever still listens

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
def test_a_refusal_is_told_in_the_servers_words(name: str, cut: Cut) -> None:
    begin, book = REFUSALS[name]
    play(begin(), book, cut)


def test_a_refusal_is_known_before_the_goodbye_is_answered() -> None:
    check = SmtpCheck()
    assert check.receive(b"554 no\r\n") == b"QUIT\r\n"
    assert check.failure
    assert check.failure.status == 554
    assert not check.is_over
    assert check.expecting == "the answer to the logout"


@pytest.mark.parametrize("check", CHECKS)
def test_what_the_server_says_is_bounded_and_printable_in_the_information(
    check: type[MailCheck],
) -> None:
    said = {
        ImapCheck: b"* BYE \x1b[31m\xff%s\r\n",
        Pop3Check: b"-ERR \x1b[31m\xff%s\r\n",
        SmtpCheck: b"554 \x1b[31m\xff%s\r\n",
        LmtpCheck: b"554 \x1b[31m\xff%s\r\n",
        SieveCheck: b'BYE "\x1b[31m\xff%s"\r\n',
    }
    talk = check()
    talk.receive(said[check] % (b"x" * 400))
    assert talk.failure
    assert len(talk.failure.info) == INFO_MAX
    assert talk.failure.info.isprintable()


# The other side closes


@pytest.mark.parametrize("check", CHECKS)
def test_a_server_that_closes_instead_of_greeting_has_failed(check: type[MailCheck]) -> None:
    play(
        check(),
        """
(closed)
= Layer7 invalid response, info: "the connection was closed instead of the greeting"
""",
    )


def test_a_goodbye_needs_no_answer() -> None:
    check = Pop3Check()
    check.receive(b"+OK\r\n")
    assert check.receive(b"-ERR\r\n") == b"QUIT\r\n"
    assert check.receive(b"") == b""
    assert check.is_over
    assert check.result.code is CheckCode.L7OK


def test_nothing_matters_afterwards() -> None:
    check = ImapCheck()
    check.receive(b"* BYE no\r\n")
    said = check.result
    assert check.receive(b"\xff" * 100_000) == check.receive(b"") == b""
    assert check.result is said


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
@pytest.mark.parametrize("behind", [b"x", b"a3 OK injected\r\n", b""])
def test_plain_bytes_behind_starttls_are_a_failure(
    check: type[MailCheck], before: bytes, word: str, behind: bytes
) -> None:
    for pieces in (
        [before + behind],
        [before, behind] if behind else [before],
        byte_by_byte(before + behind),
    ):
        talk = check(starttls=True)
        said = [talk.receive(piece) for piece in pieces]
        assert not b"".join(said).endswith((b"LOGOUT\r\n", b"QUIT\r\n"))
        if behind:
            assert not talk.wants_tls
            assert talk.is_over
            assert str(talk.result).endswith(f'"plain bytes behind the answer to {word}"')
        else:
            assert talk.wants_tls
            assert talk.expecting == "TLS"


def test_a_server_that_closes_instead_of_tls_has_failed() -> None:
    check = SmtpCheck(starttls=True)
    check.receive(b"220 hi\r\n250-hi\r\n250 STARTTLS\r\n220 go\r\n")
    check.receive(b"")
    assert check.result.info == "the connection was closed instead of TLS"


def test_tls_starts_only_when_it_is_wanted() -> None:
    with pytest.raises(RuntimeError):
        ImapCheck().tls_started()


# Not the protocol: the goodbye is said, but no answer can be told from the rest

NOT_IT: list[tuple[type[MailCheck], bytes, str]] = [
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


@pytest.mark.parametrize(("check", "wire", "info"), NOT_IT)
def test_what_is_not_the_protocol_is_told(check: type[MailCheck], wire: bytes, info: str) -> None:
    for pieces in ([wire], byte_by_byte(wire)):
        talk = check()
        said = b"".join(talk.receive(piece) for piece in pieces)
        assert talk.is_over
        assert (talk.result.code, talk.result.info) == (CheckCode.L7RSP, info)
        assert said.endswith(check.LOGOUT + b"\r\n")
        assert said.count(check.LOGOUT) == 1


# Odd, but allowed


def test_imap_says_other_things_meanwhile() -> None:
    play(
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


def test_an_imap_literal_is_data_whatever_stands_in_it() -> None:
    literal = b"a1 NO\r\n* BYE no\r\n"
    data = b"* OK\r\n* CAPABILITY X\r\n* X {%d}\r\n%s {0}\r\n\r\na1 OK\r\n" % (len(literal), literal)
    for pieces in ([data], byte_by_byte(data)):
        said, came_to = outcome(ImapCheck(), pieces)
        assert said == b"a1 CAPABILITY\r\na2 LOGOUT\r\n"
        assert came_to == "nothing, waits for the answer to the logout"


def test_sieve_has_literals_and_escapes() -> None:
    data = (
        b'{14}\r\nIMPLEMENTATION "x \\"y\\" \\\\"\r\n"SIEVE" {9}\r\na\r\nOK\r\nb \r\n{8}\r\nStartTLS\r\n'
        b"ok (TAG {2}\r\n\r\n (x)) {5}\r\nready\r\n"
    )
    for pieces in ([data], byte_by_byte(data)):
        check = SieveCheck()
        assert b"".join(check.receive(piece) for piece in pieces) == b"LOGOUT\r\n"
        assert check.capabilities.names == {"IMPLEMENTATION", "SIEVE", "STARTTLS"}


def test_pop3_dots_are_doubled() -> None:
    check = Pop3Check()
    check.receive(b"+OK\r\n+OK\r\n..X\r\n.Y z\r\n\r\n.\r\n")
    assert check.capabilities.names == {".X", "Y"}
    assert check.state is State.LOGOUT


# Bounds


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
def test_a_line_has_a_bound(check: type[MailCheck], line: bytes) -> None:
    end = b'"\r\n' if check is SieveCheck else b"\r\n"
    longest = line.ljust(check.LINE_MAX - len(end), b"x") + end
    too_long = f"the greeting: a line of more than {check.LINE_MAX} bytes"
    talk = check()
    talk.receive(longest)
    assert talk.failure is None
    for wire in (line + b"x" + longest[len(line) :], longest[:-2] + b"xx"):
        for pieces in ([wire], byte_by_byte(wire)):
            talk = check()
            for piece in pieces:
                talk.receive(piece)
            assert talk.is_over
            assert talk.result.info == too_long


@pytest.mark.parametrize(
    ("check", "begin", "line"),
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
def test_an_answer_has_a_bound(check: type[MailCheck], begin: bytes, line: bytes) -> None:
    talk = check()
    if begin:
        talk.receive(begin)
    begun = 5 if check is Pop3Check else 0  # CAPA's +OK is of the same answer
    for _ in range((ANSWER_MAX - begun) // len(line)):
        talk.receive(line)
    assert talk.failure is None
    talk.receive(line)
    assert talk.failure
    assert (
        talk.failure.info
        == f"{State.CAPABILITIES.value if begin else State.GREETING.value}: an answer of more than {ANSWER_MAX} bytes"
    )


@pytest.mark.parametrize(
    ("check", "wire"),
    [
        (ImapCheck, b"* OK\r\n* X {%d}\r\n"),
        (ImapCheck, b"* OK\r\n* X {999999999}\r\n"),
        (SieveCheck, b"{%d}\r\n"),
        (SieveCheck, b'"A" {999999999}\r\n'),
    ],
)
def test_a_literal_that_is_too_long_is_not_waited_for(check: type[MailCheck], wire: bytes) -> None:
    talk = check()
    talk.receive(wire % ANSWER_MAX if b"%d" in wire else wire)
    assert talk.failure
    assert talk.failure.info.endswith(f"an answer of more than {ANSWER_MAX} bytes")


def test_many_answers_may_be_more_than_one() -> None:
    check = ImapCheck()
    check.receive(b"* OK ".ljust(IMAP_LINE_MAX - 2, b"x") + b"\r\n")
    line = b"* 1 X ".ljust(IMAP_LINE_MAX - 2, b"x") + b"\r\n"
    check.receive(line)
    assert check.failure is None


@pytest.mark.parametrize("name", ["", "a b", "a\r\nQUIT", "bücher.example", "x" * (NAME_MAX + 1)])
def test_a_name_is_one(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a host"):
        SmtpCheck(name)


# Pieces and noise

_begins = st.sampled_from([begin for begin, _ in (*RECORDED_CHECKS.values(), *REFUSALS.values())])
_wires = st.sampled_from([server_bytes(book) for _, book in (*RECORDED_CHECKS.values(), *REFUSALS.values())])
_words = st.sampled_from(
    b'* |a1 |a2 |OK|NO|BYE|+OK|-ERR|.|220|250|421|-| |\r\n|{3}\r\n|"|\\|CAPABILITY|STARTTLS|STLS|\n|\0|\xff|('.split(
        b"|"
    )
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """What a real server says with stretches lost, doubled or replaced."""
    data = draw(_wires)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        other = draw(st.one_of(st.just(b""), st.just(data[start:end] * 2), st.binary(max_size=8), _words))
        data = data[:start] + other + data[end:]
    return data


noise = st.one_of(_damaged(), st.lists(_words | st.binary(max_size=4), max_size=30).map(b"".join))


@settings(max_examples=400, deadline=None)
@given(_begins, noise, st.sets(st.integers(1, 400), max_size=12))
def test_any_split_equals_the_whole_and_nothing_is_raised(
    begin: Callable[[], MailCheck], data: bytes, cuts: set[int]
) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places) if a < b]
    check = begin()
    said = outcome(check, [data] if data else [])
    assert said == outcome(begin(), pieces) == outcome(begin(), byte_by_byte(data))
    if check.failure:
        assert check.failure.code in (CheckCode.L7RSP, CheckCode.L7STS)
        assert check.failure.info.isprintable()
        assert len(check.failure.info) <= INFO_MAX


@settings(max_examples=200, deadline=None)
@given(_begins, noise)
def test_every_check_ends_when_the_connection_does(begin: Callable[[], MailCheck], data: bytes) -> None:
    check = begin()
    if data:
        check.receive(data)
    check.receive(b"")
    assert check.is_over
    assert check.result.code in (CheckCode.L7OK, CheckCode.L7RSP, CheckCode.L7STS)
