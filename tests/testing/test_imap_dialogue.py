"""The IMAP dialogue without I/O: transcripts, the table of commands, split input and noise."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.testing import ImapDialogue, Mailstore
from mailproxy.testing.imap.commands import COMMANDS
from mailproxy.testing.imap.session import State
from mailproxy.testing.imap.syntax import LINE_BYTES_MAX

MESSAGE = b"From: a@example.com\r\nSubject: one\r\n two\r\nTo: b@example.com\r\n\r\nHello,\r\nworld.\r\n"
HEADER, _ = MESSAGE.split(b"Hello")
NOON = datetime(2026, 3, 7, 12, 0, tzinfo=UTC)


def store(messages: int = 1) -> Mailstore:
    mailstore = Mailstore({"anna": "pass word", "bert": "x"}, clock=lambda: NOON)
    for _ in range(messages):
        mailstore.mailbox("anna").append(MESSAGE)
    return mailstore


def dialogue(mailstore: Mailstore | None = None, *sent: bytes) -> ImapDialogue:
    session = ImapDialogue("d1", mailstore or store(), message_bytes_max=1000)
    for data in sent:
        session.receive(data)
    return session


LOGIN = b'a LOGIN anna "pass word"\r\n'
SELECT = b"b SELECT INBOX\r\n"


def signed_in(mailstore: Mailstore | None = None) -> ImapDialogue:
    return dialogue(mailstore, LOGIN)


def selected(mailstore: Mailstore | None = None) -> ImapDialogue:
    return dialogue(mailstore, LOGIN, SELECT)


def test_greeting_names_the_server() -> None:
    greeting = dialogue().greeting()
    assert greeting.startswith(b"* OK [CAPABILITY IMAP4rev1 ")
    assert greeting.endswith(b"] d1 ready\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b'a LOGIN anna "pass word"\r\n',
        b"a login anna {9}\r\npass word\r\n",
        b"a login {4+}\r\nanna {9+}\r\npass word\r\n",
        b"a AUTHENTICATE PLAIN " + b64encode(b"\0anna\0pass word") + b"\r\n",
        b"a authenticate plain\r\n" + b64encode(b"\0anna\0pass word") + b"\r\n",
        b'a LOGIN anna "pass word"\n',  # typed into openssl s_client
    ],
)
def test_login_and_authenticate_succeed(sent: bytes) -> None:
    assert dialogue().receive(sent).endswith(b"] signed in at d1\r\n")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"a LOGIN anna wrong\r\n", b"a NO [AUTHENTICATIONFAILED] wrong user or password\r\n"),
        (b"a LOGIN nobody x\r\n", b"a NO [AUTHENTICATIONFAILED] wrong user or password\r\n"),
        (b"a AUTHENTICATE PLAIN =\r\n", b"a BAD not a PLAIN message in base64\r\n"),
        (b"a AUTHENTICATE PLAIN\r\n*\r\n", b"+ \r\na BAD AUTHENTICATE given up\r\n"),
        (b"a AUTHENTICATE CRAM-MD5\r\n", b"a NO PLAIN is the only mechanism\r\n"),
        (b"a LOGIN anna\r\n", b"a BAD 2 arguments are expected, 1 came\r\n"),
        (b'a LOGIN "anna x\r\n', b"a BAD an argument is neither atom, string nor list\r\n"),
        (b"a LOGIN (anna x\r\n", b"a BAD a parenthesis is not closed\r\n"),
        (b"a LOGIN anna x)\r\n", b"a BAD a parenthesis is closed that was not opened\r\n"),
        (b"a LOGIN " + b"(" * 100 + b"\r\n", b"a BAD too many parentheses in each other\r\n"),
        (b"a LOGIN anna {9000}\r\n", b"a NO [TOOBIG] the literal is too long\r\n"),
        (b"a LOGIN anna {9000+}\r\n", b"* BYE the line or literal is too long\r\n"),
        (b"\r\n", b"* BAD a tag and a command are expected\r\n"),
        (b"lonely\r\n", b"* BAD a tag and a command are expected\r\n"),
        (b"a BOGUS\r\n", b"a BAD unknown command\r\n"),
    ],
)
def test_invalid_commands_are_refused(sent: bytes, answer: bytes) -> None:
    assert dialogue().receive(sent) == answer


def test_every_command_checks_the_state() -> None:
    for word, (states, _) in COMMANDS.items():
        for state, session in (
            (State.GREETED, dialogue()),
            (State.AUTHENTICATED, signed_in()),
            (State.SELECTED, selected()),
        ):
            is_allowed = b"is not allowed now" not in session.receive(f"z {word}\r\n".encode())
            assert is_allowed is (state in states), (word, state)


def test_list_and_lsub() -> None:
    mailstore = store()
    for name in ("Archive", "Archive/2026", 'odd "name"'):
        mailstore.mailbox("anna", name)
    session = signed_in(mailstore)
    listing = b'* LIST () "/" "Archive"\r\n* LIST () "/" "Archive/2026"\r\n* LIST () "/" "INBOX"\r\n'
    assert (
        session.receive(b'1 LIST "" *\r\n') == listing + b'* LIST () "/" "odd \\"name\\""\r\n1 OK listed\r\n'
    )
    assert session.receive(b'2 LIST "" "A%"\r\n') == b'* LIST () "/" "Archive"\r\n2 OK listed\r\n'
    assert session.receive(b'3 LSUB "Archive/" "*"\r\n') == b'* LSUB () "/" "Archive/2026"\r\n3 OK listed\r\n'
    # curl sends LIST in this form.
    assert session.receive(b'4 LIST "INBOX" *\r\n') == b'* LIST () "/" "INBOX"\r\n4 OK listed\r\n'
    assert session.receive(b'5 LIST "" inbox\r\n') == b'* LIST () "/" "INBOX"\r\n5 OK listed\r\n'
    assert session.receive(b'6 LIST "" ""\r\n') == b'* LIST (\\Noselect) "/" ""\r\n6 OK listed\r\n'
    assert session.receive(b'7 LIST "" "' + b"*%" * 2000 + b'x"\r\n') == b"7 OK listed\r\n"


def test_create_and_status() -> None:
    session = signed_in()
    assert session.receive(b"1 CREATE Drafts\r\n") == b"1 OK created\r\n"
    assert session.receive(b"2 CREATE inbox\r\n").startswith(b"2 NO [ALREADYEXISTS]")
    assert session.receive(b'3 CREATE ""\r\n').startswith(b"3 BAD")
    assert session.receive(b"4 STATUS inbox (MESSAGES UNSEEN uidnext)\r\n") == (
        b'* STATUS "INBOX" (MESSAGES 1 UNSEEN 1 UIDNEXT 2)\r\n4 OK counted\r\n'
    )
    assert session.receive(b"5 STATUS inbox (SIZE)\r\n").startswith(b"5 BAD")
    assert session.receive(b"6 STATUS other (MESSAGES)\r\n").startswith(b"6 NO")


def test_select_answer() -> None:
    assert signed_in().receive(b"b SELECT inbox\r\n") == (
        b"* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n"
        b"* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)] flags that are kept\r\n"
        b"* 1 EXISTS\r\n* 0 RECENT\r\n"
        b"* OK [UIDVALIDITY 1] for as long as the server runs\r\n* OK [UIDNEXT 2] comes next\r\n"
        b"b OK [READ-WRITE] selected at d1\r\n"
    )


def test_failed_select_deselects_the_mailbox() -> None:
    session = selected()
    assert session.receive(b"c SELECT nowhere\r\n").startswith(b"c NO")
    assert session.receive(b"d FETCH 1 FLAGS\r\n") == b"d BAD FETCH is not allowed now\r\n"


@pytest.mark.parametrize(
    ("items", "answer"),
    [
        (b"FLAGS", b"FLAGS ()"),
        (b"(UID FLAGS)", b"UID 1 FLAGS ()"),
        (b"FAST", b'FLAGS () INTERNALDATE " 7-Mar-2026 12:00:00 +0000" RFC822.SIZE %d' % len(MESSAGE)),
        (b"BODY.PEEK[]", b"BODY[] {%d}\r\n%s" % (len(MESSAGE), MESSAGE)),
        (b"body.peek[text]", b"BODY[TEXT] {16}\r\nHello,\r\nworld.\r\n"),
        (b"BODY.PEEK[1]<7.5>", b"BODY[1]<7> {5}\r\n\nworl"),
        (b"BODY.PEEK[]<1000.5>", b"BODY[]<1000> {0}\r\n"),
        (b"BODY.PEEK[HEADER]", b"BODY[HEADER] {%d}\r\n%s" % (len(HEADER), HEADER)),
        (b"RFC822.HEADER", b"RFC822.HEADER {%d}\r\n%s" % (len(HEADER), HEADER)),
        (
            b"BODY.PEEK[HEADER.FIELDS (subject X)]",
            b"BODY[HEADER.FIELDS (SUBJECT X)] {22}\r\nSubject: one\r\n two\r\n\r\n",
        ),
        (
            b"BODY.PEEK[HEADER.FIELDS.NOT (Subject From)]",
            b"BODY[HEADER.FIELDS.NOT (SUBJECT FROM)] {21}\r\nTo: b@example.com\r\n\r\n",
        ),
    ],
)
def test_fetch_items(items: bytes, answer: bytes) -> None:
    assert (
        selected().receive(b"c FETCH 1 " + items + b"\r\n")
        == b"* 1 FETCH (" + answer + b")\r\nc OK fetched\r\n"
    )


@pytest.mark.parametrize(
    "items", [b"ENVELOPE", b"BODY[9.MIME]", b"()", b"(FLAGS (UID))", b'"FLAGS"', b"BODY[", b""]
)
def test_unknown_fetch_items_are_refused(items: bytes) -> None:
    assert selected().receive(b"c FETCH 1 " + items + b"\r\n").startswith(b"c BAD ")


def test_fetch_body_sets_seen_unless_read_only() -> None:
    mailstore = store()
    examined = dialogue(mailstore, LOGIN, b"b EXAMINE INBOX\r\n")
    assert b"Seen" not in examined.receive(b"c FETCH 1 BODY[]\r\n")
    assert examined.receive(b"d STORE 1 FLAGS (\\Seen)\r\n") == b"d NO the mailbox is selected read-only\r\n"
    answer = selected(mailstore).receive(b"c FETCH 1 (BODY[TEXT])\r\n")
    assert answer.endswith(b")\r\n* 1 FETCH (FLAGS (\\Seen))\r\nc OK fetched\r\n")


@pytest.mark.parametrize(
    ("sequence_set", "expected"),
    [(b"1", [1]), (b"2:4", [2, 3, 4]), (b"4:2,5", [2, 3, 4, 5]), (b"*", [5]), (b"4:*", [4, 5]), (b"9", []),
     (b"1:4294967295", [1, 2, 3, 4, 5])],
)  # fmt: skip
def test_sequence_sets(sequence_set: bytes, expected: list[int]) -> None:
    answer = selected(store(5)).receive(b"c FETCH %s UID\r\n" % sequence_set)
    assert answer == b"".join(b"* %d FETCH (UID %d)\r\n" % (n, n) for n in expected) + b"c OK fetched\r\n"


@pytest.mark.parametrize("sequence_set", [b"0", b"1:", b"a", b"1,,2", b"(1)", b"-1"])
def test_invalid_sequence_sets_are_refused(sequence_set: bytes) -> None:
    assert selected().receive(b"c FETCH %s UID\r\n" % sequence_set).startswith(b"c BAD ")


def test_store_flags() -> None:
    session = selected(store(2))
    assert session.receive(b"1 STORE 1:2 +FLAGS (\\seen $Done)\r\n") == (
        b"* 1 FETCH (FLAGS ($Done \\Seen))\r\n* 2 FETCH (FLAGS ($Done \\Seen))\r\n1 OK stored\r\n"
    )
    assert (
        session.receive(b"2 UID STORE 2 -FLAGS \\Seen\r\n")
        == b"* 2 FETCH (UID 2 FLAGS ($Done))\r\n2 OK stored\r\n"
    )
    assert session.receive(b"3 STORE 1 FLAGS.SILENT ()\r\n") == b"3 OK stored\r\n"
    assert session.receive(b"4 FETCH 1 FLAGS\r\n") == b"* 1 FETCH (FLAGS ())\r\n4 OK fetched\r\n"
    assert session.receive(b"5 STORE 1 FLAGS (not[a]flag)\r\n").startswith(b"5 BAD")
    assert session.receive(b"6 STORE 1 FLAGGED (\\Seen)\r\n").startswith(b"6 BAD")


def test_numbers_and_uids_differ_after_expunge() -> None:
    mailstore = store(3)
    session, other = selected(mailstore), selected(mailstore)
    session.receive(b"1 STORE 1 FLAGS.SILENT (\\Deleted)\r\n")
    assert session.receive(b"2 EXPUNGE\r\n") == b"* 1 EXPUNGE\r\n2 OK expunged\r\n"
    assert session.receive(b"3 UID SEARCH ALL\r\n") == b"* SEARCH 2 3\r\n3 OK searched\r\n"
    assert session.receive(b"4 SEARCH CHARSET UTF-8 ALL\r\n") == b"* SEARCH 1 2\r\n4 OK searched\r\n"
    assert session.receive(b"5 UID FETCH 3 FLAGS\r\n") == b"* 2 FETCH (UID 3 FLAGS ())\r\n5 OK fetched\r\n"
    # The numbers of the other session are valid until a command that may change them.
    assert other.receive(b"6 FETCH 2 UID\r\n") == b"* 2 FETCH (UID 2)\r\n6 OK fetched\r\n"
    assert other.receive(b"7 NOOP\r\n") == b"* 1 EXPUNGE\r\n7 OK nothing done\r\n"


def test_close_expunges_without_responses() -> None:
    mailstore = store(2)
    session = selected(mailstore)
    session.receive(b"1 STORE 2 FLAGS.SILENT (\\Deleted)\r\n")
    assert session.receive(b"2 CLOSE\r\n") == b"2 OK closed\r\n"
    assert list(mailstore.mailbox("anna").messages) == [1]


@pytest.mark.parametrize(
    "options", [b"", b"(\\Seen) ", b'" 1-Feb-2026 03:04:05 +0100" ', b'() "11-Feb-2026 03:04:05 -0330" ']
)
@pytest.mark.parametrize("plus", [b"", b"+"])
def test_append_message(options: bytes, plus: bytes) -> None:
    mailstore = store(0)
    body = b"Subject: {5}\r\n\r\na\0\xff\r\n"
    answer = selected(mailstore).receive(
        b"c APPEND INBOX %s{%d%s}\r\n%s\r\n" % (options, len(body), plus, body)
    )
    assert answer == (b"" if plus else b"+ go ahead\r\n") + b"* 1 EXISTS\r\nc OK appended\r\n"
    message = mailstore.mailbox("anna").messages[1]
    assert message.body == body
    assert message.flags == ({"\\Seen"} if b"Seen" in options else set())
    assert (message.date == NOON) is (b"Feb" not in options)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"c APPEND other {1+}\r\nx\r\n", b"c NO [TRYCREATE] there is no such mailbox\r\n"),
        (b"c APPEND INBOX {1001}\r\n", b"c NO [TOOBIG] the literal is too long\r\n"),
        (b"c APPEND INBOX {1001+}\r\n", b"* BYE the line or literal is too long\r\n"),
        (b"c APPEND INBOX\r\n", b"c BAD APPEND takes a mailbox and a message\r\n"),
        (b'c APPEND INBOX "32-Feb-2026 03:04:05 +0100" {1+}\r\nx\r\n', b"c BAD not a date-time\r\n"),
        (b'c APPEND INBOX "1.2.2026" {1+}\r\nx\r\n', b"c BAD not a date-time\r\n"),
        (
            b"c APPEND INBOX () () {1+}\r\nx\r\n",
            b"c BAD APPEND takes a mailbox, flags, a date and a message\r\n",
        ),
    ],
)
def test_invalid_append_is_refused(sent: bytes, answer: bytes) -> None:
    assert signed_in().receive(sent) == answer


def test_append_before_login_is_limited() -> None:
    assert dialogue().receive(b"c APPEND INBOX {9000}\r\n") == b"c NO [TOOBIG] the literal is too long\r\n"


def test_idle_reports_other_sessions() -> None:
    mailstore, woken = store(), []
    idler = ImapDialogue("d1", mailstore, lambda: woken.append(True))
    idler.receive(LOGIN + SELECT)
    assert idler.receive(b"i IDLE\r\n") == b"+ idling\r\n"
    other = ImapDialogue("d2", mailstore)
    other.receive(LOGIN + SELECT + b"c APPEND INBOX {1+}\r\nx\r\nd STORE 1 FLAGS.SILENT \\Flagged\r\n")
    assert woken
    assert idler.notice() == b"* 2 EXISTS\r\n* 1 FETCH (FLAGS (\\Flagged))\r\n"
    assert idler.notice() == b""
    assert idler.receive(b"done\r\n") == b"i OK idle ended\r\n"
    other.receive(b"e STORE 1 FLAGS.SILENT ()\r\n")
    assert idler.notice() == b""
    assert idler.receive(b"j NOOP\r\n") == b"* 1 FETCH (FLAGS ())\r\nj OK nothing done\r\n"


def test_idle_ends_only_with_done() -> None:
    assert selected().receive(b"i IDLE\r\nx NOOP\r\ny NOOP\r\n") == (
        b"+ idling\r\ni BAD DONE was expected\r\ny OK nothing done\r\n"
    )


def test_logout_stops_watching_the_mailbox() -> None:
    mailstore = store()
    session = selected(mailstore)
    assert session.receive(b"z LOGOUT\r\nlater NOOP\r\n") == b"* BYE d1 says goodbye\r\nz OK signed out\r\n"
    assert session.is_over
    assert mailstore.mailbox("anna").watchers == []


def test_users_have_separate_mailboxes() -> None:
    assert b"* 0 EXISTS" in dialogue(None, b"a LOGIN bert x\r\n").receive(SELECT)


@pytest.mark.parametrize("data", [b"x" * LINE_BYTES_MAX, b"a LOGIN " + b"{0+}\r\n" * LINE_BYTES_MAX])
def test_endless_line_ends_the_dialogue(data: bytes) -> None:
    session = dialogue()
    assert session.receive(data).endswith(b"* BYE the line or literal is too long\r\n")
    assert session.is_over


COMMANDS_AND_NOISE = st.lists(
    st.sampled_from(
        [
            LOGIN, SELECT, b"c NOOP\r\n", b"c CAPABILITY\r\n", b'c LIST "" *\r\n', b"c EXAMINE inbox\n",
            b"c STATUS INBOX (MESSAGES UIDNEXT)\r\n", b"c FETCH 1:* (FLAGS BODY[])\r\n", b"c UID FETCH 1:* FAST\r\n",
            b"c APPEND INBOX (\\Seen) {3}\r\na\nb\r\n", b"c APPEND INBOX {5+}\r\nabcde\r\n", b"c SEARCH ALL\r\n",
            b"c STORE 1 +FLAGS (\\Deleted)\r\n", b"c EXPUNGE\r\n", b"c IDLE\r\n", b"DONE\r\n", b"c CLOSE\r\n",
            b"c LOGIN {4}\r\nanna {9+}\r\npass word\r\n", b"c AUTHENTICATE PLAIN\r\n", b"*\r\n", b"c CREATE {3}\r\nxyz\r\n",
            b"c APPEND INBOX {2000}\r\n", b"c CHECK\r\n", b"\r\n", b"{", b"(", b'"', b"\0", b"\xff", b" ", b"{1}\r\n",
        ]
    )
    | st.binary(max_size=20),
    max_size=15,
).map(b"".join)  # fmt: skip


@given(data=COMMANDS_AND_NOISE, is_signed_in=st.booleans(), cuts=st.lists(st.integers(0, 200), max_size=20))
def test_split_input_gives_the_same_answers(data: bytes, is_signed_in: bool, cuts: list[int]) -> None:
    data = LOGIN + SELECT + data if is_signed_in else data
    unsplit, split = dialogue(), dialogue()
    boundaries = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    answers = b"".join(split.receive(data[start:end]) for start, end in pairwise(boundaries))
    assert answers == unsplit.receive(data)
    assert split.is_over is unsplit.is_over


@given(data=COMMANDS_AND_NOISE)
def test_bytewise_input_gives_the_same_answers(data: bytes) -> None:
    session = dialogue()
    assert b"".join(session.receive(data[i : i + 1]) for i in range(len(data))) == dialogue().receive(data)


@given(st.binary(max_size=300), st.booleans())
def test_noise_never_raises(noise: bytes, is_signed_in: bool) -> None:
    session = selected() if is_signed_in else dialogue()
    for line in session.receive(noise).splitlines():
        assert line.startswith((b"* ", b"+ ")) or b" BAD " in line or b" NO " in line or b" OK " in line
