"""Counts sessions: one addition when a session is accepted, one when it selects its backend, the rest at its end.

What a session comes to is counted once, in the block of its frontend, bind, backend and server. The figures
of each of them are sums over these blocks. Durations have blocks of their own for backends and servers,
because a moving average is no sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mailproxy.log.end_reasons import END_REASONS
from mailproxy.log.record import SessionRecord
from mailproxy.metrics.board import Board, Cells
from mailproxy.metrics.histogram import BYTES, MILLISECONDS, cells_for, observe

# Kinds of blocks.
STARTED = (
    "started"  # frontend, bind: sessions accepted, and those that an earlier process of this board has lost
)
DISPATCHED = "dispatched"  # backend: sessions
SESSIONS = "sessions"  # frontend, bind, backend, server: as below
LOGGED = "logged"  # frontend, backend: as below, for sessions with a line in the log
DURATIONS = "durations"  # frontend, or backend, or backend and server: as below
TLS = "tls"  # frontend, version, cipher: sessions
PAUSES = "pauses"  # frontend, reason: pauses of accepting

# Positions in STARTED.
LOST = 1

# Positions in SESSIONS. The end reasons follow, in the order of their module.
BYTES_IN, BYTES_OUT, TLS_SESSIONS, SESSION_ENDS = range(4)
_SESSION_CELLS = SESSION_ENDS + len(END_REASONS)

# Positions in LOGGED. The end reasons are the first.
_DURATION_CELLS = cells_for(MILLISECONDS)
QUEUE = len(END_REASONS)
CONNECT = QUEUE + _DURATION_CELLS
HANDSHAKE = CONNECT + _DURATION_CELLS
TOTAL = HANDSHAKE + _DURATION_CELLS
TOTAL_BYTES = TOTAL + _DURATION_CELLS
_LOGGED_CELLS = TOTAL_BYTES + cells_for(BYTES)

# Positions in DURATIONS: averages in nanoseconds, the longest ones in milliseconds.
(
    NUMBER, MOST, QUEUE_AVERAGE, CONNECT_AVERAGE, TOTAL_AVERAGE, QUEUE_LONGEST, CONNECT_LONGEST, TOTAL_LONGEST,
    _DURATIONS_CELLS,
) = range(9)  # fmt: skip
NS_PER_MS = 1_000_000

# HAProxy's TIME_STATS_SAMPLES: times are averages over this many sessions.
_AVERAGED_SESSIONS = 512

END_INDEX = {end.name: index for index, end in enumerate(END_REASONS)}


class CountedSession(Protocol):
    """A live session, as far as its bytes are counted.

    Attributes:
        record: Its facts so far.
        counted_in: The bytes from the client that are counted already.
        counted_out: The bytes from the server that are counted already.
    """

    record: SessionRecord
    counted_in: int
    counted_out: int

    @property
    def bytes_in(self) -> int: ...

    @property
    def bytes_out(self) -> int: ...


_Blocks = tuple[Cells, Cells, Cells, Cells | None, Cells | None]


class SessionCounter:
    """Counts the sessions of one process on its board."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._started: dict[tuple[str, str], Cells] = {}
        self._dispatched: dict[str, Cells] = {}
        self._blocks: dict[tuple[str, str, str, str], _Blocks] = {}

    def start(self, frontend: str, bind: str) -> None:
        """Count a session that was accepted."""
        try:
            cells = self._started[frontend, bind]
        except KeyError:
            cells = self._started[frontend, bind] = self.board.block((STARTED, frontend, bind), 2)
        cells[0] += 1

    def dispatch(self, backend: str) -> None:
        """Count a session that has selected its backend."""
        try:
            cells = self._dispatched[backend]
        except KeyError:
            cells = self._dispatched[backend] = self.board.block((DISPATCHED, backend), 1)
        cells[0] += 1

    def pause(self, frontend: str, reason: str) -> None:
        """Count a pause of accepting."""
        self.board.block((PAUSES, frontend, reason), 1)[0] += 1

    def count_live(self, sessions: Iterable[CountedSession]) -> None:
        """Count what sessions have moved that have not ended, as far as it is not counted yet."""
        for session in sessions:
            bytes_in, bytes_out = session.bytes_in, session.bytes_out
            if bytes_in != session.counted_in or bytes_out != session.counted_out:
                cells = self._blocks_of(session.record)[0]
                cells[BYTES_IN] += bytes_in - session.counted_in
                cells[BYTES_OUT] += bytes_out - session.counted_out
                session.counted_in, session.counted_out = bytes_in, bytes_out

    def end(self, record: SessionRecord, counted_in: int, counted_out: int, *, is_logged: bool) -> None:
        """Count a session that has ended.

        Args:
            record: Its facts, complete.
            counted_in: The bytes from the client that ``count_live`` has counted.
            counted_out: Those from the server.
            is_logged: Whether it has a line in the log.
        """
        sessions, logged, frontend, backend, server = self._blocks_of(record)
        assert record.end is not None  # noqa: S101 - it is complete
        end = END_INDEX[record.end.name]
        sessions[SESSION_ENDS + end] += 1
        if record.bytes_in or record.bytes_out:
            sessions[BYTES_IN] += record.bytes_in - counted_in
            sessions[BYTES_OUT] += record.bytes_out - counted_out
        if record.tls_version is not None:
            sessions[TLS_SESSIONS] += 1
            key = (TLS, record.frontend, record.tls_version, record.tls_cipher or "")
            self.board.block(key, 1)[0] += 1
        if is_logged:
            _count_logged(logged, end, record)
        if record.frontend_sessions > frontend[MOST]:
            frontend[MOST] = record.frontend_sessions
        if backend is not None:
            _count_durations(backend, record, record.backend_sessions + 1)
            if server is not None:
                _count_durations(server, record, record.server_sessions + 1)

    def _blocks_of(self, record: SessionRecord) -> _Blocks:
        key = (record.frontend, record.bind, record.backend, record.server)
        try:
            return self._blocks[key]
        except KeyError:
            blocks = self._blocks[key] = self._open(*key)
            return blocks

    def _open(self, frontend: str, bind: str, backend: str, server: str) -> _Blocks:
        block = self.board.block

        def durations(*names: str) -> Cells:
            return block((DURATIONS, *names), _DURATIONS_CELLS)

        return (
            block((SESSIONS, frontend, bind, backend, server), _SESSION_CELLS),
            block((LOGGED, frontend, backend), _LOGGED_CELLS),
            durations("frontend", frontend),
            durations("backend", backend) if backend else None,
            durations("server", backend, server) if server else None,
        )


def _count_logged(cells: Cells, end: int, record: SessionRecord) -> None:
    cells[end] += 1
    # Most sessions neither wait nor take a whole millisecond to connect: what ``observe`` does, without a call.
    if record.queue_ms > 0:
        observe(cells, QUEUE, MILLISECONDS, record.queue_ms)
    elif record.queue_ms == 0:
        cells[QUEUE + 1] += 1
    if record.connect_ms > 0:
        observe(cells, CONNECT, MILLISECONDS, record.connect_ms)
    elif record.connect_ms == 0:
        cells[CONNECT + 1] += 1
    if record.handshake_ms >= 0:
        observe(cells, HANDSHAKE, MILLISECONDS, record.handshake_ms)
    observe(cells, TOTAL, MILLISECONDS, record.total_ms)
    observe(cells, TOTAL_BYTES, BYTES, record.bytes_in + record.bytes_out)


def _count_durations(cells: Cells, record: SessionRecord, sessions: int) -> None:
    number = cells[NUMBER] + 1
    cells[NUMBER] = number
    if sessions > cells[MOST]:
        cells[MOST] = sessions
    divisor = number if number < _AVERAGED_SESSIONS else _AVERAGED_SESSIONS  # noqa: FURB136 - a call costs more
    total, connect, queue = record.total_ms, record.connect_ms, record.queue_ms
    average = cells[TOTAL_AVERAGE]
    cells[TOTAL_AVERAGE] = average + (total * NS_PER_MS - average) // divisor
    if total > cells[TOTAL_LONGEST]:
        cells[TOTAL_LONGEST] = total
    # -1 is a phase that the session never came to, and counts as 0. The two are written out: a call costs more.
    average = cells[CONNECT_AVERAGE]
    if connect > 0:
        cells[CONNECT_AVERAGE] = average + (connect * NS_PER_MS - average) // divisor
        if connect > cells[CONNECT_LONGEST]:
            cells[CONNECT_LONGEST] = connect
    elif average:
        cells[CONNECT_AVERAGE] = average + -average // divisor
    average = cells[QUEUE_AVERAGE]
    if queue > 0:
        cells[QUEUE_AVERAGE] = average + (queue * NS_PER_MS - average) // divisor
        if queue > cells[QUEUE_LONGEST]:
            cells[QUEUE_LONGEST] = queue
    elif average:
        cells[QUEUE_AVERAGE] = average + -average // divisor


def note_lost_sessions(board: Board) -> None:
    """Note which sessions the process has lost that wrote this board before and was killed.

    They were accepted, and never ended. Call it before the next process accepts sessions.
    """
    ended: dict[tuple[str, str], int] = {}
    started: list[tuple[str, str, int]] = []
    for key, cells in board.blocks():
        if key[0] == SESSIONS:
            ended[key[1], key[2]] = ended.get((key[1], key[2]), 0) + sum(cells[SESSION_ENDS:])
        elif key[0] == STARTED:
            started.append((key[1], key[2], cells[0]))
    for frontend, bind, number in started:
        board.block((STARTED, frontend, bind), 2)[LOST] = number - ended.get((frontend, bind), 0)
