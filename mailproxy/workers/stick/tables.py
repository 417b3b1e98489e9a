"""Stick tables in several processes: entries of others are stored, and a new process gets the whole table."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from mailproxy.workers.backend import SharedBackend
from mailproxy.workers.messages import AgedStickEntries, StickEntries, StickTablePart, batched
from mailproxy.workers.stick.sync import ENTRIES_MAX


def apply_updates(backend: SharedBackend, entries: StickEntries) -> None:
    """Store new entries that another process has sent."""
    now = trio.current_time()
    for key, number in entries:
        if (server := backend.numbered(number)) is not None:
            backend.pool.store(key, server, now)


def dump_table(backend: SharedBackend) -> Iterator[StickTablePart]:
    """Yield the stick table of a backend; nothing if it has none."""
    stick, now = backend.pool.stick, trio.current_time()
    if stick is not None:
        numbers = [backend.key(server)[1] for server in backend.servers]
        # Clocks of processes differ, so each entry has the milliseconds that are left.
        entries = [
            (key, numbers[index], round((until - now) * 1000)) for key, index, until in stick.entries()
        ]
        for part in batched(entries, ENTRIES_MAX):
            yield StickTablePart(backend.name, tuple(part))


def load_table(backend: SharedBackend, entries: AgedStickEntries) -> None:
    """Store entries of another process's table. Entries that are here already are newer, and stay."""
    stick, now = backend.pool.stick, trio.current_time()
    if stick is not None:
        indexes = {backend.key(server)[1]: index for index, server in enumerate(backend.servers)}
        stick.restore(
            (key, indexes[number], now + left / 1000)
            for key, number, left in entries
            if left > 0 and key not in stick and number in indexes
        )
