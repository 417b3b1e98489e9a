"""``log_steps``: the id of a session leads to the time of each of its phases."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from mailproxy.log import Phase, SessionRecord, TimedRecord
from mailproxy.testing import greet_and_echo
from tests.support.proxy.proxy_harness import Line, ProxyHarness

STEPS: Line = {"f": {"log_steps": True}}


def record_of(kind: Callable[..., SessionRecord]) -> SessionRecord:
    return kind(id=1, accepted=0.0, frontend="f", bind="b", tls=False)


def set_moments(monkeypatch: pytest.MonkeyPatch, *moments: float) -> None:
    """Let the clock of records show these moments, behind the one at which a record is made."""
    clock = iter([0.0, *moments])
    monkeypatch.setattr("mailproxy.log.record.time", SimpleNamespace(monotonic=lambda: next(clock)))


def test_steps_follow_each_other_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    set_moments(monkeypatch, 10.0, 10.5, 11.0, 11.25, 13.0)
    record = record_of(TimedRecord)
    for phase in (Phase.HANDSHAKE, Phase.CONNECT, Phase.DATA):
        record.phase = phase
    record.total_ms = 3000
    assert isinstance(record, TimedRecord)
    assert [(step.phase, step.begin, step.end) for step in record.steps] == [
        (Phase.ROUTE, 0.0, 0.5),
        (Phase.HANDSHAKE, 0.5, 1.0),
        (Phase.CONNECT, 1.0, 1.25),
        (Phase.DATA, 1.25, 3.0),
    ]
    assert record.milliseconds == {"route": 500.0, "handshake": 500.0, "connect": 250.0, "data": 1750.0}
    assert (record.phase, record.total_ms) == (Phase.DATA, 3000)


def test_phase_that_comes_twice_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_moments(monkeypatch, 0.0, 0.0, 1.0, 3.0, 4.0)
    record = record_of(TimedRecord)
    for phase in (Phase.CONNECT, Phase.QUEUE, Phase.CONNECT):
        record.phase = phase
    record.total_ms = 4000
    assert isinstance(record, TimedRecord)
    assert record.milliseconds == {"connect": 2000.0, "queue": 2000.0}


async def test_line_of_steps_has_the_id_and_each_phase(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(b"* OK\r\n"))
    proxy = await harness.proxy(server.address, tls=True, frontends=STEPS)
    async with await harness.dial(proxy, tls=True) as client:
        await client.receive_line()
    session = await harness.session()
    (line,) = await harness.events("session-steps")
    assert (line["id"], line["client"], line["server"]) == (
        session["id"],
        session["client"],
        session["server"],
    )
    steps = line["steps"]
    assert {"handshake", "connect", "data"} <= set(steps)
    assert abs(sum(steps.values()) - session["total_ms"]) < 50
    assert line["message"].startswith(f"session {session['id']} of {session['client']} in f: ")
    assert "handshake " in line["message"]


async def test_rejected_session_has_the_phases_that_it_reached(harness: ProxyHarness) -> None:
    proxy = await harness.proxy(frontends=STEPS)
    async with await harness.dial(proxy) as client:
        await client.receive_until_end()
    (line,) = await harness.events("session-steps")
    assert (line["backend"], line["server"], list(line["steps"])) == (None, None, ["route"])


async def test_no_steps_without_the_key(harness: ProxyHarness) -> None:
    proxy = await harness.proxy()
    async with await harness.dial(proxy) as client:
        await client.receive_until_end()
    await harness.session()
    assert await harness.events("session-steps", 0) == []
