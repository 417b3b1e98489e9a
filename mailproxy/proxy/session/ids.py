"""The ids of sessions: unique in all workers, and over restarts."""

from __future__ import annotations

import itertools
import time

# Ids are unique, also after a restart. Counting starts at the second of the start times 2**24, which is more
# sessions than a second can have.
_ids = itertools.count((int(time.time()) << 24) + 1)


def next_id() -> int:
    """Return the id of a new session."""
    return next(_ids)


def seed_session_ids(epoch: int, slot: int, slots: int) -> None:
    """Make the ids of this process distinct from those of the other workers.

    Args:
        epoch: A second since 1970 that this slot has not had before. The workers' seconds may differ.
        slot: This process's worker slot.
        slots: The number of worker slots.
    """
    global _ids  # noqa: PLW0603 - the ids are the process's
    # Each slot has a remainder of its own, whatever the second is in which its worker was started.
    first = (epoch << 24) // slots * slots
    _ids = itertools.count(first + 1 + slot, slots)
