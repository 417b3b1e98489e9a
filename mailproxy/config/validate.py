"""Checking tables where they stand in the file: unknown keys, values of the wrong kind, values of a later version.

Every table is looked at in place, also defaults and profiles that nobody uses, so that a fault names the line that
has to change and not the place that inherited it. What is missing is found later, when all layers are merged.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import Factory, define

from mailproxy.config import model
from mailproxy.config.fields import COMPLETE, SHORT_FORMS, SWITCHABLE, Key, keys_of
from mailproxy.config.key_paths import join
from mailproxy.config.lint.hints import about_key, about_value
from mailproxy.config.units import write_duration
from mailproxy.config.values import (
    KINDS,
    Account,
    Expanded,
    InvalidValueError,
    Mode,
    ProxySource,
    Seconds,
    TimeLimit,
    ValueType,
    printable,
    to_display,
)
from mailproxy.errors import Fault

Table = dict[str, Any]
_KEY_OF_PATH = re.compile(r"^.*\.|\[[0-9]+\]$")  # what stands around the key itself


@define
class Diagnostics:
    """What has been found so far. ``bad`` has the paths of keys that were dropped, so that nobody misses them again."""

    faults: list[Fault] = Factory(list)
    invalid_paths: set[str] = Factory(set)

    def add(self, path: str, fact: str) -> None:
        fault = Fault(path, fact)
        if fault not in self.faults:
            self.faults.append(fault)

    def drop(self, path: str, fact: str) -> None:
        """A fault of a key that is then treated as if it were not there."""
        self.add(path, fact)
        self.invalid_paths.add(path)


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """``, did you mean …?`` where something known is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f", did you mean {printable(close[0])}?" if close else ""


def unknown(name: str, known: Iterable[str], table: type | None = None) -> str:
    """The fact about an unknown key: what another proxy's word is here, the nearest, where it belongs, or all there are.

    ``table``: the one in which it was found; None for what has no keys of its own.
    """
    known = list(known)
    if answer := about_key(name, table):
        return f"unknown key: {answer}"
    close = nearest(name, known)
    homes = [
        title for title, home in _TITLES.items() if name in keys_of(home) and name not in ("name", "profile")
    ]
    # an exact home elsewhere says more than a far cry here
    if homes and not nearest(name, known, cutoff=0.8):
        return f"unknown key here, it is one of {' and of '.join(homes)}; known here are {', '.join(known)}"
    return f"unknown key{close or '; known are ' + ', '.join(known)}"


_TITLES = {
    "a frontend": model.Frontend, "a frontend's timeouts": model.FrontendTimeouts, "a frontend's tls": model.FrontendTls,
    "max_session_rate_per_client": model.SessionRate, "a bind": model.Bind, "a route": model.Route, "a backend": model.Backend,
    "a backend's timeouts": model.BackendTimeouts, "a backend's tls": model.ServerTls, "a server": model.Server,
    "a check": model.Check, "stick": model.Stick, "[process]": model.Process, "[log]": model.Log,
}  # fmt: skip


def check_table(
    table_type: type, value: object, path: str, found: Diagnostics, *, without: tuple[str, ...] = ()
) -> Table:
    """The table with its bad keys dropped; short forms written out. ``without``: keys that do not stand in the file."""
    if not isinstance(value, dict):
        words = f"a table, [{path}] with one pair of brackets" if _is_list_of_tables(value) else "a table"
        found.drop(path, f"{to_display(value)} is not allowed: {words}")
        return {}
    keys = {name: key for name, key in keys_of(table_type).items() if name not in without}
    clean: Table = {}
    for name, item in value.items():
        here = join(path, name)
        if here in found.invalid_paths:  # its environment variable is missing: said once
            continue
        key = keys.get(name)
        if key is None:
            found.drop(here, unknown(name, keys, table_type))
            continue
        checked = _check_key(key, item, here, found)
        if here not in found.invalid_paths:
            clean[name] = checked
    return clean


def _check_key(key: Key, value: object, path: str, found: Diagnostics) -> object:
    if key.is_list:
        checked = _check_list(key, value, path, found)
    elif key.table is not None:
        checked = _check_nested(key, key.table, value, path, found)
    else:
        assert key.kind is not None  # noqa: S101 - a key without table has a kind
        checked = _check_value(key.kind, value, path, found)
    if key.supported is not None and path not in found.invalid_paths and not _is_off(key, checked):
        words = " or ".join(to_toml(key, value) for value in key.supported if value is not None)
        found.drop(path, f"{to_display(value)} is not supported yet" + (f": only {words}" if words else ""))
    return checked


def _check_value(kind: ValueType, value: object, path: str, found: Diagnostics) -> object:
    try:
        structured = kind.structure(value)
    except InvalidValueError as error:
        remedy = about_value(_KEY_OF_PATH.sub("", path), value) or _written_otherwise(kind, value)
        found.drop(path, f"{to_display(value)} is not allowed: {remedy}" if remedy else str(error))
        return value
    # The word that a variable of the environment gave would count as true, whichever it is.
    return structured if isinstance(structured, bool) else value


def _written_otherwise(kind: ValueType, value: object) -> str:
    """How to write a value that is of its kind but for its quotes or brackets; empty for any other."""
    if isinstance(value, str) and _fits(kind, Expanded(value)):
        return f"without quotes, {printable(value)}"
    if isinstance(value, str) and _fits(kind, [value]):
        return f"in a list, [{to_display(value)}]"
    # Any number would make a text; only where texts have a form does one say what was meant.
    has_form = "enum" in kind.schema or "pattern" in kind.schema
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and kind is KINDS[Account]:
        return f'write "#{value}"'
    if is_number and has_form and _fits(kind, to_display(value)):
        return f'in quotes, "{value}"'
    return ""


def _fits(kind: ValueType, value: object) -> bool:
    try:
        kind.structure(value)
    except ValueError:
        return False
    return True


def _check_list(key: Key, value: object, path: str, found: Diagnostics) -> object:
    if not isinstance(value, list):
        found.drop(path, f"{to_display(value)} is not allowed: {_list_in_words(key, value, path)}")
        return value
    items: list[object] = []
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if here in found.invalid_paths:  # its environment variable is missing: said once
            found.invalid_paths.add(path)
        elif key.table in COMPLETE:
            items.append(_check_complete(key.table, item, here, found))
            if here in found.invalid_paths:
                found.invalid_paths.add(path)
        elif key.table is not None:
            items.append(check_table(key.table, _long_form(key.table, item), here, found))
        else:
            assert key.kind is not None  # noqa: S101 - a key without table has a kind
            items.append(_check_value(key.kind, item, here, found))
            if here in found.invalid_paths:
                found.invalid_paths.add(path)
    return items


def _list_in_words(key: Key, value: object, path: str) -> str:
    """What to write for a list instead of this."""
    kind = _kind_of_items(key)
    if kind is None:
        is_short = isinstance(value, str) and key.table in SHORT_FORMS
        return f"a list{f', [{to_display(value)}], or' if is_short else ' of'} tables, [[{path}]]"
    if not isinstance(value, bool) and _fits(kind, value):
        return f"a list, [{to_display(value)}]"
    example = ', such as ["10.0.0.0/8"]' if value is True and kind is KINDS[ProxySource] else ""
    return f"a list{example}; each {kind.allowed}"


def _kind_of_items(key: Key) -> ValueType | None:
    """The kind of a list's items, or of their short form; None for lists of tables that inherit."""
    if key.table in COMPLETE:
        return keys_of(key.table)[SHORT_FORMS[key.table]].kind
    return None if key.table else key.kind


def _check_complete(table: type[Any], value: object, path: str, found: Diagnostics) -> Table:
    """A table that inherits nothing, or its short form. ``path`` is bad if any of its keys is, or a required one is missing."""
    keys = keys_of(table)
    short = keys[SHORT_FORMS[table]]
    if not isinstance(value, dict):
        assert short.kind is not None  # noqa: S101 - short forms are single values
        return {short.name: _check_value(short.kind, value, path, found)}
    checked = check_table(table, value, path, found)
    missing = [key for key in keys.values() if key.required and key.name not in value]
    for key in missing:
        found.add(path, f"{key.name} is missing: {key.description}")
    if missing or any(bad.startswith(f"{path}.") for bad in found.invalid_paths):
        found.invalid_paths.add(path)
    return checked


def _check_nested(key: Key, table: type, value: object, path: str, found: Diagnostics) -> object:
    if value is False and table in SWITCHABLE:
        return False
    if key.kind is not None and not isinstance(value, (dict, list)):
        return _check_value(key.kind, value, path, found)
    return check_table(table, _long_form(table, value), path, found)


def _long_form(table: type, value: object) -> object:
    short = SHORT_FORMS.get(table)
    return {short: value} if short and isinstance(value, str) else value


def _is_off(key: Key, value: object) -> bool:
    if value is False and key.table is not None:
        return True
    if isinstance(value, list):
        value = tuple(value)
    if key.kind is not None and not key.is_list:
        value = key.kind.structure(value)
    return any(
        value == off and isinstance(value, bool) == isinstance(off, bool) for off in key.supported or ()
    )


def to_toml(key: Key, value: Any) -> str:
    """A value of a key as it would stand in the file."""
    if key.annotation in (Seconds, TimeLimit) and value is not None:
        return f'"{write_duration(value)}"'
    if key.annotation is Mode:
        return f'"{value:04o}"'
    return "[]" if value == () else to_display(value)


def _is_list_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def check_named(value: object, path: str, found: Diagnostics, *, example: str = "") -> Mapping[str, object]:
    """A table of tables by name, such as ``frontends``."""
    if not isinstance(value, dict):
        found.drop(path, f"{to_display(value)} is not allowed: a table for each name{example}")
        return {}
    return value
