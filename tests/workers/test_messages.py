"""Messages between processes: each survives encoding, and anything else is rejected with a reason."""

from __future__ import annotations

import json
import socket
import typing

import pytest
import trio
import trio.testing
from attrs import evolve, fields

from mailproxy.errors import Fault
from mailproxy.ipc.channel import PACKET_MAX, Channel, channel_pair
from mailproxy.log import EventRecord, SessionRecord, TimedRecord, end_reasons
from mailproxy.log.events import READY
from mailproxy.net.dial import Endpoint
from mailproxy.pool import AdminState
from mailproxy.protocol.checks.result import CheckCode, CheckResult
from mailproxy.proxy.backend.server import CheckOutcome
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.drain import DrainStatus, DrainTarget, Purpose
from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.session.summary import SessionFilter, SessionSummary
from mailproxy.workers import messages
from mailproxy.workers.messages import (
    MESSAGES,
    Ack,
    CancelDrain,
    ClearMaxima,
    ConnectFailure,
    ControlChannel,
    Drain,
    DrainProgress,
    DrainSessions,
    EndSession,
    FollowRecords,
    FrontendUpdates,
    HandedOver,
    HandoverFailed,
    IndexedSnapshot,
    Message,
    MessageError,
    PassSockets,
    ProcessExit,
    Ready,
    RecentRecords,
    Records,
    Register,
    ReloadCertificates,
    ReloadFailed,
    RemoveStickEntries,
    ReopenLog,
    RequestCounters,
    RequestRecent,
    RequestSessions,
    RequestStickTable,
    ServerSnapshots,
    ServerUpdates,
    Sessions,
    SignalReceived,
    StartServing,
    StickTableEnd,
    StickTablePart,
    StickUpdates,
    Stop,
    WorkerChannel,
    batch_by_size,
    batched,
    decode,
    encode,
)
from mailproxy.workers.records import pack, unpack
from mailproxy.workers.reload.messages import (
    ApplyReload,
    ReloadAnswer,
    ReloadApplied,
    ReloadProgress,
    ReloadSockets,
    RequestReload,
)

SNAPSHOT = IndexedSnapshot(
    "dovecot",
    1,
    ServerSnapshot(
        state=AdminState.DRAIN,
        health=3,
        checked=CheckOutcome(CheckResult(CheckCode.L7STS, "näher", 421), 12),
        addresses=(Endpoint(socket.AF_INET6, "2001:db8::1", 143), Endpoint(socket.AF_UNIX, "/run/s")),
        unresolved="",
        up_for=1.5,
        weight=7,
        max_sessions=50,
        checks_paused=True,
        is_vacated=True,
        check_port=10143,
        is_stopping=True,
    ),
)
UNKNOWN = IndexedSnapshot(
    "dovecot",
    0,
    ServerSnapshot(
        state=AdminState.READY,
        health=None,
        checked=None,
        addresses=(),
        unresolved="no address",
        up_for=None,
        weight=1,
        max_sessions=0,
    ),
)
ENDED = TimedRecord(
    id=2**50, accepted=1.5, frontend="f", bind="b", tls=True, end=end_reasons.KILLED, sni="näher"
)
SESSION = SessionSummary(
    id=2**50, accepted=1.5, age=2.5, idle=0.5, client="192.0.2.1:5", local="192.0.2.9:143", frontend="imap", bind="*:143",
    backend="dovecot", server="d1", server_address="10.0.0.1:143", phase="data", bytes_in=1, bytes_out=2, retries=0, tls="",
)  # fmt: skip
EXAMPLES: list[Message] = [
    WorkerChannel(slot=0, pid=1234),
    ControlChannel(),
    SignalReceived(15),
    ProcessExit(slot=None, pid=1234, reason="was killed by SIGKILL", sessions=0, is_replaced=True),
    ProcessExit(slot=2, pid=1234, reason="ended with exit code 1", sessions=7, is_replaced=False),
    ReloadFailed("OSError(5, 'Input/output error')"),
    HandoverFailed("the other process does not answer"),
    PassSockets(4711),
    HandedOver(("127.0.0.1:143", "unix:/run/x.sock")),
    Drain(0.5),
    Stop(),
    DrainSessions(DrainTarget(backend="b", server="s"), Purpose.DRAIN, 30.5, ack=3),
    CancelDrain(DrainTarget(frontend="f"), ack=4),
    RequestRecent(50, with_sessions=True, ack=5),
    RecentRecords(5, (pack(EventRecord(READY, "näher", {}, 1.5)), pack(ENDED))),
    ClearMaxima(ack=6),
    DrainProgress((DrainStatus("server b/s", Purpose.KILL, left=3, idle=2, seconds=1.5),)),
    StartServing(),
    ServerUpdates((SNAPSHOT, UNKNOWN), ack=3),
    ServerUpdates(()),
    ReopenLog(ack=4),
    ReloadCertificates(is_forced=True, faults=(Fault("frontends.imap.tls", "näher\ud800"),), ack=5),
    RequestStickTable(),
    Register(is_new=False, generation=7),
    RequestReload(3),
    ReloadAnswer(3),
    ReloadProgress(is_running=True),
    ApplyReload(2),
    ReloadSockets(2, 1),
    ReloadApplied(2),
    Ready(),
    ServerSnapshots((SNAPSHOT,)),
    Ack(3, requeued=2),
    ConnectFailure("dovecot", 1, "192.0.2.1", "Connection refused"),
    StickUpdates("dovecot", ((2**64 + 5, 0), (7, 65535))),
    StickTablePart("dovecot", ((2**64 + 5, 0, 1000), (7, 3, -1))),
    StickTableEnd(),
    RequestCounters(ack=6),
    RequestSessions(SessionFilter(backend="dovecot", older_than=1.5), ack=8),
    EndSession(2**50, ack=9),
    Sessions(8, (SESSION,)),
    FrontendUpdates(frontends=(("imap", FrontendState.PAUSED, 100),), max_sessions=0, ack=7),
    RemoveStickEntries("dovecot", 2**64 + 5),
    RemoveStickEntries("dovecot", None),
    FollowRecords(is_on=True),
    Records((pack(EventRecord(READY, "ready", {"workers": 2}, 5.5)), pack(ENDED)), lost=3),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_survives_encoding(message: Message) -> None:
    packet = encode(message)
    assert decode(packet) == message
    values = json.loads(packet)
    assert values["type"] == type(message).__name__


def test_every_message_has_example_and_table_row() -> None:
    assert {type(example).__name__ for example in EXAMPLES} == set(MESSAGES)
    assert set(typing.get_args(Message)) == set(MESSAGES.values())
    table = [line.split() for line in (messages.__doc__ or "").splitlines() if line.startswith("    ")]
    processes = {"supervisor", "control", "worker"}
    rows = {
        words[0]: words for words in table if words[0] not in {"message", "control"} and "---" not in words[0]
    }
    assert set(rows) == set(MESSAGES)
    assert all(set(words[1:3]) <= processes for words in rows.values())


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"{", "unknown type"),
        (b"[1]", "unknown type"),
        (b'{"number":1}', "unknown type"),
        (b'{"type":"Halt"}', r"unknown type: KeyError\('Halt'\)"),
        (b'{"type":["Stop"]}', "unknown type"),
        (b'{"type":"Stop","now":true}', r"message Stop: missing fields \[\], unknown fields \['now'\]"),
        (b'{"type":"SignalReceived"}', r"message SignalReceived: missing fields \['number'\]"),
        (b'{"type":"SignalReceived","numbr":1}', r"missing fields \['number'\], unknown fields \['numbr'\]"),
        (b'{"type":"SignalReceived","number":"soon"}', "message SignalReceived: ValueError"),
        (b'{"type":"ServerSnapshots","servers":[["b",0,"ready"]]}', "message ServerSnapshots"),
        (
            b'{"type":"ServerSnapshots","servers":[["b",0,"away",1,null,[],"",null,1,0,false,false,null,false,[]]]}',
            "'away'",
        ),
        (b'{"type":"StickUpdates","backend":"b","entries":[1]}', "message StickUpdates"),
    ],
)
def test_invalid_packet_is_rejected(packet: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        decode(packet)


async def test_channel_drops_invalid_message_and_continues(nursery: trio.Nursery) -> None:
    near, far = channel_pair()
    drops: list[str] = []
    channel = Channel(far, encode=encode, decode=decode, on_drop=drops.append)
    with near, trio.fail_after(10):
        near_sock, far_sock = socket.socketpair()
        with near_sock, far_sock:
            socket.send_fds(near, [b'{"type":"Halt"}'], [far_sock.fileno()])
        near.send(encode(Stop()))
        received = await channel.receive()
    assert received is not None
    assert received.message == Stop()
    assert drops == ["a message of unknown type: KeyError('Halt')"]
    channel.close()


def test_entries_are_split_to_fit_packets() -> None:
    entries = [(number, "ü\n\ud800" * (number % 1000)) for number in range(3000)]
    parts = list(batch_by_size(entries))
    assert len(parts) > 1
    assert [entry for part in parts for entry in part] == entries
    assert all(
        len(json.dumps(part, ensure_ascii=False).encode("utf-8", "replace")) < PACKET_MAX for part in parts
    )
    assert list(batch_by_size([])) == []
    assert list(batched(range(5), 2)) == [range(2), range(2, 4), range(4, 5)]


def test_snapshot_with_long_texts_is_bounded() -> None:
    hosts = [f"2001:db8:ffff:ffff:ffff:ffff:ffff:{number:04x}" for number in range(5000)]
    long = evolve(
        SNAPSHOT.snapshot,
        checked=CheckOutcome(CheckResult(CheckCode.L7STS, "\U0001f4ee" * 10_000, 421), 12),
        addresses=tuple(Endpoint(socket.AF_INET6, host, 143) for host in hosts),
        unresolved="\U0001f4ee" * 10_000,
    )
    entries = [IndexedSnapshot("dovecot", 0, long)] * 10
    parts = list(batch_by_size(entries))
    assert sum(map(len, parts)) == 10
    assert all(len(encode(ServerUpdates(part))) < PACKET_MAX for part in parts)


def test_records_survive_packing() -> None:
    session = unpack(pack(ENDED))
    assert type(session) is SessionRecord
    assert [getattr(session, each.name) for each in fields(SessionRecord)] == [
        getattr(ENDED, each.name) for each in fields(SessionRecord)
    ]
    event = EventRecord(READY, "ready", {"workers": 2}, 5.5)
    assert unpack(pack(event)) == event
