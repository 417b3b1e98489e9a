"""Limits per client: how many sessions one has at once, and how many connections it makes in a period.

Clients are numbers (see ``stick.key_of``). Workers that count together use the keyed hash of that (see ``client_hash``), and
each publishes its own counts in a table that the others read. Two workers that read in the same moment may both accept the
last session: a limit may be passed by at most as many sessions as there are other workers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from attrs import define, field, frozen

from mailproxy.pool.shared.count_table import CountTable

RATE_CLIENTS_MAX = 65_536  # whose connections are counted at once, in each worker: 23 MB there if all come

# An entry of RateCounts is one number: the window, its count, the count of the window before.
_COUNT_BITS = 16
_COUNT_MAX = (1 << _COUNT_BITS) - 1
_WINDOW_SHIFT = 2 * _COUNT_BITS
_WINDOW_MASK = 0xFFFF_FFFF  # an entry fills a word of CountTable
_EXPIRED_PER_CALL = 2  # more than comes in, so that expired entries do not pile up

_KEY_BYTES = 17  # of key_of: 128 bits and the mark of IPv6


@frozen(eq=False)
class Published:
    """The tables in which workers publish a count: ``own`` is written here, ``others`` are read."""

    own: CountTable
    others: Sequence[CountTable]


@frozen(eq=False)
class ClientTables:
    """What workers publish of a frontend's clients; ``secret`` goes into the hashes by which clients are known there."""

    sessions: Published
    rates: Published
    secret: bytes


class SessionCounts:
    """How many sessions each client has now."""

    def __init__(self, published: Published | None = None) -> None:
        self._counts: dict[int, int] = {}
        self._own = published.own if published is not None else None
        self._others = tuple(published.others) if published is not None else ()

    def __len__(self) -> int:
        """How many clients have sessions here."""
        return len(self._counts)

    def total(self, client: int) -> int:
        """Sessions of a client, in all workers."""
        count = self._counts.get(client, 0)
        for table in self._others:
            count += table.get(client)
        return count

    def add(self, client: int) -> None:
        """A session of this client begins here."""
        count = self._counts[client] = self._counts.get(client, 0) + 1
        if self._own is not None:
            self._own.put(client, count)

    def remove(self, client: int) -> None:
        """A session of this client that began here has ended."""
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
    """How many connections each client has made within the last ``per`` seconds, counted as HAProxy's ``conn_rate``.

    Time is cut into windows of that length. The rate is the count of the current window, plus the count of the window before
    as far as that one reaches into the last ``per`` seconds. It assumes that connections were spread evenly in the window
    before. So it may differ from the true number, but never by more than the count of the window before.

    At most ``size`` clients are remembered. One more takes the place of the client that has not connected for longest, whose
    count begins again at 0.
    """

    def __init__(
        self, per: float, *, size: int = RATE_CLIENTS_MAX, published: Published | None = None
    ) -> None:
        self._per = per
        self._size = size
        self._entries: OrderedDict[int, int] = OrderedDict()  # those that connected last at the end
        self._own = published.own if published is not None else None
        self._others = tuple(published.others) if published is not None else ()

    def __len__(self) -> int:
        """How many clients are remembered here."""
        return len(self._entries)

    def add(self, client: int, now: float) -> int:
        """Count one more connection; the client's rate with it. ``now`` is seconds of a clock that all workers share."""
        position = now / self._per
        window, left = int(position) & _WINDOW_MASK, 1.0 - position % 1.0
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
        return current + int(previous * left)

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
    """An entry as it is in this window."""
    then = entry >> _WINDOW_SHIFT
    if then == window:
        return entry
    previous = _current(entry) if then == (window - 1 & _WINDOW_MASK) else 0
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
    """The two limits of one frontend. ``max_sessions`` 0 and ``rates`` None are no limit."""

    max_sessions: int
    max_rate: int
    sessions: SessionCounts = field(factory=SessionCounts)
    rates: RateCounts | None = None

    def enter(self, client: int, now: float) -> LimitReached | None:
        """Begin a session of this client, or say why that may not be.

        Every call counts for the rate, also one that is turned down, as in HAProxy: a client that keeps trying stays out.
        """
        rate = self.rates.add(client, now) if self.rates is not None else 0
        if self.max_sessions:
            sessions = self.sessions.total(client)
            if sessions >= self.max_sessions:
                return LimitReached("max_sessions_per_client", sessions)
        if rate > self.max_rate:
            return LimitReached("max_session_rate_per_client", rate)
        if self.max_sessions:
            self.sessions.add(client)
        return None

    def leave(self, client: int) -> None:
        """End a session that ``enter`` began. Unless ``max_sessions`` is set, that is not needed."""
        if self.max_sessions:
            self.sessions.remove(client)


def client_hash(key: int, secret: bytes) -> int:
    """The hash of a client in tables that workers share. Without the secret, no two clients can be found that have the same."""
    digest = blake2b(key.to_bytes(_KEY_BYTES, "little"), digest_size=8, key=secret).digest()
    return int.from_bytes(digest, "little") or 1
