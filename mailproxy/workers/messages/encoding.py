"""The encoding of messages as packets of JSON."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from attrs import fields
from cattrs import Converter

from mailproxy.errors import Fault
from mailproxy.ipc.channel import PACKET_MAX, Channel
from mailproxy.log import Log
from mailproxy.log.events import MESSAGE_DROPPED
from mailproxy.net.dial import Endpoint
from mailproxy.pool import AdminState
from mailproxy.protocol.checks.result import CheckCode, CheckResult, excerpt
from mailproxy.proxy.backend.server import CheckOutcome
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.workers.messages.admin import register_admin_hooks
from mailproxy.workers.messages.kinds import (
    MESSAGES,
    AgedStickEntries,
    IndexedSnapshot,
    Message,
    StickEntries,
)

Entry = TypeVar("Entry")

# Half of a packet: the longest entry and the other fields fit into the rest.
_BATCH_BYTES = PACKET_MAX // 2
# Bounds on text and lists that servers and name servers determine, so that one entry always fits into a
# packet.
_REASON_MAX = 1000  # characters
_ADDRESSES_MAX = 500  # of a server; a session would not try as many

_FIELDS = {name: {field.name for field in fields(kind)} for name, kind in MESSAGES.items()}


class MessageError(ValueError):
    """A packet is no message: unknown type, missing or unknown fields, or a value of the wrong shape."""


def encode(message: Message) -> bytes:
    """Return the packet of a message."""
    return _to_json({"type": type(message).__name__, **_CONVERTER.unstructure(message)})


def decode(packet: bytes) -> Message:
    """Return the message in a packet.

    Raises:
        MessageError: The packet has an unknown type, lacks a field, has one too many, or a value of the wrong
            shape.
    """
    try:
        values = json.loads(packet)
        name = values.pop("type")
        kind, expected = MESSAGES[name], _FIELDS[name]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise MessageError(f"a message of unknown type: {error!r}") from error
    if values.keys() != expected:
        missing, unknown = sorted(expected - values.keys()), sorted(values.keys() - expected)
        raise MessageError(f"message {name}: missing fields {missing}, unknown fields {unknown}")
    try:
        return _CONVERTER.structure(values, kind)
    except Exception as error:
        raise MessageError(f"message {name}: {error!r}") from error


def prepare_encoding() -> None:
    """Have cattrs generate its code for all messages. Takes 40 ms. Call it once, before the first fork.

    Otherwise the loop of each process would stop for 2 ms at the first message of each kind.
    """
    for kind in MESSAGES.values():
        _CONVERTER.get_unstructure_hook(kind)
        _CONVERTER.get_structure_hook(kind)


def open_channel(end: socket.socket, log: Log) -> Channel[Message]:
    """Return the channel on this end of a socket pair; it logs the messages that it must drop."""
    return Channel(end, encode=encode, decode=decode, on_drop=partial(log.event, MESSAGE_DROPPED))


def batched(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    """Split entries into parts of at most ``size``."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def batch_by_size(entries: Iterable[Entry]) -> Iterator[tuple[Entry, ...]]:
    """Split entries into parts that each fit into one message."""
    part: list[Entry] = []
    part_bytes = 0
    for entry in entries:
        entry_bytes = len(_to_json(_CONVERTER.unstructure(entry))) + 1
        if part and part_bytes + entry_bytes > _BATCH_BYTES:
            yield tuple(part)
            part, part_bytes = [], 0
        part.append(entry)
        part_bytes += entry_bytes
    if part:
        yield tuple(part)


def _to_json(value: object) -> bytes:
    # UTF-8 cannot encode lone surrogates. "backslashreplace" writes them as JSON escapes.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def _encode_snapshot(entry: IndexedSnapshot) -> list[object]:
    snapshot, checked = entry.snapshot, entry.snapshot.checked
    return [
        entry.backend,
        entry.number,
        snapshot.state.value,
        snapshot.health,
        None if checked is None else _encode_outcome(checked),
        [(each.family, each.host, each.port) for each in snapshot.addresses[:_ADDRESSES_MAX]],
        snapshot.unresolved[:_REASON_MAX],
        snapshot.up_for,
        snapshot.weight,
        snapshot.max_sessions,
        snapshot.checks_paused,
        snapshot.is_vacated,
        snapshot.check_port,
        snapshot.is_stopping,
        snapshot.listed,
    ]


def _encode_outcome(outcome: CheckOutcome) -> list[object]:
    result = outcome.result
    return [result.code.name, excerpt(result.info), result.status, outcome.ms]


def _decode_outcome(value: Sequence[Any]) -> CheckOutcome:
    code, info, status, ms = value
    return CheckOutcome(CheckResult(CheckCode[code], info, status), ms)


def _decode_snapshot(value: Sequence[Any], _: object) -> IndexedSnapshot:
    backend, number, state, health, checked, addresses, unresolved, up_for, *wishes = value
    weight, max_sessions, checks_paused, is_vacated, check_port, is_stopping, listed = wishes
    snapshot = ServerSnapshot(
        state=AdminState(state),
        health=health,
        checked=None if checked is None else _decode_outcome(checked),
        addresses=tuple(Endpoint(*each) for each in addresses),
        unresolved=unresolved,
        up_for=up_for,
        weight=weight,
        max_sessions=max_sessions,
        checks_paused=checks_paused,
        is_vacated=is_vacated,
        check_port=check_port,
        is_stopping=is_stopping,
        listed=tuple(map(tuple, listed)),
    )
    return IndexedSnapshot(backend, number, snapshot)


def _decode_fault(value: Sequence[str], _: object) -> Fault:
    path, fact = value
    return Fault(path, fact)


def _make_converter() -> Converter:
    """Return the converter with a hook for each value that is packed as an array."""
    converter = Converter(detailed_validation=False)
    converter.register_unstructure_hook(IndexedSnapshot, _encode_snapshot)
    converter.register_structure_hook(IndexedSnapshot, _decode_snapshot)
    register_admin_hooks(converter)
    converter.register_unstructure_hook(Fault, lambda fault: [fault.path, fault.fact])
    converter.register_structure_hook(Fault, _decode_fault)
    # JSON writes these tuples as they are. They come by the hundred, so they are not converted one by one.
    is_entries = {StickEntries, AgedStickEntries}.__contains__
    converter.register_unstructure_hook_func(is_entries, lambda entries: entries)
    converter.register_structure_hook_func(is_entries, lambda entries, _: tuple(map(tuple, entries)))
    return converter


_CONVERTER = _make_converter()
