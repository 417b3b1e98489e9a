"""Waits of a session before its tunnel opens: what interrupts them, and which end reason follows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import Phase
from mailproxy.net.poller import TRIO
from mailproxy.proxy.session.errors import END_IF_CANCELLED, SessionEndedError
from mailproxy.proxy.session.wait import _CLIENT_EOF_GRACE_S, InterruptibleWait

TIMEOUT_S = 30.0

Event = Callable[[InterruptibleWait], None]


def server_down(wait: InterruptibleWait) -> None:
    wait.end_wait()


def client_closed(wait: InterruptibleWait) -> None:
    wait.end_session_soon()


def client_left_queue(wait: InterruptibleWait) -> None:
    wait.end_session(end_reasons.QUEUE_LEFT)


@pytest.mark.parametrize(
    ("events", "seconds", "end"),
    [
        ((), TIMEOUT_S, None),
        ((server_down,), 1.0, None),
        ((client_closed,), 1.0 + _CLIENT_EOF_GRACE_S, end_reasons.CLIENT_LEFT),
        ((client_left_queue,), 1.0, end_reasons.QUEUE_LEFT),
        ((client_closed, server_down), 1.0, None),
        ((client_left_queue, server_down), 1.0, end_reasons.QUEUE_LEFT),
        ((server_down, client_closed), 1.0, None),
        ((client_closed, client_closed), 1.0 + _CLIENT_EOF_GRACE_S, end_reasons.CLIENT_LEFT),
    ],
)
async def test_first_event_decides_end_of_wait(
    autojump_clock: trio.testing.MockClock,
    events: tuple[Event, ...],
    seconds: float,
    end: end_reasons.EndReason | None,
) -> None:
    wait = InterruptibleWait(TRIO)
    started_at = trio.current_time()

    async def trigger_events() -> None:
        await trio.sleep(1.0)
        for event in events:
            event(wait)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trigger_events)
        with wait.timeout(TIMEOUT_S):
            await trio.sleep_forever()
        assert trio.current_time() - started_at == pytest.approx(seconds)
        assert end_of(wait) is end


async def test_closed_client_shortens_next_wait(autojump_clock: trio.testing.MockClock) -> None:
    wait = InterruptibleWait(TRIO)
    wait.end_session_soon()
    started_at = trio.current_time()
    with wait.timeout(TIMEOUT_S):
        await trio.sleep_forever()
    assert trio.current_time() - started_at == pytest.approx(_CLIENT_EOF_GRACE_S)
    assert end_of(wait) is end_reasons.CLIENT_LEFT


async def test_wait_within_grace_time_ends_no_session(autojump_clock: trio.testing.MockClock) -> None:
    wait = InterruptibleWait(TRIO)
    wait.end_session_soon()
    with wait.timeout(TIMEOUT_S):
        await trio.sleep(_CLIENT_EOF_GRACE_S / 2)
    assert end_of(wait) is None


async def test_event_after_wait_does_not_affect_next(autojump_clock: trio.testing.MockClock) -> None:
    wait = InterruptibleWait(TRIO)
    with wait.timeout(TIMEOUT_S):
        pass
    wait.end_wait()
    with wait.timeout(TIMEOUT_S) as scope:
        await trio.sleep(TIMEOUT_S / 2)
    assert not scope.cancelled_caught
    assert end_of(wait) is None


def end_of(wait: InterruptibleWait) -> end_reasons.EndReason | None:
    try:
        wait.raise_if_ended()
    except SessionEndedError as ended:
        return ended.end
    return None


def test_every_phase_has_end_reason_for_stop() -> None:
    assert set(END_IF_CANCELLED) == set(Phase)
    assert {end.by for end in END_IF_CANCELLED.values()} == {end_reasons.EndedBy.ADMIN}
