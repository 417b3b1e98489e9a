"""Limits per client: how many sessions one client has at once, and how many connections it makes in a period.

Clients are numbers (see ``client_key``). Workers that count together use its keyed hash (see
``client_hash``). Each worker publishes its own counts in a table that the others read. Two workers that read
in the same moment may both accept the last session: a limit may be exceeded by at most the number of other
workers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from attrs import define, field, frozen

from mailproxy.pool.shared.count_table import CountTable

# Clients whose connections are counted at once, in each worker. At this number the counts take 23 MB there.
RATE_CLIENTS_MAX = 65_536

# An entry of RateCounts is one number: the window, its count, the count of the window before.
_COUNT_BITS = 16
_COUNT_MAX = (1 << _COUNT_BITS) - 1
_WINDOW_SHIFT = 2 * _COUNT_BITS
_WINDOW_MASK = 0xFFFF_FFFF  # an entry fills a word of CountTable
_EXPIRED_PER_CALL = 2  # more than the one that is added, so that expired entries do not pile up

_KEY_BYTES = 17  # of a client_key: 128 bits and the mark of IPv6


@frozen(eq=False)
class Published:
    """The tables in which workers publish a count.

    Attributes:
        own: The table that this worker writes; None for a reader that counts nothing, such as the control
            process.
        others: The tables of the other workers.
    """

    own: CountTable | None
    others: Sequence[CountTable]


@frozen(eq=False)
class ClientTables:
    """What workers publish about the clients of a frontend.

    Attributes:
        sessions: Sessions at once.
        rates: Entries of ``RateCounts``.
        secret: The key of the hashes by which clients are known there.
    """

    sessions: Published
    rates: Published
    secret: bytes


class SessionCounts:
    """The number of sessions that each client has now."""

    def __init__(self, published: Published | None = None) -> None:
        self._counts: dict[int, int] = {}
        self._own = published.own if published is not None else None
        self._others = tuple(published.others) if published is not None else ()

    def share_with(self, published: Published) -> None:
        """Count the clients of these workers, too: there are more than before."""
        self._own, self._others = published.own, tuple(published.others)

    def __len__(self) -> int:
        """Return the number of clients that have sessions in this worker."""
        return len(self._counts)

    def total(self, client: int) -> int:
        """Return the sessions of a client in all workers."""
        count = self._counts.get(client, 0)
        for table in self._others:
            count += table.get(client)
        return count

    def add(self, client: int) -> None:
        """Count a session of this client that begins in this worker."""
        count = self._counts[client] = self._counts.get(client, 0) + 1
        if self._own is not None:
            self._own.put(client, count)

    def remove(self, client: int) -> None:
        """Count a session of this client that has ended in this worker."""
        count = self._counts[client] - 1
        if count:
            self._counts[client] = count
        else:
            del self._counts[client]
        if self._own is None:
            return
        if count:
            self._own.put(client, count)
        else:
            self._own.delete(client)


class RateCounts:
    """The connections that each client has made in the last ``per`` seconds, as HAProxy's ``conn_rate``.

    Time is cut into windows of that length. The rate is the count of the current window, plus the count of
    the window before as far as that one reaches into the last ``per`` seconds. It assumes that connections
    were spread evenly in the window before. So it may differ from the true number, by at most the count of
    the window before.

    At most ``size`` clients are remembered. One more replaces the client that has not connected for longest,
    whose count begins at 0 when it comes back.
    """

    def __init__(
        self, per: float, *, size: int = RATE_CLIENTS_MAX, published: Published | None = None
    ) -> None:
        self._per = per
        self._size = size
        self._entries: OrderedDict[int, int] = OrderedDict()  # the latest connection at the end
        self._own = published.own if published is not None else None
        self._others = tuple(published.others) if published is not None else ()

    def share_with(self, published: Published) -> None:
        """Count the connections at these workers, too: there are more than before."""
        self._own, self._others = published.own, tuple(published.others)

    def __len__(self) -> int:
        """Return the number of clients that are remembered in this worker."""
        return len(self._entries)

    def add(self, client: int, now: float) -> int:
        """Count a connection and return the client's rate, this connection included.

        Args:
            client: The client.
            now: Seconds of a clock that all workers share.
        """
        position = now / self._per
        window, remaining = int(position) & _WINDOW_MASK, 1.0 - position % 1.0
        entry = self._entries.pop(client, 0)
        if entry >> _WINDOW_SHIFT != window:
            entry = _at(entry, window)
        current, previous = entry >> _COUNT_BITS & _COUNT_MAX, entry & _COUNT_MAX
        if current < _COUNT_MAX:
            current += 1
            entry += 1 << _COUNT_BITS
        self._entries[client] = entry
        if self._own is not None:
            self._own.put(client, entry)
        self._expire(window)
        for table in self._others:
            other = _at(table.get(client), window)
            current += _current(other)
            previous += other & _COUNT_MAX
        return current + int(previous * remaining)

    def peek(self, client: int, now: float) -> int:
        """Return what ``add`` would return, without counting the connection."""
        position = now / self._per
        window, remaining = int(position) & _WINDOW_MASK, 1.0 - position % 1.0
        own = _at(self._entries.get(client, 0), window)
        entries = [own, *(_at(table.get(client), window) for table in self._others)]
        current, previous = sum(map(_current, entries)), sum(entry & _COUNT_MAX for entry in entries)
        return current + (_current(own) < _COUNT_MAX) + int(previous * remaining)

    def _expire(self, window: int) -> None:
        entries = self._entries
        for _ in range(_EXPIRED_PER_CALL):
            oldest = next(iter(entries))
            is_live = (window - (entries[oldest] >> _WINDOW_SHIFT) & _WINDOW_MASK) < 2
            if is_live and len(entries) <= self._size:
                return
            del entries[oldest]
            if self._own is not None:
                self._own.delete(oldest)


def _at(entry: int, window: int) -> int:
    """Return an entry moved to this window: its counts shift to the window before, or expire."""
    entry_window = entry >> _WINDOW_SHIFT
    if entry_window == window:
        return entry
    previous = _current(entry) if entry_window == (window - 1 & _WINDOW_MASK) else 0
    return window << _WINDOW_SHIFT | previous


def _current(entry: int) -> int:
    return entry >> _COUNT_BITS & _COUNT_MAX


LimitName = Literal["max_sessions_per_client", "max_session_rate_per_client"]


@frozen
class LimitReached:
    """Why a client may have no further session: the limit, and the client's count under it."""

    limit: LimitName
    count: int


@define(eq=False, kw_only=True)
class ClientLimits:
    """The two limits of one frontend.

    Attributes:
        max_sessions: Sessions of a client at once, 0 for no limit.
        max_rate: Connections of a client within the period of ``rates``.
        sessions: The sessions of each client.
        rates: The connections of each client, None for no limit on them.
    """

    max_sessions: int
    max_rate: int
    sessions: SessionCounts = field(factory=SessionCounts)
    rates: RateCounts | None = None

    def add(self, client: int, now: float) -> LimitReached | None:
        """Count a session of this client that begins now.

        Each call counts for the rate, also one for a session that is rejected. So a client that keeps trying
        stays out, as in HAProxy.

        Returns:
            The limit that the client has reached. The session is not counted then. None if there is none.
        """
        rate = self.rates.add(client, now) if self.rates is not None else 0
        reached = self._reached(client, rate)
        if reached is None and self.max_sessions:
            self.sessions.add(client)
        return reached

    def peek(self, client: int, now: float) -> LimitReached | None:
        """Return what ``add`` would return, without counting anything."""
        return self._reached(client, self.rates.peek(client, now) if self.rates is not None else 0)

    def _reached(self, client: int, rate: int) -> LimitReached | None:
        if self.max_sessions:
            sessions = self.sessions.total(client)
            if sessions >= self.max_sessions:
                return LimitReached("max_sessions_per_client", sessions)
        if rate > self.max_rate:
            return LimitReached("max_session_rate_per_client", rate)
        return None

    def remove(self, client: int) -> None:
        """Count a session that has ended. Only needed with ``max_sessions``."""
        if self.max_sessions:
            self.sessions.remove(client)


def client_hash(key: int, secret: bytes) -> int:
    """Return the hash of a client in tables that workers share.

    Two clients with the same hash cannot be found without the secret.
    """
    digest = blake2b(key.to_bytes(_KEY_BYTES, "little"), digest_size=8, key=secret).digest()
    return int.from_bytes(digest, "little") or 1
