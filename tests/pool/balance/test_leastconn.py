"""The balance leastconn: the fewest sessions for the weight, equal servers in turn, only usable servers."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailproxy.pool import AdminState, LeastConn, Server

ADDRESS = (("192.0.2.1", 143),)
states = st.sampled_from(AdminState)


def server(name: str, *, weight: int = 1, sessions: int = 0, state: AdminState = AdminState.READY) -> Server:
    return Server(name, weight=weight, sessions=sessions, state=state, addresses=ADDRESS)


def choose(balance: LeastConn, servers: Sequence[Server]) -> Server | None:
    balance.set_servers([s for s in servers if s.is_usable])
    return balance.choose()


some_servers = st.lists(
    st.builds(
        Server,
        st.just("s"),
        weight=st.integers(0, 256),
        sessions=st.integers(0, 1000),
        state=states,
        addresses=st.sampled_from([(), ADDRESS]),
    ),
    max_size=6,
)


def load(server: Server) -> Fraction:
    """Return the load with the next session included, as HAProxy counts it. Idle servers come first."""
    return Fraction(server.sessions + 1, server.weight) if server.sessions else Fraction(0)


@given(some_servers, st.integers(1, 10))
def test_choice_is_usable_if_any_server_is(servers: list[Server], times: int) -> None:
    balance = LeastConn()
    for _ in range(times):
        chosen = choose(balance, servers)
        usable = [s for s in servers if s.state is AdminState.READY and s.weight > 0 and s.addresses]
        assert (chosen is None) == (not usable)
        assert chosen is None or any(chosen is s for s in usable)


@given(some_servers, st.integers(1, 10))
def test_choice_has_fewest_sessions_for_its_weight(servers: list[Server], times: int) -> None:
    balance = LeastConn()
    for _ in range(times):
        chosen = choose(balance, servers)
        if chosen is not None:
            assert load(chosen) == min(load(s) for s in servers if s.is_usable)
            chosen.add_session()


@given(st.integers(1, 8), st.integers(1, 256), st.integers(0, 50))
def test_equal_servers_take_turns(count: int, weight: int, sessions: int) -> None:
    balance = LeastConn()
    servers = [server(str(number), weight=weight, sessions=sessions) for number in range(count)]
    chosen = [choose(balance, servers) for _ in range(3 * count)]
    assert [s.name for s in chosen if s] == [str(number) for number in range(count)] * 3


def test_equal_servers_take_turns_for_consecutive_sessions() -> None:
    balance, servers = LeastConn(), [server("a"), server("b"), server("c")]
    names = []
    for _ in range(7):
        chosen = choose(balance, servers)
        assert chosen is not None
        chosen.add_session()
        names.append(chosen.name)
        chosen.remove_session()
    assert names == ["a", "b", "c", "a", "b", "c", "a"]


def test_unusable_servers_get_no_turn() -> None:
    balance = LeastConn()
    servers = [server("a"), server("b", state=AdminState.DRAIN), server("c", weight=0), server("d")]
    assert [s.name for _ in range(4) if (s := choose(balance, servers))] == ["a", "d", "a", "d"]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_active_sessions_are_spread_by_weight(weights: list[int]) -> None:
    balance = LeastConn()
    servers = [server(str(number), weight=weight) for number, weight in enumerate(weights)]
    rounds = 5
    for _ in range(rounds * sum(weights)):
        chosen = choose(balance, servers)
        assert chosen is not None
        chosen.add_session()
    assert [s.sessions for s in servers] == [rounds * weight for weight in weights]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(20, 40))
def test_long_run_spreads_sessions_by_weight(weights: list[int], lifetime: int) -> None:
    balance = LeastConn()
    servers = [server(str(number), weight=weight) for number, weight in enumerate(weights)]
    active: deque[Server] = deque()
    rounds, count = 60, Counter[str]()
    for _ in range(rounds * sum(weights)):
        chosen = choose(balance, servers)
        assert chosen is not None
        chosen.add_session()
        count[chosen.name] += 1
        active.append(chosen)
        if len(active) > lifetime * sum(weights):
            active.popleft().remove_session()
    for s in servers:
        assert count[s.name] == pytest.approx(rounds * s.weight, rel=0.1)


def test_returning_server_is_filled_first() -> None:
    balance = LeastConn()
    back, busy = server("back"), server("busy", sessions=10)
    for _ in range(10):
        assert choose(balance, [back, busy]) is back
        back.add_session()
    names = Counter[str]()
    for _ in range(10):
        chosen = choose(balance, [back, busy])
        assert chosen is not None
        chosen.add_session()
        names[chosen.name] += 1
    assert names == {"back": 5, "busy": 5}


def test_weight_ten_takes_ten_times_the_sessions() -> None:
    balance, small, big = LeastConn(), server("small", sessions=1), server("big", weight=10, sessions=18)
    assert choose(balance, [small, big]) is big
    big.add_session()
    assert {s.name for _ in range(2) if (s := choose(balance, [small, big]))} == {"small", "big"}
    big.add_session()
    assert choose(balance, [small, big]) is small


def test_order_of_servers_matches_haproxy() -> None:
    """Observed with HAProxy 2.6.12: weights 1 and 10, six sessions one after another, then fourteen that stay."""
    balance, small, big = LeastConn(), server("a"), server("b", weight=10)
    balance.set_servers([small, big])
    short = [chosen.name for _ in range(6) if (chosen := balance.choose())]
    assert short == ["a", "b"] * 3
    staying = []
    for _ in range(14):
        chosen = balance.choose()
        assert chosen is not None
        chosen.add_session()
        staying.append(chosen.name)
    assert staying == ["a"] + ["b"] * 13


def test_idle_server_precedes_busy_server_of_any_weight() -> None:
    balance, strong, weak = LeastConn(), server("strong", weight=256, sessions=1), server("weak")
    balance.set_servers([strong, weak])
    assert [balance.choose() for _ in range(3)] == [weak] * 3


def test_balance_without_servers_chooses_none() -> None:
    assert choose(LeastConn(), []) is None


def test_servers_may_change_between_choices() -> None:
    balance, servers = LeastConn(), [server(str(number)) for number in range(4)]
    for size in (4, 1, 3, 0, 2, 4):
        chosen = choose(balance, servers[:size])
        assert (chosen is None) == (size == 0)


@pytest.mark.parametrize(
    ("state", "weight", "has_address"), list(itertools.product(AdminState, (0, 1), (False, True)))
)
def test_server_is_usable_if_ready_weighted_and_resolved(
    state: AdminState, weight: int, has_address: bool
) -> None:
    candidate = Server("s", weight=weight, state=state, addresses=ADDRESS if has_address else ())
    assert candidate.is_usable == (state is AdminState.READY and weight == 1 and has_address)


def test_server_counts_its_active_sessions() -> None:
    counted = server("s")
    for _ in range(3):
        counted.add_session()
    counted.remove_session()
    assert counted.sessions == 2
