"""Messages between the processes of one proxy: a frozen class for each message, and one encoding.

    message             from        to           reply
    ------------------  ----------  -----------  -------------------------------------------------------
    WorkerChannel       supervisor  control      the worker sends Register on the socket that comes along
    SignalReceived      supervisor  control
    ProcessExit         supervisor  control
    ReloadFailed        supervisor  control
    ReloadAnswer        supervisor  control
    RequestReload       control     supervisor   ReloadAnswer, with a file
    ReloadProgress      control     supervisor
    ApplyReload         supervisor  worker       ReloadApplied to the control process
    ReloadSockets       supervisor  worker
    ReloadApplied       worker      control      as for Register
    ControlChannel      supervisor  worker       Register, on the socket that comes along
    Drain               supervisor  worker
                        control     worker
    Stop                supervisor  worker
                        control     worker
    DrainSessions       control     worker       DrainProgress, Ack
    CancelDrain         control     worker       DrainProgress, Ack
    DrainProgress       worker      control
    Register            worker      control      ServerUpdates, StickTablePart, StartServing
    ServerSnapshots     worker      control
    StartServing        control     worker       Ready, once the worker listens
    Ready               worker      control
    ServerUpdates       control     worker       Ack, if ``ack`` is set
    ReopenLog           control     worker       Ack
    ReloadCertificates  control     worker       Ack
    Ack                 worker      control
    ConnectFailure      worker      control
    CounterUpdates      worker      control
    StickUpdates        worker      control      the control process sends the entries on to every worker
                        control     worker
    RequestCounters     control     worker       CounterUpdates, TrafficUpdates, Ack
    TrafficUpdates      worker      control
    RequestSessions     control     worker       Sessions, Ack
    Sessions            worker      control
    EndSession          control     worker       Ack
    FrontendUpdates     worker      control
                        control     worker       Ack, if ``ack`` is set
    RemoveStickEntries  control     worker
    RequestStickTable   control     worker       StickTablePart for each backend, StickTableEnd
    StickTablePart      worker      control
                        control     worker
    StickTableEnd       worker      control

A message is one packet with one JSON object: ``type`` is the name of the class, the other members are its
fields. What comes often is packed tighter: counters, check outcomes, addresses and stick entries are arrays.
Both ends run the same program, so a message that cannot be decoded is a bug of the program. The channel logs
it and goes on.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from attrs import fields, frozen
from cattrs import Converter

from mailproxy.errors import Fault
from mailproxy.ipc.channel import PACKET_MAX, Channel
from mailproxy.log import Log
from mailproxy.log.events import MESSAGE_DROPPED
from mailproxy.net.dial import Endpoint
from mailproxy.pool import AdminState, Counts
from mailproxy.protocol.checks.result import CheckCode, CheckResult, excerpt
from mailproxy.proxy.backend.server import CheckOutcome
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.drain import DrainStatus, DrainTarget, Purpose
from mailproxy.workers.admin_messages import (
    EndSession,
    FrontendUpdates,
    RemoveStickEntries,
    RequestCounters,
    RequestSessions,
    Sessions,
    TrafficUpdates,
    register_admin_hooks,
)
from mailproxy.workers.reload.messages import ReloadMessage

Entry = TypeVar("Entry")

StickEntries = tuple[tuple[int, int], ...]
"""Client keys, each with the number of its server (`ServerCounters`)."""

AgedStickEntries = tuple[tuple[int, int, int], ...]
"""Client key, number of the server, and milliseconds until the entry expires, since clocks differ."""

# Half of a packet: the longest entry and the other fields fit into the rest.
_BATCH_BYTES = PACKET_MAX // 2
# Bounds on text and lists that servers and name servers determine, so that one entry always fits into a
# packet.
_REASON_MAX = 1000  # characters
_ADDRESSES_MAX = 500  # of a server; a session would not try as many


class MessageError(ValueError):
    """A packet is no message: unknown type, missing or unknown fields, or a value of the wrong shape."""


@frozen
class IndexedSnapshot:
    """A server, by the name of its backend and its number (`ServerCounters`), and what is known of it."""

    backend: str
    number: int
    snapshot: ServerSnapshot


# From the supervisor


@frozen
class WorkerChannel:
    """A worker was started. The socket that comes along is the control process's end of the channel to it."""

    slot: int
    pid: int


@frozen
class ControlChannel:
    """The socket that comes along is the worker's end of the channel to a new control process."""


@frozen
class SignalReceived:
    """The supervisor received a signal. The control process decides what it means."""

    number: int


@frozen(kw_only=True)
class ProcessExit:
    """A child of the supervisor has exited. The control process logs it.

    Attributes:
        slot: The worker's slot; None for the control process.
        pid: Its process id.
        reason: How it ended, in words.
        sessions: The number of sessions that were lost with it.
        is_replaced: Whether the supervisor starts another one.
    """

    slot: int | None
    pid: int
    reason: str
    sessions: int
    is_replaced: bool


@frozen
class ReloadFailed:
    """The supervisor could not load the changed TLS files. It keeps the old ones."""

    reason: str


# To a worker


@frozen
class Drain:
    """Accept no more connections, and close the sessions that are still open after this many seconds."""

    seconds: float


@frozen
class Stop:
    """Close all sessions now, and exit."""


@frozen
class DrainSessions:
    """End these sessions within this many seconds. The state of the server comes with ServerUpdates."""

    target: DrainTarget
    purpose: Purpose
    seconds: float
    ack: int | None = None


@frozen
class CancelDrain:
    """Let these sessions go on."""

    target: DrainTarget
    ack: int | None = None


@frozen
class StartServing:
    """All that is known of the servers has been sent: accept connections now."""


@frozen
class ServerUpdates:
    """What is known of these servers now. ``ack`` is the number of the Ack to send, None for none."""

    servers: tuple[IndexedSnapshot, ...]
    ack: int | None = None


@frozen
class ReopenLog:
    """Open the log files again, because they were rotated."""

    ack: int | None = None


@frozen(kw_only=True)
class ReloadCertificates:
    """Load the TLS files that have changed.

    Attributes:
        is_forced: Load the files also where they look unchanged.
        faults: What the control process has logged. The worker logs only what differs from it.
        ack: As in ``ServerUpdates``.
    """

    is_forced: bool
    faults: tuple[Fault, ...]
    ack: int | None = None


@frozen
class RequestStickTable:
    """Send the stick tables of all backends."""


# From a worker


@frozen
class Register:
    """The worker is there.

    Attributes:
        is_new: Whether it knows nothing of the servers yet and waits for StartServing.
        generation: The number of the configuration that it uses.
    """

    is_new: bool
    generation: int = 1


@frozen
class Ready:
    """The worker listens on all binds."""


@frozen
class ServerSnapshots:
    """What the worker knows of these servers, for a control process that has just started."""

    servers: tuple[IndexedSnapshot, ...]


@frozen
class Ack:
    """A message was handled. ``requeued``: how many sessions changed their queue or got a slot by it."""

    number: int
    requeued: int = 0


@frozen
class ConnectFailure:
    """A session could not be connected to a server. ``host`` is the address of its client."""

    backend: str
    number: int
    host: str
    reason: str


@frozen
class CounterUpdates:
    """The counters that have changed since the last such message: name of the server, and its counters."""

    backend: str
    servers: tuple[tuple[str, Counts], ...]


@frozen
class DrainProgress:
    """How far the drains of this worker have come: all that there are, once a second while there are any."""

    drains: tuple[DrainStatus, ...]


# In both directions


@frozen
class StickUpdates:
    """New entries of a stick table."""

    backend: str
    entries: StickEntries


@frozen
class StickTablePart:
    """Some entries of a whole stick table."""

    backend: str
    entries: AgedStickEntries


@frozen
class StickTableEnd:
    """All entries of all stick tables have been sent."""


AckedMessage = (
    ServerUpdates
    | ReopenLog
    | ReloadCertificates
    | RequestCounters
    | FrontendUpdates
    | RequestSessions
    | EndSession
    | DrainSessions
    | CancelDrain
)
"""Messages that a worker acknowledges."""

Message = (
    WorkerChannel | ControlChannel | SignalReceived | ProcessExit | ReloadFailed
    | Drain | Stop | StartServing | AckedMessage | RequestStickTable
    | Register | Ready | ServerSnapshots | Ack | ConnectFailure | CounterUpdates
    | StickUpdates | StickTablePart | StickTableEnd | TrafficUpdates | RemoveStickEntries | Sessions
    | DrainProgress | ReloadMessage
)  # fmt: skip

MESSAGES: dict[str, type[Message]] = {kind.__name__: kind for kind in Message.__args__}
"""Every message by its ``type``."""

_FIELDS = {name: {field.name for field in fields(kind)} for name, kind in MESSAGES.items()}


# The encoding


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
    ]


def _encode_outcome(outcome: CheckOutcome) -> list[object]:
    result = outcome.result
    return [result.code.name, excerpt(result.info), result.status, outcome.ms]


def _decode_outcome(value: Sequence[Any]) -> CheckOutcome:
    code, info, status, ms = value
    return CheckOutcome(CheckResult(CheckCode[code], info, status), ms)


def _decode_snapshot(value: Sequence[Any], _: object) -> IndexedSnapshot:
    backend, number, state, health, checked, addresses, unresolved, up_for, *wishes = value
    weight, max_sessions, checks_paused, is_vacated = wishes
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
    )
    return IndexedSnapshot(backend, number, snapshot)


def _decode_counts(value: Sequence[float], _: object) -> Counts:
    if len(value) != len(fields(Counts)):
        raise ValueError(f"{len(value)} counters instead of {len(fields(Counts))}")
    return Counts(*value)  # type: ignore[arg-type]  # whole numbers stay whole in JSON


def _decode_fault(value: Sequence[str], _: object) -> Fault:
    path, fact = value
    return Fault(path, fact)


def _make_converter() -> Converter:
    """Return the converter with a hook for each value that is packed as an array."""
    converter = Converter(detailed_validation=False)
    converter.register_unstructure_hook(IndexedSnapshot, _encode_snapshot)
    converter.register_structure_hook(IndexedSnapshot, _decode_snapshot)
    converter.register_unstructure_hook(Counts, attrgetter(*(field.name for field in fields(Counts))))
    converter.register_structure_hook(Counts, _decode_counts)
    register_admin_hooks(converter)
    converter.register_unstructure_hook(Fault, lambda fault: [fault.path, fault.fact])
    converter.register_structure_hook(Fault, _decode_fault)
    # JSON writes these tuples as they are. They come by the hundred, so they are not converted one by one.
    is_entries = {StickEntries, AgedStickEntries}.__contains__
    converter.register_unstructure_hook_func(is_entries, lambda entries: entries)
    converter.register_structure_hook_func(is_entries, lambda entries, _: tuple(map(tuple, entries)))
    return converter


_CONVERTER = _make_converter()
