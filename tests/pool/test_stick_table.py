"""The stick table: a client returns to its server until the entry expires, and memory is bounded."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailproxy.pool import StickTable, client_key

EXPIRE_S = 10.0
addresses_v4 = st.ip_addresses(v=4)
addresses_v6 = st.ip_addresses(v=6)
some_keys = st.sampled_from(
    [client_key(host) for host in ("192.0.2.1", "192.0.2.2", "::", "2001:db8::1", "0.0.0.0")]
)
servers = st.integers(0, 3)


class StickTableMachine(RuleBasedStateMachine):
    """A table and its model: entries with the time of last use, the longest unused first."""

    @initialize(size=st.integers(1, 4))
    def begin(self, size: int) -> None:
        self.size, self.now = size, 100.0
        self.table = StickTable(size, EXPIRE_S)
        self.model: dict[int, tuple[int, float]] = {}

    def use(self, key: int, server: int) -> None:
        self.model.pop(key, None)
        self.model[key] = (server, self.now)

    def is_alive(self, key: int) -> bool:
        return key in self.model and self.now < self.model[key][1] + EXPIRE_S

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.5, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=some_keys)
    def lookup(self, key: int) -> None:
        if self.is_alive(key):
            server = self.model[key][0]
            assert self.table.lookup(key, self.now) == server
            self.use(key, server)
        else:
            assert self.table.lookup(key, self.now) is None
            self.model.pop(key, None)

    @rule(key=some_keys)
    def peek(self, key: int) -> None:
        server = self.model[key][0] if self.is_alive(key) else None
        assert self.table.peek(key, self.now) == server  # and nothing is renewed or removed

    @rule(key=some_keys, server=servers)
    def store(self, key: int, server: int) -> None:
        self.table.store(key, server, self.now)
        self.use(key, server)
        if len(self.model) > self.size:
            del self.model[next(iter(self.model))]

    @rule(max_entries=st.integers(1, 5))
    def expire(self, max_entries: int) -> None:
        expired = [key for key in self.model if not self.is_alive(key)]
        assert self.table.expire(self.now, max_entries) == (len(expired) >= max_entries)
        for key in expired[:max_entries]:
            del self.model[key]

    @rule(size=st.integers(1, 4))
    def reload(self, size: int) -> None:
        entries = list(self.table.entries())
        self.table, self.size = StickTable(size, EXPIRE_S), size
        self.table.restore(entries)
        self.model = dict(list(self.model.items())[-size:])

    @invariant()
    def table_matches_model(self) -> None:
        expected = [(key, server, used + EXPIRE_S) for key, (server, used) in self.model.items()]
        assert list(self.table.entries()) == expected
        assert len(self.table) == len(self.model) <= self.size


TestStickTable = StickTableMachine.TestCase


def test_longest_unused_entry_is_evicted() -> None:
    table = StickTable(2, 60)
    table.store(1, 0, 0)
    table.store(2, 0, 1)
    assert table.lookup(1, 2) == 0
    table.store(3, 0, 3)
    assert [table.lookup(key, 4) for key in (1, 2, 3)] == [0, None, 0]


def test_entry_expires_after_last_use() -> None:
    table = StickTable(2, EXPIRE_S)
    table.store(1, 0, 0.0)
    table.store(2, 0, 0.0)
    assert table.lookup(1, EXPIRE_S - 0.5) == 0
    assert table.lookup(2, EXPIRE_S) is None
    assert table.lookup(1, 2 * EXPIRE_S - 1) == 0


@pytest.mark.parametrize("server", [-1, 65536])
def test_server_number_beyond_sixteen_bits_is_refused(server: int) -> None:
    with pytest.raises(ValueError, match="is not below 65536"):
        StickTable(1, 60).store(1, server, 0)


@given(st.one_of(addresses_v4, addresses_v6), st.integers(0, 32), st.integers(0, 128))
def test_clients_of_one_network_share_its_key(address: IPv4Address | IPv6Address, v4: int, v6: int) -> None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    address = mapped or address
    network = ip_network((address, v4 if address.version == 4 else v6), strict=False)
    key = client_key(str(address), v4, v6)
    assert key == client_key(str(network[0]), v4, v6) == client_key(str(network[-1]), v4, v6)
    shown_address = IPv6Address(key - 2**128) if key >> 128 else IPv4Address(key)
    assert shown_address == network.network_address


@given(addresses_v4, addresses_v6, st.integers(0, 32), st.integers(0, 128))
def test_ipv4_and_ipv6_clients_never_share_a_key(
    one: IPv4Address, other: IPv6Address, v4: int, v6: int
) -> None:
    if other.ipv4_mapped is None:
        assert client_key(str(one), v4, v6) != client_key(str(other), v4, v6)


@given(addresses_v4, st.integers(0, 32), st.sampled_from(["::ffff:{}", "::FFFF:{}", "0:0:0:0:0:ffff:{}"]))
def test_mapped_ipv4_address_has_the_ipv4_key(address: IPv4Address, v4: int, form: str) -> None:
    assert client_key(form.format(address), v4) == client_key(str(address), v4)
    assert client_key(form.format(address) + "%eth0", v4) == client_key(str(address), v4)
    number = int(address)
    assert client_key(f"::ffff:{number >> 16:x}:{number & 0xFFFF:x}", v4) == client_key(str(address), v4)


@given(addresses_v6)
def test_all_forms_of_an_address_share_a_key(address: IPv6Address) -> None:
    forms = (str(address), address.exploded, str(address).upper(), f"{address}%eth0")
    assert len({client_key(form, 32, 128) for form in forms}) == 1


@given(st.text("0123456789abcdefg:.%+_ \u0663", max_size=20))
def test_text_has_a_key_only_if_an_address(text: str) -> None:
    try:
        expected = int(ip_address(text))
    except ValueError as error:
        if "Leading zeros" not in str(error) and text.count(".") != 3:
            with pytest.raises(ValueError):
                client_key(text, 32, 128)
    else:
        assert client_key(text, 32, 128) & (1 << 128) - 1 in (expected, expected & 0xFFFF_FFFF)


@pytest.mark.parametrize(
    "text",
    ["", "host", "192.0.2", "192.0.2.256", "1.2.3.4.5", "1..2.3", "1.2.3.-4", "1.2.3.+4", "\u0661.2.3.4", ":", ":::", "1:::2", "1::2::3",
     "1:2:3", "1:2:3:4:5:6:7:8:9", "12345::", "::g", "::1_0", "1:2:3:4:5:6:7::8:9", "::ffff:1.2.3", "::ffff:1.2.3.256"],
)  # fmt: skip
def test_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        client_key(text)


def test_renumbered_table_keeps_order_and_drops_servers_that_are_gone() -> None:
    table = StickTable(10, expire=60.0)
    for client, server in enumerate((0, 1, 2, 0)):
        table.store(client, server, float(client))
    table.renumber("abc", "c-a")
    assert list(table.entries()) == [(0, 2, 60.0), (2, 0, 62.0), (3, 2, 63.0)]


def test_smaller_table_keeps_latest_entries() -> None:
    table = StickTable(10, expire=60.0)
    for client in range(4):
        table.store(client, 0, 0.0)
    table.resize(2, expire=10.0)
    assert [key for key, _, _ in table.entries()] == [2, 3]
    table.store(2, 0, 0.0)
    assert {key: expires for key, _, expires in table.entries()} == {3: 60.0, 2: 10.0}


def test_snapshot_is_of_its_moment() -> None:
    """It can be read while the table changes, and restores the same table."""
    table = StickTable(10, 100.0)
    for key in range(5):
        table.store(key, key % 2, float(key))
    table.lookup(0, 6.0)
    before, snapshot = sorted(table.entries()), table.snapshot(10)
    table.store(7, 0, 7.0)
    table.store(1, 0, 7.0)
    assert sorted(snapshot) == before
    assert len(list(table.snapshot(3))) == 3
