"""Checking tables where they stand in the file: unknown keys, values of the wrong kind, values of a later version.

Every table is looked at in place, also defaults and profiles that nobody uses, so that a fault names the line that
has to change and not the place that inherited it. What is missing is found later, when all layers are merged.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import Factory, define

from mailproxy.config import model
from mailproxy.config.shape import SHORT_FORMS, SWITCHABLE, Key, keys_of
from mailproxy.config.units import write_duration
from mailproxy.config.values import Kind, Mode, Seconds, TimeLimit, UnfitValueError, printable, show
from mailproxy.errors import Fault

Table = dict[str, Any]


@define
class Findings:
    """What has been found so far. ``bad`` has the paths of keys that were dropped, so that nobody misses them again."""

    faults: list[Fault] = Factory(list)
    bad: set[str] = Factory(set)

    def add(self, path: str, fact: str) -> None:
        fault = Fault(path, fact)
        if fault not in self.faults:
            self.faults.append(fault)

    def drop(self, path: str, fact: str) -> None:
        """A fault of a key that is then treated as if it were not there."""
        self.add(path, fact)
        self.bad.add(path)


def join(path: str, name: str) -> str:
    """The path of a key below ``path``, quoted as TOML would where it must be."""
    if not name or not name.replace("_", "").replace("-", "").isalnum():
        name = f'"{printable(name)}"'
    return f"{path}.{name}" if path else name


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """``, did you mean …?`` where something known is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f", did you mean {printable(close[0])}?" if close else ""


def unknown(name: str, known: Iterable[str]) -> str:
    """The fact about an unknown key: HAProxy's word for a known one, the nearest, where it belongs, or all there are."""
    known = list(known)
    close = nearest(name, known)
    if name in _WORDS_OF_HAPROXY:
        return f"unknown key, what HAProxy calls so is {_WORDS_OF_HAPROXY[name]} here"
    homes = [
        title
        for title, table in _TITLES.items()
        if name in keys_of(table) and name not in ("name", "profile")
    ]
    # an exact home elsewhere says more than a far cry here
    if homes and not nearest(name, known, cutoff=0.8):
        return f"unknown key here, it is one of {' and of '.join(homes)}; known here are {', '.join(known)}"
    return f"unknown key{close or '; known are ' + ', '.join(known)}"


_WORDS_OF_HAPROXY = {
    "global": "[process]", "listen": "[frontends.NAME] with [backends.NAME]", "default_backend": "backend",
    "maxconn": "max_sessions", "crt": "tls.certificates", "ssl": 'mode = "tls" of a bind, or tls of a backend',
    "ca-file": "tls.ca", "ca_file": "tls.ca", "verifyhost": "tls.server_name", "default-server": "[defaults.server]",
    "tcp-ut": "tcp_user_timeout", "inter": "check.interval", "send-proxy-v2": 'send_proxy = "v2"',
    "send-proxy": 'send_proxy = "v1"', "accept-proxy": "accept_proxy", "stick-table": "stick",
}  # fmt: skip
_TITLES = {
    "a frontend": model.Frontend, "a frontend's timeouts": model.FrontendTimeouts, "a frontend's tls": model.FrontendTls,
    "max_session_rate_per_client": model.SessionRate, "a bind": model.Bind, "a route": model.Route, "a backend": model.Backend,
    "a backend's timeouts": model.BackendTimeouts, "a backend's tls": model.ServerTls, "a server": model.Server,
    "a check": model.Check, "stick": model.Stick, "[process]": model.Process, "[log]": model.Log,
}  # fmt: skip


def check_table(
    table_type: type, value: object, path: str, found: Findings, *, without: tuple[str, ...] = ()
) -> Table:
    """The table with its bad keys dropped; short forms written out. ``without``: keys that do not stand in the file."""
    if not isinstance(value, dict):
        words = f"a table, [{path}] with one pair of brackets" if _is_list_of_tables(value) else "a table"
        found.drop(path, f"{show(value)} is not allowed: {words}")
        return {}
    keys = {name: key for name, key in keys_of(table_type).items() if name not in without}
    clean: Table = {}
    for name, item in value.items():
        here = join(path, name)
        if here in found.bad:  # its environment variable is missing: said once
            continue
        key = keys.get(name)
        if key is None:
            found.drop(here, unknown(name, keys))
            continue
        checked = _check_key(key, item, here, found)
        if here not in found.bad:
            clean[name] = checked
    return clean


def _check_key(key: Key, value: object, path: str, found: Findings) -> object:
    if key.many:
        checked = _check_list(key, value, path, found)
    elif key.table is not None:
        checked = _check_nested(key, key.table, value, path, found)
    else:
        assert key.kind is not None  # noqa: S101 - a key without table has a kind
        checked = _check_value(key.kind, value, path, found)
    if key.only is not None and path not in found.bad and not _is_off(key, checked):
        words = " or ".join(write_value(key, value) for value in key.only if value is not None)
        found.drop(path, f"{show(value)} is not supported yet" + (f": only {words}" if words else ""))
    return checked


def _check_value(kind: Kind, value: object, path: str, found: Findings) -> object:
    try:
        structured = kind.structure(value)
    except UnfitValueError as error:
        found.drop(path, str(error))
        return value
    # The word that a variable of the environment gave would count as true, whichever it is.
    return structured if isinstance(structured, bool) else value


def _check_list(key: Key, value: object, path: str, found: Findings) -> object:
    if not isinstance(value, list):
        words = (
            f"a list of tables, [[{path}]]"
            if key.table
            else f"a list; each {key.kind.allowed if key.kind else ''}"
        )
        found.drop(path, f"{show(value)} is not allowed: {words}")
        return value
    items: list[object] = []
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if here in found.bad:  # its environment variable is missing: said once
            found.bad.add(path)
        elif key.table is not None:
            items.append(check_table(key.table, _long_form(key.table, item), here, found))
        else:
            assert key.kind is not None  # noqa: S101 - a key without table has a kind
            items.append(_check_value(key.kind, item, here, found))
            if here in found.bad:
                found.bad.add(path)
    return items


def _check_nested(key: Key, table: type, value: object, path: str, found: Findings) -> object:
    if value is False and table in SWITCHABLE:
        return False
    if key.kind is not None and isinstance(value, bool):
        return value
    return check_table(table, _long_form(table, value), path, found)


def _long_form(table: type, value: object) -> object:
    short = SHORT_FORMS.get(table)
    return {short: value} if short and isinstance(value, str) else value


def _is_off(key: Key, value: object) -> bool:
    if value is False and key.table is not None:
        return True
    if isinstance(value, list):
        value = tuple(value)
    if key.kind is not None and not key.many:
        value = key.kind.structure(value)
    return any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in key.only or ())


def write_value(key: Key, value: Any) -> str:
    """A value of a key as it would stand in the file."""
    if key.annotation in (Seconds, TimeLimit) and value is not None:
        return f'"{write_duration(value)}"'
    if key.annotation is Mode:
        return f'"{value:04o}"'
    return "[]" if value == () else show(value)


def _is_list_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def check_named(value: object, path: str, found: Findings, *, example: str = "") -> Mapping[str, object]:
    """A table of tables by name, such as ``frontends``."""
    if not isinstance(value, dict):
        found.drop(path, f"{show(value)} is not allowed: a table for each name{example}")
        return {}
    return value
