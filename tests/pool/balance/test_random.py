"""random: by weight, and of two the one with less to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import define

from mailproxy.pool import Random, Server
from tests.support.pool_servers import counts, make_servers, names, seeded_random


@define
class Loaded:
    """Dice that fall as they are told."""

    throws: Iterator[float]

    def random(self) -> float:
        return next(self.throws)


def thrown(servers: list[Server], *throws: float) -> list[str]:
    balance = Random(Loaded(iter(throws)))
    balance.set_servers(servers)
    return names([balance.choose()])


def test_the_one_with_less_to_do_for_its_weight_is_taken() -> None:
    servers = make_servers(1, 3)
    servers[0].sessions, servers[1].sessions = 2, 5  # 2 and 1.7 for each of their weight
    assert thrown(servers, 0.1, 0.9) == ["s1"]
    assert thrown(servers, 0.9, 0.1) == ["s1"]
    servers[1].sessions = 7
    assert thrown(servers, 0.1, 0.9) == ["s0"]
    assert thrown(servers, 0.9, 0.1) == ["s0"]


def test_draws_are_as_likely_as_the_weights_say() -> None:
    assert thrown(make_servers(1, 3), 0.24, 0.24) == ["s0"]
    assert thrown(make_servers(1, 3), 0.26, 0.26) == ["s1"]
    assert thrown(make_servers(1, 3), 0.0, 1 - 2**-53) == ["s1"]


def test_one_that_cannot_be_used_is_never_taken_whichever_draw_it_is() -> None:
    servers = make_servers(1, 1)
    servers[0].sessions, servers[1].sessions, servers[1].max_sessions = 5, 1, 1
    assert thrown(servers, 0.1, 0.9, 0.9, 0.9) == ["s0"]
    assert thrown(servers, 0.9, 0.1, 0.9, 0.9) == ["s0"]


def test_sessions_that_stay_are_spread_by_weight() -> None:
    servers = make_servers(1, 2, 3, 4)
    balance = Random(seeded_random(7))
    balance.set_servers(servers)
    for _ in range(2000):
        chosen = balance.choose()
        assert chosen is not None
        chosen.add_session()
    for server in servers:
        assert server.sessions == pytest.approx(200 * server.weight, rel=0.05)


def test_short_sessions_are_spread_by_weight_too() -> None:
    balance = Random(seeded_random(7))
    balance.set_servers(make_servers(1, 2, 3, 4))
    had = counts(balance.choose() for _ in range(10_000))
    for number in range(4):
        assert had[f"s{number}"] == pytest.approx(1000 * (number + 1), rel=0.1)


def test_what_a_full_one_does_not_get_is_spread_over_the_rest() -> None:
    servers = make_servers(10, 1, 1)
    servers[0].max_sessions = servers[0].sessions = 1
    balance = Random(seeded_random(7))
    balance.set_servers(servers)
    had = counts(balance.choose() for _ in range(1000))
    assert set(had) == {"s1", "s2"}
    assert had["s1"] == pytest.approx(500, rel=0.15)
