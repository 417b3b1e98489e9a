"""The legal combinations of a flow's flags, asserted after each step of the engine.

The docstring of ``Flow`` has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from mailproxy.net.relay.flow import Flow

# Each tuple is (eof, is_blocked, is_deferred).
LEGAL_STATES = {
    (False, False, False),
    (False, False, True),
    (False, True, False),
    (True, True, False),
    (True, False, False),
    (True, False, True),
}


def check_flow(flow: Flow) -> None:
    """Assert that the flags of a flow are one of the combinations that ``Flow`` documents."""
    state = (flow.eof, flow.is_blocked, flow.is_deferred)
    assert state in LEGAL_STATES, state
    unsent_data = bool(flow.pending) or (flow.pipe is not None and flow.pipe.buffered > 0)
    if flow.eof:
        assert not unsent_data
        assert flow.is_blocked == bool(flow.pending_close_notify)
    else:
        assert not flow.pending_close_notify
        assert flow.is_blocked == unsent_data
    source_is_tls, sink_is_tls = flow.source.is_tls, flow.sink.is_tls
    if flow.write_wants_read:
        assert flow.is_blocked
        assert sink_is_tls
    if flow.read_wants_write:
        assert not flow.is_blocked
        assert flow.wants_write
        assert source_is_tls
    if flow.lookahead is not None:
        assert any(state)
        assert source_is_tls
    if flow.is_bulk:
        assert not source_is_tls
        assert not sink_is_tls
        assert flow.pipe is not None or flow.eof
    else:
        assert flow.pipe is None
    if flow.is_reset:
        assert flow.short_read_inconclusive
    if flow.source_failed:
        assert flow.reverse.is_finished


@contextmanager
def checked_flows() -> Iterator[None]:
    """Check both flows of a session after each of their calls by the poller."""

    def checked(step: Callable[..., None]) -> Callable[..., None]:
        @wraps(step)
        def step_and_check(flow: Flow, *arguments: Any) -> None:
            step(flow, *arguments)
            if not flow.is_over:
                check_flow(flow)
                check_flow(flow.reverse)

        return step_and_check

    with pytest.MonkeyPatch.context() as patch:
        for name in ("on_events", "run"):
            patch.setattr(Flow, name, checked(getattr(Flow, name)))
        yield
