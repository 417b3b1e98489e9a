"""New entries of stick tables, collected in batches for the other processes. `stick_tables` has whole tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from mailproxy.workers.messages import StickUpdates, batched

# A worker batches, and so does the control process: all workers know an entry in far less than 0.1 s.
_BATCH_S = 0.02
ENTRIES_MAX = 500  # of a message


class StickSync:
    """Collects entries that the other processes do not know yet, the latest one for each client."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[int, int]] = {}
        self._wake = trio.Event()

    def add(self, backend: str, entries: Iterable[tuple[int, int]]) -> None:
        """Add entries of a backend's stick table: client keys with numbers of servers."""
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
                for part in batched(tuple(entries.items()), ENTRIES_MAX):
                    send(StickUpdates(backend, tuple(part)))
