"""Which clients have which servers, passed on to other processes in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import trio

from mailproxy.ipc.channel import Message
from mailproxy.proxy.backend.backend import Backend

_BATCH_S = 0.02  # twice, by way of control: in far less than a tenth of a second everybody knows
_ENTRIES_MAX = 500  # of a message


Entry = TypeVar("Entry")


class StickSync:
    """Entries that others do not know yet; the last server of a client counts."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[int, int]] = {}
        self._wake = trio.Event()

    def add(self, backend: str, entries: Iterable[tuple[int, int]]) -> None:
        """Clients, as keys of the stick table, have servers, as their numbers."""
        self._entries.setdefault(backend, {}).update(entries)
        self._wake.set()

    async def run(self, say: Callable[[Message], object]) -> None:
        """Pass on until cancelled."""
        while True:
            await self._wake.wait()
            await trio.sleep(_BATCH_S)
            self._wake = trio.Event()
            entries, self._entries = self._entries, {}
            for backend, found in entries.items():
                for some in batched(list(found.items())):
                    say({"learned": backend, "entries": some})


def batched(entries: Sequence[Entry], most: int = _ENTRIES_MAX) -> Iterator[Sequence[Entry]]:
    """As many as a message holds at a time."""
    for start in range(0, len(entries), most):
        yield entries[start : start + most]


def dump_table(backend: Backend) -> Iterator[Message]:
    """All that the stick table of a backend has, in messages."""
    stick, now = backend.pool.stick, trio.current_time()
    if stick is not None:
        # Clocks of processes differ: what has so long to live is understood by all.
        entries = [(key, number, round((until - now) * 1000)) for key, number, until in stick.entries()]
        for some in batched(entries):
            yield {"recall": backend.name, "entries": some}


def apply_updates(backend: Backend, entries: Iterable[tuple[int, int]]) -> None:
    """Take over what another process has learned just now."""
    now = trio.current_time()
    for key, number in entries:
        backend.pool.store(key, backend.servers[number], now)


def load_table(backend: Backend, entries: Iterable[tuple[int, int, int]]) -> None:
    """Take over a part of another process's table; what has been learned since it was written down counts more."""
    stick, now = backend.pool.stick, trio.current_time()
    if stick is not None:
        stick.restore(
            (key, number, now + left / 1000) for key, number, left in entries if left > 0 and key not in stick
        )
