"""The stick table: which server a client had, for so long as it comes back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

# An entry is one number, the tick of its expiry and below it the server: a tuple would take three times the memory.
_SERVER_BITS = 16
_SERVER_MASK = (1 << _SERVER_BITS) - 1
_TICKS_PER_SECOND = 16

_V6_MARK = 1 << 128  # on the keys of IPv6 addresses, which no key of an IPv4 address has
_V4_BYTES = 4
_V6_GROUPS = 8
_V6_DIGITS = 32


class StickTable:
    """At most ``size`` entries, each for ``expire`` seconds since its last use; the longest unused makes room.

    Keys are numbers (see ``key_of``), servers numbers below 65536; moments are seconds, of any clock that does not go
    back. An ``OrderedDict``, because a plain one that loses its first entries takes ever longer to find the first that is
    left. The order of use is that of expiry, too.
    """

    def __init__(self, size: int, expire: float) -> None:
        self._size = size
        self._ticks = max(1, round(expire * _TICKS_PER_SECOND))
        self._entries: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: int) -> bool:
        return key in self._entries

    def lookup(self, key: int, now: float) -> int | None:
        """The server of this client, whose entry lives on; None if there is none, or none any more."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        tick = int(now * _TICKS_PER_SECOND)
        if entry >> _SERVER_BITS <= tick:
            del self._entries[key]
            return None
        server = entry & _SERVER_MASK
        self._entries[key] = tick + self._ticks << _SERVER_BITS | server
        self._entries.move_to_end(key)
        return server

    def store(self, key: int, server: int, now: float) -> None:
        """The client has that server now."""
        self._put(key, server, int(now * _TICKS_PER_SECOND) + self._ticks)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def _put(self, key: int, server: int, until: int) -> None:
        if server >> _SERVER_BITS:
            raise ValueError(f"server number {server} is not below {1 << _SERVER_BITS}")
        self._entries[key] = until << _SERVER_BITS | server
        self._entries.move_to_end(key)

    def expire(self, now: float, most: int = 1000) -> bool:
        """Drop what is out of date, at most so many entries in one call; True if there may be more."""
        tick = int(now * _TICKS_PER_SECOND)
        for _ in range(most):
            key = next(iter(self._entries), None)
            if key is None or self._entries[key] >> _SERVER_BITS > tick:
                return False
            del self._entries[key]
        return True

    def entries(self) -> Iterator[tuple[int, int, float]]:
        """Key, server and moment of expiry of each, the longest unused first; the table must not change meanwhile."""
        for key, entry in self._entries.items():
            yield key, entry & _SERVER_MASK, (entry >> _SERVER_BITS) / _TICKS_PER_SECOND

    def restore(self, entries: Iterable[tuple[int, int, float]]) -> None:
        """Take over what another table's ``entries`` gave, over a reload; what does not fit is the longest unused.

        Moments stay, also where ``expire`` is another one now, and have to be of the same clock.
        """
        for key, server, until in entries:
            self._put(key, server, int(until * _TICKS_PER_SECOND))
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)


def client_key(host: str, prefix_v4: int = 32, prefix_v6: int = 64) -> int:
    """The key of the network that an address is in; keys of IPv4 and IPv6 networks differ always.

    IPv4 addresses that are mapped into IPv6 (RFC 4291 section 2.5.5.2) are IPv4, zones (RFC 4007) do not count. Raises
    ValueError for what is no address.
    """
    if ":" not in host:
        return _cut(_v4_number(host), 32 - prefix_v4)
    if host.startswith("::ffff:") and "." in host:  # as the kernel has IPv4 clients of a socket for both
        return _cut(_v4_number(host[7:].partition("%")[0]), 32 - prefix_v4)
    number = _v6_number(host)
    if number >> 32 == 0xFFFF:
        return _cut(number & 0xFFFF_FFFF, 32 - prefix_v4)
    return _V6_MARK | _cut(number, 128 - prefix_v6)


def _cut(number: int, bits: int) -> int:
    return number >> bits << bits


def _v4_number(host: str) -> int:
    """As ``int(IPv4Address(host))``, in less than half of its time."""
    parts = host.split(".")
    if len(parts) == _V4_BYTES and host.isascii() and "".join(parts).isdigit():
        return int.from_bytes(bytes(map(int, parts)), "big")
    return int(IPv4Address(host))  # which says what is wrong with it


def _v6_number(host: str) -> int:
    """As ``int(IPv6Address(host))``, in less than half of its time for what the kernel and ``ipaddress`` write."""
    head, gap, tail = host.partition("::")
    front = head.split(":") if head else []
    back = tail.split(":") if tail else []
    missing = _V6_GROUPS - len(front) - len(back)
    if (missing > 0) == bool(gap) and "" not in front and "" not in back:
        digits = f"{''.join([part.zfill(4) for part in front])}{'0000' * missing}{''.join([part.zfill(4) for part in back])}"
        if len(digits) == _V6_DIGITS and digits.isalnum() and digits.isascii():
            return int(digits, 16)
    return int(IPv6Address(host))  # with an IPv4 address or a zone in it, or it is none
