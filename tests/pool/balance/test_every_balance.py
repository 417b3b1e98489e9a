"""What every way of balancing keeps to: it finds who has room, passes over the full, avoids whom a session has tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import Balance, First, LeastConn, Server
from tests.support.pool_servers import balances, make_servers, names

KINDS = [type(balance).__name__ for balance in balances([])]
kinds = st.sampled_from(range(len(KINDS)))
keys = st.one_of(st.none(), st.binary(max_size=16))
loads = st.lists(
    st.tuples(st.integers(1, 256), st.integers(0, 3), st.integers(0, 3)), max_size=6
)  # weight, max_sessions, sessions


@pytest.fixture(params=range(len(KINDS)), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def loaded(of: list[tuple[int, int, int]]) -> list[Server]:
    servers = make_servers(*(weight for weight, _, _ in of))
    for server, (_, most, there) in zip(servers, of, strict=True):
        server.max_sessions, server.sessions = most, there
    return servers


@given(kinds, loads, st.sets(st.integers(0, 5)), keys)
def test_it_finds_one_with_room_wherever_there_is_one_and_an_untried_one_if_it_can(
    kind: int, of: list[tuple[int, int, int]], tried: set[int], key: bytes | None
) -> None:
    servers = loaded(of)
    balance = balances(servers)[kind]
    avoiding = {servers[number] for number in tried if number < len(servers)}
    room = [server for server in servers if not server.is_full]
    for _ in range(5):
        chosen = balance.choose(key, avoiding)
        assert (chosen in room) if room else chosen is None
        assert chosen not in avoiding or avoiding.issuperset(room)


@given(kinds, st.lists(st.integers(1, 256), min_size=1, max_size=6), st.lists(st.tuples(keys, st.booleans())))
def test_limits_hold_and_no_room_is_left_unused_while_sessions_come_and_go(
    kind: int, weights: list[int], events: list[tuple[bytes | None, bool]]
) -> None:
    servers = make_servers(*weights, max_sessions=2)
    balance = balances(servers)[kind]
    there: list[Server] = []
    for key, comes in events:
        if comes:
            chosen = balance.choose(key)
            assert (chosen is None) == (len(there) == 2 * len(servers))
            if chosen is not None:
                chosen.add_session()
                there.append(chosen)
        elif there:
            there.pop(len(there) // 2).remove_session()
        assert all(server.sessions <= 2 for server in servers)


def test_a_session_that_fails_everywhere_has_tried_every_server_once(kind: int) -> None:
    servers = make_servers(1, 5, 25)
    balance = balances(servers)[kind]
    tried: list[Server] = []
    for _ in servers:
        chosen = balance.choose(b"client", tried)
        assert chosen is not None
        tried.append(chosen)
    assert sorted(names(tried)) == ["s0", "s1", "s2"]
    assert balance.choose(b"client", tried) in servers


def test_one_alone_is_chosen_even_if_it_was_tried(kind: int) -> None:
    (server,) = make_servers(1)
    assert balances([server])[kind].choose(b"client", [server]) is server


def test_those_that_went_get_nothing_and_those_that_came_get_something(kind: int) -> None:
    old, new = make_servers(1, 1, 1), make_servers(1, 1, 1, 1)
    balance = balances(old)[kind]
    balance.choose(b"client")
    balance.set_servers(new)
    seen = set()
    for number in range(200):
        chosen = balance.choose(str(number).encode())
        assert chosen in new
        chosen.add_session()
        seen.add(chosen)
    assert seen == ({new[0]} if isinstance(balance, First) else set(new))
    balance.set_servers([])
    assert balance.choose(b"client") is None


def test_nobody_is_chosen_before_there_are_servers() -> None:
    for balance in balances([]):
        assert balance.choose() is None
        assert balance.choose(b"client") is None


def test_whoever_warms_up_gets_its_part_only(kind: int) -> None:
    servers = make_servers(100, 100)
    servers[0].throttle = 0.25
    balance = balances(servers)[kind]
    had = 0
    for number in range(4000):
        chosen = balance.choose(number.to_bytes(4, "big"))
        assert chosen is not None
        chosen.add_session()
        had += chosen is servers[0]
    # A quarter to one, as exact as a ring is with its points; first does not look at weights.
    assert had == pytest.approx(4000 if isinstance(balance, First) else 4000 / 5, rel=0.25)


def test_first_fills_one_after_the_other_and_the_first_again_when_it_has_room() -> None:
    servers = make_servers(1, 1, 1, max_sessions=2)
    balance = First()
    balance.set_servers(servers)
    order = []
    for _ in range(7):
        chosen = balance.choose()
        order.append(chosen)
        if chosen is not None:
            chosen.add_session()
    assert names(order) == ["s0", "s0", "s1", "s1", "s2", "s2", "nobody"]
    servers[1].remove_session()
    servers[0].remove_session()
    assert names([balance.choose()]) == ["s0"]


def test_a_full_one_is_passed_over_by_leastconn_though_it_has_the_fewest() -> None:
    servers = make_servers(1, 1)
    servers[0].max_sessions, servers[0].sessions, servers[1].sessions = 3, 3, 50
    balance = LeastConn()
    balance.set_servers(servers)
    assert names([balance.choose()]) == ["s1"]
    servers[0].remove_session()
    assert names([balance.choose()]) == ["s0"]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_leastconn_goes_on_with_its_turns_when_one_of_them_goes(gone: int) -> None:
    servers = make_servers(1, 1, 1)
    balance: Balance = LeastConn()
    balance.set_servers(servers)
    assert names([balance.choose()]) == ["s0"]
    left = [server for number, server in enumerate(servers) if number != gone]
    balance.set_servers(left)
    turns = {0: ["s1", "s2", "s1"], 1: ["s2", "s0", "s2"], 2: ["s1", "s0", "s1"]}
    assert names(balance.choose() for _ in range(3)) == turns[gone]
