"""The items of IMAP's FETCH (RFC 3501 section 6.4.5), without ENVELOPE and BODYSTRUCTURE."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import frozen

from mailproxy.testing.imap.syntax import Atom, SyntaxFault, Token, write_date, write_literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailproxy.testing.imap.mailstore import Message

_SECTION = re.compile(r"BODY(\.PEEK)?\[([^\]]*)\](?:<([0-9]{1,10})\.([0-9]{1,10})>)?", re.IGNORECASE)
_FIELDS = re.compile(r"HEADER\.FIELDS(\.NOT)? \(([^()]*)\)", re.IGNORECASE)
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[^\n]*\n?(?:[ \t][^\n]*\n?)*")


@frozen
class FetchItem:
    r"""One item of a FETCH command.

    Attributes:
        name: Its name in the answer.
        write: Returns its value for a message.
        marks_seen: Whether it sets the flag ``\Seen``.
    """

    name: str
    write: Callable[[Message], bytes]
    marks_seen: bool = False


def fetch_items(argument: Token) -> list[FetchItem]:
    """Read the second argument of FETCH: an item, a list of items, or FAST. Raise SyntaxFault for anything else."""
    if isinstance(argument, Atom) and argument.upper() == "FAST":
        return [_PLAIN[name] for name in ("FLAGS", "INTERNALDATE", "RFC822.SIZE")]
    words = argument if isinstance(argument, list) else [argument]
    items = [_item(word) for word in words if isinstance(word, Atom)]
    if not items or len(items) < len(words):
        raise SyntaxFault("FETCH takes items")
    return items


def write_flags(flags: frozenset[str]) -> bytes:
    """Return flags as a parenthesized list."""
    return f"({' '.join(sorted(flags))})".encode()


def _item(word: str) -> FetchItem:
    if plain := _PLAIN.get(word.upper()):
        return plain
    section = _SECTION.fullmatch(word)
    if not section:
        raise SyntaxFault("FETCH does not know this item")
    peek, part, first, count = section.groups()
    name, cut = f"BODY[{part.upper()}]", _section(part)
    if first is None:
        return FetchItem(name, lambda message: write_literal(cut(message.body)), marks_seen=not peek)
    start, stop = int(first), int(first) + int(count)
    return FetchItem(
        f"{name}<{start}>", lambda message: write_literal(cut(message.body)[start:stop]), marks_seen=not peek
    )


def _section(part: str) -> Callable[[bytes], bytes]:
    if plain := _SECTIONS.get(part.upper()):
        return plain
    fields = _FIELDS.fullmatch(part)
    if not fields:
        raise SyntaxFault("FETCH does not know this section")
    names = {name.strip('"').lower() for name in fields[2].split()}
    return lambda body: _only_fields(_header(body), names, is_inverted=bool(fields[1]))


def _header(body: bytes) -> bytes:
    """Return the header with the empty line that ends it."""
    end = re.search(rb"(?:\A|\r?\n)\r?\n", body)
    return body[: end.end()] if end else body


def _text(body: bytes) -> bytes:
    return body[len(_header(body)) :]


def _only_fields(header: bytes, names: set[str], *, is_inverted: bool) -> bytes:
    fields = (
        field[0]
        for field in _FIELD.finditer(header)
        if (field[1].decode().lower() in names) is not is_inverted
    )
    return b"".join(fields) + b"\r\n"


_SECTIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "HEADER": _header,
    "TEXT": _text,
    "1": _text,  # a message without parts has one (RFC 3501 section 6.4.5)
}

_PLAIN = {
    item.name: item
    for item in (
        FetchItem("FLAGS", lambda message: write_flags(message.flags)),
        FetchItem("UID", lambda message: b"%d" % message.uid),
        FetchItem("INTERNALDATE", lambda message: write_date(message.date)),
        FetchItem("RFC822.SIZE", lambda message: b"%d" % len(message.body)),
        FetchItem("RFC822", lambda message: write_literal(message.body), marks_seen=True),
        FetchItem("RFC822.HEADER", lambda message: write_literal(_header(message.body))),
        FetchItem("RFC822.TEXT", lambda message: write_literal(_text(message.body)), marks_seen=True),
    )
}
