"""The IMAP commands: what each does to a session, and in which states it is allowed (RFC 3501 section 6, 2177, 4959).

A command returns the text of its tagged OK. It raises Refusal for NO and SyntaxFault for BAD.
"""

from __future__ import annotations

import re
from base64 import b64decode
from functools import partial
from typing import TYPE_CHECKING

from mailproxy.testing.imap.fetch import fetch_items
from mailproxy.testing.imap.mailstore import INBOX
from mailproxy.testing.imap.session import ImapSession, Refusal, State
from mailproxy.testing.imap.syntax import Atom, SyntaxFault, Token, read_date, write_quoted

if TYPE_CHECKING:
    from collections.abc import Callable

CAPABILITIES = "IMAP4rev1 LITERAL+ SASL-IR IDLE AUTH=PLAIN"
_FLAGS = r"\Answered \Flagged \Deleted \Seen \Draft"
_FLAG = re.compile(r"\\?[!#$&'+,\-./0-9:;<=>?@A-Z^_`a-z|}~]{1,64}")
_MAILBOX_NAME = re.compile(r"[ -~]{1,255}")
_STORE_TAKES = "STORE takes numbers, FLAGS, +FLAGS or -FLAGS, and flags"


def capability(session: ImapSession, arguments: list[Token]) -> str:
    _expect(arguments, 0)
    session.send(f"* CAPABILITY {CAPABILITIES}")
    return "capabilities listed"


def noop(_session: ImapSession, arguments: list[Token]) -> str:
    _expect(arguments, 0)
    return "nothing done"


def logout(session: ImapSession, arguments: list[Token]) -> str:
    _expect(arguments, 0)
    session.send(f"* BYE {session.name} says goodbye")
    session.end()
    return "signed out"


def login(session: ImapSession, arguments: list[Token]) -> str:
    user, password = _expect(arguments, 2)
    return _log_in(session, _text(user), _text(password))


def authenticate(session: ImapSession, arguments: list[Token]) -> str:
    mechanism, *initial = arguments or [b""]
    if _text(mechanism).upper() != "PLAIN" or len(initial) > 1:
        raise Refusal("PLAIN is the only mechanism")
    if initial:
        return _take_plain(session, _text(initial[0]).encode())
    session.send("+ ")
    session.take_line = partial(_take_plain, session)
    return ""


def _take_plain(session: ImapSession, line: bytes) -> str:
    if line == b"*":
        raise SyntaxFault("AUTHENTICATE given up")
    try:
        _, user, password = b64decode(line, validate=True).decode().split("\0")  # RFC 4616 section 2
    except ValueError:
        raise SyntaxFault("not a PLAIN message in base64") from None
    return _log_in(session, user, password)


def _log_in(session: ImapSession, user: str, password: str) -> str:
    session.log_in(user, password)
    return f"[CAPABILITY {CAPABILITIES}] signed in at {session.name}"


def list_mailboxes(session: ImapSession, arguments: list[Token], answer: str = "LIST") -> str:
    reference, pattern = (_text(argument) for argument in _expect(arguments, 2))
    if not pattern:  # the client asks for the delimiter
        session.send(rf'* {answer} (\Noselect) "/" ""')
        return "listed"
    matches = _mailbox_pattern(reference + pattern)
    for name in sorted(session.store.mailboxes(session.user)):
        if matches.fullmatch(name):
            session.send(f'* {answer} () "/" ', write_quoted(name))
    return "listed"


def list_subscribed(session: ImapSession, arguments: list[Token]) -> str:
    return list_mailboxes(session, arguments, "LSUB")


def status(session: ImapSession, arguments: list[Token]) -> str:
    name, wanted = _expect(arguments, 2)
    mailbox = session.find(_mailbox_name(name))
    counts = {
        "MESSAGES": len(mailbox.messages),
        "RECENT": 0,
        "UIDNEXT": mailbox.next_uid,
        "UIDVALIDITY": mailbox.uid_validity,
        "UNSEEN": sum(r"\Seen" not in message.flags for message in mailbox.messages.values()),
    }
    words = [_text(word).upper() for word in wanted] if isinstance(wanted, list) else []
    if not words or not counts.keys() >= set(words):
        raise SyntaxFault(f"STATUS takes a list of {', '.join(counts)}")
    items = " ".join(f"{word} {counts[word]}" for word in words)
    session.send("* STATUS ", write_quoted(mailbox.name), f" ({items})")
    return "counted"


def create(session: ImapSession, arguments: list[Token]) -> str:
    (argument,) = _expect(arguments, 1)
    name = _mailbox_name(argument)
    if not _MAILBOX_NAME.fullmatch(name):
        raise SyntaxFault("a mailbox's name is up to 255 printable ASCII characters")
    if name in session.store.mailboxes(session.user):
        raise Refusal("[ALREADYEXISTS] the mailbox is there")
    session.store.mailbox(session.user, name)
    return "created"


def append(session: ImapSession, arguments: list[Token]) -> str:
    """Append a message. The arguments are mailbox, optional flags, optional date, message."""
    if len(arguments) < 2:
        raise SyntaxFault("APPEND takes a mailbox and a message")
    name, *options, body = arguments
    flags = options.pop(0) if options and isinstance(options[0], list) else []
    date = options.pop(0) if options else None
    if (
        options
        or not isinstance(flags, list)
        or not isinstance(date, bytes | None)
        or not isinstance(body, bytes)
    ):
        raise SyntaxFault("APPEND takes a mailbox, flags, a date and a message")
    mailbox = session.find(_mailbox_name(name), "[TRYCREATE] ")
    mailbox.append(body, _flags(flags), None if date is None else read_date(date))
    return "appended"


def idle(session: ImapSession, arguments: list[Token]) -> str:
    _expect(arguments, 0)
    session.send("+ idling")
    session.is_idle, session.take_line = True, partial(_take_done, session)
    return ""


def _take_done(session: ImapSession, line: bytes) -> str:
    session.is_idle = False
    session.update()
    if line.upper() != b"DONE":
        raise SyntaxFault("DONE was expected")
    return "idle ended"


def select(session: ImapSession, arguments: list[Token], *, is_read_only: bool = False) -> str:
    (name,) = _expect(arguments, 1)
    session.unselect()  # even if the new mailbox does not exist
    mailbox = session.find(_mailbox_name(name))
    session.select(mailbox, is_read_only=is_read_only)
    session.send(f"* FLAGS ({_FLAGS})")
    session.send("* OK [PERMANENTFLAGS (", "" if is_read_only else rf"{_FLAGS} \*", ")] flags that are kept")
    session.send(f"* {len(session.view)} EXISTS")
    session.send("* 0 RECENT")
    session.send(f"* OK [UIDVALIDITY {mailbox.uid_validity}] for as long as the server runs")
    session.send(f"* OK [UIDNEXT {mailbox.next_uid}] comes next")
    return f"[{'READ-ONLY' if is_read_only else 'READ-WRITE'}] selected at {session.name}"


def examine(session: ImapSession, arguments: list[Token]) -> str:
    return select(session, arguments, is_read_only=True)


def close(session: ImapSession, arguments: list[Token]) -> str:
    _expect(arguments, 0)
    if not session.is_read_only:
        session.mailbox.expunge()
    session.unselect()
    return "closed"


def expunge(session: ImapSession, arguments: list[Token]) -> str:
    _expect(arguments, 0)
    session.writable.expunge()
    return "expunged"


def search(session: ImapSession, arguments: list[Token], *, by_uid: bool = False) -> str:
    words = [_text(argument).upper() for argument in arguments]
    if words[:1] == ["CHARSET"]:
        del words[:2]
    if words != ["ALL"]:
        raise SyntaxFault("SEARCH knows ALL and nothing else")
    numbers = session.view if by_uid else range(1, len(session.view) + 1)
    session.send(" ".join(["* SEARCH", *map(str, numbers)]))
    return "searched"


def fetch(session: ImapSession, arguments: list[Token], *, by_uid: bool = False) -> str:
    numbers, asked = _expect(arguments, 2)
    items = fetch_items(asked)
    if by_uid and all(item.name != "UID" for item in items):
        items = [*fetch_items(Atom("UID")), *items]
    marks_seen = any(item.marks_seen for item in items) and not session.is_read_only
    for number, message in session.messages_in(_text(numbers), by_uid=by_uid):
        if marks_seen:
            session.mailbox.flag(message.uid, message.flags | {r"\Seen"})
        parts: list[bytes] = []
        for item in items:
            parts += [b" ", item.name.encode(), b" ", item.write(message)]
        session.send(f"* {number} FETCH (", *parts[1:], ")")
    return "fetched"


def store(session: ImapSession, arguments: list[Token], *, by_uid: bool = False) -> str:
    if len(arguments) < 3:
        raise SyntaxFault(_STORE_TAKES)
    numbers, item, *rest = arguments
    verb, _, silent = _text(item).upper().partition(".")
    if verb not in _STORE_VERBS or silent not in ("", "SILENT"):
        raise SyntaxFault(_STORE_TAKES)
    listed = rest[0] if len(rest) == 1 else None
    flags = _flags(listed if isinstance(listed, list) else rest)
    mailbox = session.writable
    for number, message in session.messages_in(_text(numbers), by_uid=by_uid):
        mailbox.flag(message.uid, _STORE_VERBS[verb](message.flags, flags))
        if silent:
            session.view[message.uid] = message.flags
        else:
            session.send_flags(number, message, with_uid=by_uid)
    return "stored"


def uid(session: ImapSession, arguments: list[Token]) -> str:
    match _text(arguments[0]).upper() if arguments else "":
        case "FETCH":
            return fetch(session, arguments[1:], by_uid=True)
        case "STORE":
            return store(session, arguments[1:], by_uid=True)
        case "SEARCH":
            return search(session, arguments[1:], by_uid=True)
    raise SyntaxFault("UID takes FETCH, STORE or SEARCH")


def _expect(arguments: list[Token], count: int) -> list[Token]:
    if len(arguments) != count:
        raise SyntaxFault(f"{count} arguments are expected, {len(arguments)} came")
    return arguments


def _text(token: Token) -> str:
    if isinstance(token, list):
        raise SyntaxFault("a list where a string is expected")
    try:
        return token if isinstance(token, str) else token.decode()
    except UnicodeDecodeError:
        raise SyntaxFault("a string is not UTF-8") from None


def _flags(tokens: list[Token]) -> frozenset[str]:
    flags = [_text(token) for token in tokens]
    if not all(_FLAG.fullmatch(flag) for flag in flags):
        raise SyntaxFault("not a flag")
    # Flags are compared without case (RFC 3501 section 9, note 1); keywords are kept as the client writes them.
    return frozenset("\\" + flag[1:].title() if flag.startswith("\\") else flag for flag in flags)


def _mailbox_name(token: Token) -> str:
    name = _text(token)
    return INBOX if name.upper() == INBOX else name


def _mailbox_pattern(pattern: str) -> re.Pattern[str]:
    """Translate ``*``, and ``%`` which stops at the delimiter. INBOX matches in any case."""
    # Repeated wildcards become one: with several ways to match, the expression would be extremely slow.
    pattern = re.sub(r"[*%]*\*[*%]*", "*", pattern)
    pattern = re.sub(r"%+", "%", pattern)
    pattern = re.sub(r"(?i)\AINBOX(?=\Z|[/*%])", INBOX, pattern)
    words = {"*": ".*", "%": "[^/]*"}
    return re.compile("".join(words.get(char) or re.escape(char) for char in pattern))


_STORE_VERBS: dict[str, Callable[[frozenset[str], frozenset[str]], frozenset[str]]] = {
    "FLAGS": lambda _, new: new,
    "+FLAGS": lambda old, new: old | new,
    "-FLAGS": lambda old, new: old - new,
}

_SELECTED = frozenset({State.SELECTED})
_LOGGED_IN = frozenset({State.AUTHENTICATED, State.SELECTED})
_NOT_LOGGED_IN = frozenset({State.GREETED})
_ANY = _NOT_LOGGED_IN | _LOGGED_IN

COMMANDS: dict[str, tuple[frozenset[State], Callable[[ImapSession, list[Token]], str]]] = {
    "CAPABILITY": (_ANY, capability),
    "NOOP": (_ANY, noop),
    "LOGOUT": (_ANY, logout),
    "LOGIN": (_NOT_LOGGED_IN, login),
    "AUTHENTICATE": (_NOT_LOGGED_IN, authenticate),
    "LIST": (_LOGGED_IN, list_mailboxes),
    "LSUB": (_LOGGED_IN, list_subscribed),
    "STATUS": (_LOGGED_IN, status),
    "CREATE": (_LOGGED_IN, create),
    "SELECT": (_LOGGED_IN, select),
    "EXAMINE": (_LOGGED_IN, examine),
    "APPEND": (_LOGGED_IN, append),
    "IDLE": (_LOGGED_IN, idle),
    "CHECK": (_SELECTED, noop),
    "CLOSE": (_SELECTED, close),
    "EXPUNGE": (_SELECTED, expunge),
    "SEARCH": (_SELECTED, search),
    "FETCH": (_SELECTED, fetch),
    "STORE": (_SELECTED, store),
    "UID": (_SELECTED, uid),
}
