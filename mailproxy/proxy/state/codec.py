"""The state as lines of JSON: a head with everything but stick entries, then these, then an end.

The end shows that the file is whole. Entries come in lines of 1000, so that a thread that writes or reads many
of them never keeps the event loop waiting for longer than one line takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from mailproxy.proxy.state.frontends import FrontendRecord, FrontendsRecord
from mailproxy.proxy.state.value import (
    SETTINGS,
    STICK_ENTRIES_MAX,
    BackendRecord,
    ProxyState,
    ServerRecord,
    StickRecord,
    Wish,
)

_FORMAT = "mailproxy-state"
_VERSION = 1
_ENTRIES_PER_LINE = 1000
_KEY_MAX = 1 << 129  # of a stick table
_COUNTER_MAX = 1 << 31


class StateError(ValueError):
    """A file is no state, or not one of this version, or damaged."""


def encode(state: ProxyState) -> Iterator[bytes]:
    """Yield the lines of a state."""
    yield _line({
        "format": _FORMAT,
        "version": _VERSION,
        "written_at": state.written_at,
        "backends": {name: _encode_backend(record) for name, record in state.backends.items()},
        "frontends": {
            name: (each.is_paused, each.limit, each.configured) for name, each in state.frontends.frontends.items()
        },
        "max_sessions": (state.frontends.max_sessions, state.frontends.configured),
    })  # fmt: skip
    lines = 1
    for name, record in state.backends.items():
        if record.stick is not None:
            entries = ((key, index, round(left, 1)) for key, index, left in record.stick.entries)
            while part := tuple(islice(entries, _ENTRIES_PER_LINE)):
                yield _line({"backend": name, "entries": part})
                lines += 1
    yield _line({"lines": lines})


def decode(lines: Iterable[bytes]) -> ProxyState:
    """Return the state that these lines have.

    Raises:
        StateError: They have none.
    """
    try:
        return _decode([json.loads(line) for line in lines])
    except StateError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise StateError(f"it is damaged: {error!r}") from None


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _encode_backend(record: BackendRecord) -> Mapping[str, object]:
    stick = record.stick
    return {
        "servers": {name: _encode_server(each) for name, each in record.servers.items()},
        "stick": None if stick is None else {"prefixes": stick.prefixes, "servers": stick.servers},
    }


def _encode_server(record: ServerRecord) -> Mapping[str, object]:
    return {
        "address": record.address,
        "wishes": record.wishes,
        "is_vacated": record.is_vacated,
        "health": record.health,
        "up_for": record.up_for,
    }


def _decode(values: list[Any]) -> ProxyState:
    if not values or values[0]["format"] != _FORMAT:
        raise StateError("it is another program's file")
    head, parts, end = values[0], values[1:-1], values[-1]
    if head["version"] != _VERSION:
        raise StateError(f"it has version {head['version']!r}, and this program has {_VERSION}")
    if len(values) == 1 or end != {"lines": len(values) - 1}:
        raise StateError("its end is missing")
    entries: dict[str, list[tuple[int, int, float]]] = {}
    for part in parts:
        table = entries.setdefault(part["backend"], [])
        table += [_decode_entry(*entry) for entry in part["entries"]]
        if len(table) > STICK_ENTRIES_MAX:
            raise StateError("a stick table is too long")
    backends = {
        _text(name): _decode_backend(record, entries.pop(name, []))
        for name, record in head["backends"].items()
    }
    _require(not entries)
    return ProxyState(_number(head["written_at"]), backends, _decode_frontends(head))


def _decode_frontends(head: Any) -> FrontendsRecord:
    # A file of an earlier program of this version has none of it.
    max_sessions, configured = head.get("max_sessions", (0, 0))
    frontends = {
        _text(name): FrontendRecord(
            is_paused is True, _integer(limit, _COUNTER_MAX), _integer(own, _COUNTER_MAX)
        )
        for name, (is_paused, limit, own) in head.get("frontends", {}).items()
    }
    return FrontendsRecord(
        frontends, _integer(max_sessions, _COUNTER_MAX), _integer(configured, _COUNTER_MAX)
    )


def _decode_backend(record: Any, entries: list[tuple[int, int, float]]) -> BackendRecord:
    stick = record["stick"]
    if stick is None:
        _require(not entries)
        table = None
    else:
        v4, v6 = stick["prefixes"]
        servers = [_text(name) for name in stick["servers"]]
        _require(all(index < len(servers) for _, index, _ in entries))
        table = StickRecord(prefixes=(v4, v6), servers=servers, entries=entries)
    servers_by_name = {_text(name): _decode_server(each) for name, each in record["servers"].items()}
    return BackendRecord(servers=servers_by_name, stick=table)


def _decode_entry(key: Any, index: Any, left: Any) -> tuple[int, int, float]:
    return _integer(key, _KEY_MAX), _integer(index, _COUNTER_MAX), _number(left)


def _decode_server(record: Any) -> ServerRecord:
    health, up_for = record["health"], record["up_for"]
    if health is not None:
        counter, rise, fall = (_integer(each, _COUNTER_MAX) for each in health)
        _require(rise > 0 and fall > 0 and counter < rise + fall)
        health = counter, rise, fall
    return ServerRecord(
        address=_text(record["address"]),
        # Others are of a later program of the same version.
        wishes={
            name: _decode_wish(name, *pair) for name, pair in record["wishes"].items() if name in SETTINGS
        },
        is_vacated=record["is_vacated"] is True,
        health=health,
        up_for=None if up_for is None else _number(up_for),
    )


def _decode_wish(name: str, value: Any, configured: Any) -> tuple[Wish, Wish]:
    _require(isinstance(value, str | int) and SETTINGS[name].is_valid(value))
    return value, configured


def _text(value: Any) -> str:
    _require(isinstance(value, str))
    return str(value)


def _integer(value: Any, limit: int) -> int:
    _require(type(value) is int and 0 <= value < limit)
    return int(value)


def _number(value: Any) -> float:
    _require(type(value) in (int, float) and abs(value) < _KEY_MAX)  # NaN is less than nothing
    return float(value)


def _require(is_valid: bool) -> None:
    if not is_valid:
        raise ValueError("a value is not allowed")
