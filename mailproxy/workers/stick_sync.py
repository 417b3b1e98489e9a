"""Stick tables in several processes: new entries in batches, the whole table for a new process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import trio

from mailproxy.proxy.backend.backend import Backend
from mailproxy.workers.messages import AgedStickEntries, StickEntries, StickTablePart, StickUpdates, batched

# A worker batches, and so does the control process: all workers know an entry in far less than 0.1 s.
_BATCH_S = 0.02
_ENTRIES_MAX = 500  # of a message


class StickSync:
    """Collects entries that the other processes do not know yet, the latest one for each client."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[int, int]] = {}
        self._wake = trio.Event()

    def add(self, backend: str, entries: Iterable[tuple[int, int]]) -> None:
        """Add entries of a backend's stick table: client keys with indexes of servers."""
        self._entries.setdefault(backend, {}).update(entries)
        self._wake.set()

    async def run(self, send: Callable[[StickUpdates], object]) -> None:
        """Send what is collected, every 0.02 s at most, until cancelled."""
        while True:
            await self._wake.wait()
            await trio.sleep(_BATCH_S)
            self._wake = trio.Event()
            collected, self._entries = self._entries, {}
            for backend, entries in collected.items():
                for part in batched(tuple(entries.items()), _ENTRIES_MAX):
                    send(StickUpdates(backend, tuple(part)))


def apply_updates(backend: Backend, entries: StickEntries) -> None:
    """Store new entries that another process has sent."""
    now = trio.current_time()
    for key, index in entries:
        backend.pool.store(key, backend.servers[index], now)


def dump_table(backend: Backend) -> Iterator[StickTablePart]:
    """Yield the stick table of a backend; nothing if it has none."""
    stick, now = backend.pool.stick, trio.current_time()
    if stick is not None:
        # Clocks of processes differ, so each entry has the milliseconds that are left.
        entries = [(key, index, round((until - now) * 1000)) for key, index, until in stick.entries()]
        for part in batched(entries, _ENTRIES_MAX):
            yield StickTablePart(backend.name, tuple(part))


def load_table(backend: Backend, entries: AgedStickEntries) -> None:
    """Store entries of another process's table. Entries that are here already are newer, and stay."""
    stick, now = backend.pool.stick, trio.current_time()
    if stick is not None:
        stick.restore(
            (key, index, now + left / 1000) for key, index, left in entries if left > 0 and key not in stick
        )
