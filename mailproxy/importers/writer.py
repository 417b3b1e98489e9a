"""Write a draft as TOML, as a person would: keys in the reference's order, short tables on one line, comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache

from mailproxy.config import model
from mailproxy.config.fields import SHORT_FORMS, keys_of
from mailproxy.importers.draft import Path, Scalar, Table, Value
from mailproxy.importers.models import key_of, owners
from mailproxy.importers.place import NO_COMMENTS, VARIABLE_END, VARIABLE_START, Comments

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN = re.compile(r"[ !#%-\[\]-~]*")  # no escapes are needed, as in nearly all strings
_INLINE_MAX = 100  # characters of a table on one line
_ROW_MAX = 160  # characters of a row of a list of tables; a list with longer rows gets headings
_LIST_MAX = 110
# Lists of tables that get a heading for each row.
_HEADED = (model.Route, model.LogOutput, model.AdminSocket)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def write(draft: Table) -> str:
    """Return a draft as the text of a TOML file."""
    parts: list[str] = []
    for path, table, kind in owners(draft):
        part = "\n".join(_section(path, table, kind))
        if part:
            parts.append(part)
    head = _comments_above(draft.comments)
    return "\n\n".join([*(["\n".join(head)] if head else []), *parts]) + "\n" if parts or head else ""


def _section(path: Path, table: Table, kind: type | None) -> Iterator[str]:
    """Yield the lines of a table with a heading, and of the tables below it that have headings of their own."""
    inside: list[str] = []
    below: list[str] = []
    for name in _ordered(table, kind):
        item = table.keys[name]
        if isinstance(item, Value):
            inside += _value(name, item)
            continue
        table_type = _type_of(kind, name)
        if isinstance(item, Table):
            if (line := _inline(item, table_type)) is not None and len(name) + len(line) < _INLINE_MAX:
                inside.append(f"{_name(name)} = {line}")
            else:
                below.append("\n".join(_section((*path, name), item, table_type)))
        elif (lines := _rows(name, item, table_type)) is not None:
            inside += lines
        else:
            below += ["\n".join(_row_section((*path, name), row, table_type)) for row in item]
    if inside or (not below and len(path) > 1) or table.comments.above:
        yield from _comments_above(table.comments)
        yield f"[{_dotted(path)}]{_beside(table.comments)}"
        yield from inside
    for number, part in enumerate(below):
        if inside or number:
            yield ""
        yield part


def _row_section(path: Path, row: Table, kind: type | None) -> Iterator[str]:
    yield from _comments_above(row.comments)
    yield f"[[{_dotted(path)}]]{_beside(row.comments)}"
    for name in _ordered(row, kind):
        item = row.keys[name]
        if isinstance(item, Value):
            yield from _value(name, item)
        elif isinstance(item, Table):
            yield f"{_name(name)} = {_inline(item, _type_of(kind, name), forced=True)}"
        else:
            yield from _rows(name, item, _type_of(kind, name), forced=True) or ()


def _ordered(table: Table, kind: type | None) -> list[str]:
    """Return the keys of a table in the order of the reference."""
    if kind is None or len(table.keys) < 2:
        return list(table.keys)
    order = _positions(kind)
    return sorted(table.keys, key=lambda name: order.get(name, len(order)))


@cache
def _positions(kind: type) -> Mapping[str, int]:
    """Return the position of each key in the reference."""
    return {name: number for number, name in enumerate(keys_of(kind))}


def _type_of(kind: type | None, name: str) -> type | None:
    key = key_of(kind, name)
    return None if key is None else key.table


def _value(name: str, item: Value) -> list[str]:
    text = f"{_name(name)} = {to_toml(item.value)}"
    if isinstance(item.value, list) and len(text) > _LIST_MAX:
        text = "\n".join([f"{_name(name)} = [", *(f"  {to_toml(each)}," for each in item.value), "]"])
    if item.comments is NO_COMMENTS:
        return [text]
    return [*_comments_above(item.comments), text + _beside(item.comments)]


def _inline(table: Table, kind: type | None, *, forced: bool = False) -> str | None:
    """Return a table on one line; None if it has comments of its own, or rows with comments."""
    short = SHORT_FORMS.get(kind) if kind is not None else None
    parts: list[str] = []
    for name in _ordered(table, kind):
        item = table.keys[name]
        if isinstance(item, Value):
            if not forced and (item.comments.above or item.comments.beside):
                return None
            parts.append(f"{_name(name)} = {to_toml(item.value)}")
            continue
        if (
            isinstance(item, list)
            and not forced
            and any(name in row for row in item for name in ("connect", "send", "expect"))
        ):
            return None
        rows = [item] if isinstance(item, Table) else item
        lines = [_inline(row, _type_of(kind, name), forced=forced) for row in rows]
        if any(line is None for line in lines) or (
            not forced and any(row.comments != NO_COMMENTS for row in rows)
        ):
            return None
        joined = ", ".join(map(str, lines))
        parts.append(f"{_name(name)} = {joined if isinstance(item, Table) else f'[{joined}]'}")
    if short is not None and list(table.keys) == [short]:
        value = table.keys[short]
        if isinstance(value, Value):
            return to_toml(value.value)
    return f"{{ {', '.join(parts)} }}" if parts else "{}"


def _rows(name: str, rows: Sequence[Table], kind: type | None, *, forced: bool = False) -> list[str] | None:
    """Return the lines of a list of tables; None if each row gets a heading."""
    if kind in _HEADED and not forced:
        return None
    lines = [_inline(row, kind, forced=True) or "{}" for row in rows]
    if max(map(len, lines), default=0) > _ROW_MAX and not forced:
        return None
    comments = [_all_comments(row) for row in rows]
    has_comments = any(each != NO_COMMENTS for each in comments)
    whole = f"{_name(name)} = [{', '.join(lines)}]"
    if (
        not has_comments
        and (len(rows) == 1 or not any(line.startswith("{") for line in lines))
        and len(whole) <= _LIST_MAX
    ):
        return [whole]
    written = [f"{_name(name)} = ["]
    for own, line in zip(comments, lines, strict=True):
        written += [f"  {comment}" for comment in _comments_above(own)]
        written.append(f"  {line},{_beside(own)}")
    return [*written, "]"]


def _all_comments(table: Table) -> Comments:
    """Return the comments of a table on one line, with those of its values."""
    given = [table.comments, *(value.comments for _, value in table.values())]
    given = [comments for comments in given if comments is not NO_COMMENTS]
    if not given:
        return NO_COMMENTS
    above = [line for comments in given for line in comments.above]
    beside = [comments.beside for comments in given if comments.beside]
    return Comments((*above, *beside[1:]), beside[0] if beside else "")


def _comments_above(comments: Comments) -> Sequence[str]:
    return [f"# {_comment(line)}".rstrip() for line in comments.above] if comments.above else ()


def _beside(comments: Comments) -> str:
    return f"  # {_comment(comments.beside)}" if comments.beside else ""


def _comment(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)


def _dotted(path: Iterable[str | int]) -> str:
    return ".".join([_name(str(step)) for step in path])


@lru_cache(maxsize=1_000)
def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name, is_key=True)


def to_toml(value: Scalar) -> str:
    """Return a single value, or a list of them, as in TOML."""
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    return repr(value)


def _string(text: str, *, is_key: bool = False) -> str:
    if _PLAIN.fullmatch(text):
        return f'"{text}"'
    if not is_key:
        # The configuration replaces variables of the environment in values.
        text = text.replace("$", "$$").replace(VARIABLE_START, "${").replace(VARIABLE_END, "}")
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"  # a regular expression stays as it is
    return '"' + "".join(_character(char) for char in text) + '"'


def _character(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return (
        char
        if char.isprintable()
        else (f"\\u{ord(char):04X}" if ord(char) < 0x10000 else f"\\U{ord(char):08X}")
    )
