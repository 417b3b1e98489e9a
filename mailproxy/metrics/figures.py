"""The figures of a proxy: the sums over the boards of all its processes at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import add

from attrs import define, field

from mailproxy.log.end_reasons import END_REASONS
from mailproxy.metrics import sessions as layout
from mailproxy.metrics.board import Board, Key
from mailproxy.metrics.ends import COUNTED_AS
from mailproxy.metrics.process import LOOP_LAG_US, PROCESS
from mailproxy.metrics.servers import SERVER, merge_servers
from mailproxy.metrics.traffic import Times, Traffic

_ENDS = slice(layout.SESSION_ENDS, layout.SESSION_ENDS + len(END_REASONS))


@define(eq=False)
class Figures:
    """Sums by the key of a block. The methods read them as values; a name that is not there has zeros.

    Attributes:
        sums: The numbers of each block, added up over the boards.
    """

    sums: dict[Key, Sequence[int]] = field(factory=dict)
    _traffic: dict[Key, list[int]] = field(factory=dict)
    _kinds: dict[str, list[tuple[Key, Sequence[int]]]] = field(factory=dict)  # the blocks, by kind
    _started: dict[str, int] = field(factory=dict)  # sessions so far, by frontend

    @classmethod
    def read(cls, boards: Iterable[Board]) -> Figures:
        """Read the boards of all processes."""
        figures = cls()
        sums = figures.sums
        for board in boards:
            for key, cells in board.blocks():
                before = sums.get(key)
                if before is None:
                    sums[key] = cells
                else:
                    merge = _MERGES.get(key[0])
                    sums[key] = tuple(map(add, before, cells)) if merge is None else merge(before, cells)
        for key, cells in sums.items():
            figures._kinds.setdefault(key[0], []).append((key[1:], cells))
            if key[0] == layout.SESSIONS:
                figures._add_traffic(key, cells)
        for (frontend, _), cells in figures.blocks(layout.STARTED):
            figures._started[frontend] = figures._started.get(frontend, 0) + cells[0]
        return figures

    def _add_traffic(self, key: Key, cells: Sequence[int]) -> None:
        _, frontend, bind, backend, server = key
        groups: list[Key] = [(), ("frontend", frontend), ("listener", frontend, bind)]
        if backend:
            groups.append(("backend", backend))
        if server:
            groups.append(("server", backend, server))
        for group in groups:
            before = self._traffic.get(group)
            self._traffic[group] = list(cells) if before is None else list(map(add, before, cells))

    def blocks(self, kind: str) -> Sequence[tuple[Key, Sequence[int]]]:
        """Return the blocks of a kind: the rest of their keys, and their numbers."""
        return self._kinds.get(kind, ())

    def frontend(self, name: str) -> Traffic:
        """Return what the sessions of a frontend have come to."""
        traffic = self._traffic_of(("frontend", name))
        traffic.sessions = self._started.get(name, 0)
        return traffic

    def total(self) -> Traffic:
        """Return what all sessions have come to, those of frontends that are gone included."""
        traffic = self._traffic_of(())
        traffic.sessions = sum(self._started.values())
        return traffic

    def listener(self, frontend: str, bind: str) -> Traffic:
        """Return what the sessions of a bind have come to."""
        traffic = self._traffic_of(("listener", frontend, bind))
        traffic.sessions = self.sums.get((layout.STARTED, frontend, bind), (0,))[0]
        return traffic

    def open_sessions(self, frontend: str, bind: str) -> int:
        """Return the sessions of a bind that have not ended."""
        started, lost = self.sums.get((layout.STARTED, frontend, bind), (0, 0))
        return max(0, started - lost - self.listener(frontend, bind).ended)

    def backend(self, name: str) -> Traffic:
        """Return what the sessions of a backend have come to."""
        traffic = self._traffic_of(("backend", name))
        traffic.sessions = self.sums.get((layout.DISPATCHED, name), (0,))[0]
        return traffic

    def server(self, backend: str, name: str) -> Traffic:
        """Return what the sessions of a server have come to."""
        return self._traffic_of(("server", backend, name))

    def _traffic_of(self, group: Key) -> Traffic:
        traffic = Traffic()
        cells = self._traffic.get(group)
        if cells is not None:
            traffic.bytes_in, traffic.bytes_out = cells[layout.BYTES_IN], cells[layout.BYTES_OUT]
            traffic.tls_sessions = cells[layout.TLS_SESSIONS]
            for name, number in zip(COUNTED_AS, cells[_ENDS], strict=True):
                if number:
                    traffic.ended += number
                    if name is not None:
                        setattr(traffic, name, getattr(traffic, name) + number)
            traffic.sessions = traffic.ended
        durations = self.sums.get((layout.DURATIONS, *group))
        if durations is not None:
            traffic.most_sessions = durations[layout.MOST]
            traffic.queue = _times(durations, layout.QUEUE_AVERAGE, layout.QUEUE_LONGEST)
            traffic.connect = _times(durations, layout.CONNECT_AVERAGE, layout.CONNECT_LONGEST)
            traffic.total = _times(durations, layout.TOTAL_AVERAGE, layout.TOTAL_LONGEST)
        return traffic


def _times(cells: Sequence[int], average: int, longest: int) -> Times:
    return Times(cells[average] / layout.NS_PER_MS, cells[longest])


def _merge_durations(one: Sequence[int], other: Sequence[int]) -> Sequence[int]:
    """Merge the durations of two processes: averages by the numbers of sessions, and the longest ones."""
    merged = list(map(max, one, other))
    merged[layout.NUMBER] = number = one[layout.NUMBER] + other[layout.NUMBER]
    for position in (layout.QUEUE_AVERAGE, layout.CONNECT_AVERAGE, layout.TOTAL_AVERAGE):
        weighted = one[position] * one[layout.NUMBER] + other[position] * other[layout.NUMBER]
        merged[position] = weighted // number if number else 0
    return merged


def _merge_process(one: Sequence[int], other: Sequence[int]) -> Sequence[int]:
    """Add up two processes, and keep the larger lag."""
    merged = list(map(add, one, other))
    merged[LOOP_LAG_US] = max(one[LOOP_LAG_US], other[LOOP_LAG_US])
    return merged


_MERGES = {layout.DURATIONS: _merge_durations, SERVER: merge_servers, PROCESS: _merge_process}
"""How two processes' blocks of a kind become one, where their numbers are not only sums."""
