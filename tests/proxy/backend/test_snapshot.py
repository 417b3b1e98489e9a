"""What processes tell each other of a server: all of it, as far as a message has room."""

from __future__ import annotations

import json
import socket

from attrs import evolve

from mailproxy.ipc.channel import batch_by_size
from mailproxy.net.dial import Endpoint
from mailproxy.pool import AdminState
from mailproxy.protocol.checks.result import CheckCode, CheckResult
from mailproxy.proxy.backend.server import CheckOutcome
from mailproxy.proxy.backend.snapshot import ServerSnapshot

HOSTS = [f"2001:db8:ffff:ffff:ffff:ffff:ffff:{number:04x}" for number in range(5000)]
KNOWN = ServerSnapshot(
    state=AdminState.DRAIN,
    health=3,
    checked=CheckOutcome(CheckResult(CheckCode.L7STS, "näher", 421), 12),
    addresses=(Endpoint(socket.AF_INET6, HOSTS[0], 143),),
    unresolved="mail.example: no address",
    up_for=1.5,
)


def test_what_is_told_is_known() -> None:
    assert ServerSnapshot.from_json(json.loads(json.dumps(KNOWN.to_json()))) == KNOWN


def test_what_others_say_is_bounded() -> None:
    long = evolve(
        KNOWN,
        checked=CheckOutcome(CheckResult(CheckCode.L7STS, "\U0001f4ee" * 10_000, 421), 12),
        addresses=tuple(Endpoint(socket.AF_INET6, host, 143) for host in HOSTS),
        unresolved="\U0001f4ee" * 10_000,
    )
    message = long.to_json()
    assert len(json.dumps(message, ensure_ascii=False).encode()) < 64 * 1024
    assert sum(map(len, batch_by_size([message] * 10))) == 10
