"""The ids of sessions in several workers."""

from __future__ import annotations

from itertools import islice

import pytest

from mailproxy.proxy.session import ids

EPOCH = 1_800_000_000


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
def test_ids_of_workers_started_in_different_seconds_never_meet(
    slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has had millions of sessions reaches the ids with which the others began."""
    monkeypatch.setattr(ids, "_ids", ids._ids)
    remainders = set()
    for slot in range(slots):
        ids.seed_session_ids(EPOCH - slot, slot, slots)
        first, second = islice(ids._ids, 2)
        assert second - first == slots
        remainders.add(first % slots)
    assert len(remainders) == slots
