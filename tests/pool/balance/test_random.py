"""The balance random: two servers are drawn by weight, and the less loaded one is chosen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import define

from mailproxy.pool import Random, Server
from tests.support.pool_servers import counts, make_servers, names, seeded_random


@define
class FixedRandom:
    """A random source with the given numbers."""

    numbers: Iterator[float]

    def random(self) -> float:
        return next(self.numbers)


def choose(servers: list[Server], *numbers: float) -> list[str]:
    balance = Random(FixedRandom(iter(numbers)))
    balance.set_servers(servers)
    return names([balance.choose()])


def test_less_loaded_server_for_its_weight_is_chosen() -> None:
    servers = make_servers(1, 3)
    servers[0].sessions, servers[1].sessions = 2, 5  # 2 and 1.7 for each unit of weight
    assert choose(servers, 0.1, 0.9) == ["s1"]
    assert choose(servers, 0.9, 0.1) == ["s1"]
    servers[1].sessions = 7
    assert choose(servers, 0.1, 0.9) == ["s0"]
    assert choose(servers, 0.9, 0.1) == ["s0"]


def test_draw_probability_follows_the_weight() -> None:
    assert choose(make_servers(1, 3), 0.24, 0.24) == ["s0"]
    assert choose(make_servers(1, 3), 0.26, 0.26) == ["s1"]
    assert choose(make_servers(1, 3), 0.0, 1 - 2**-53) == ["s1"]


def test_full_server_is_never_chosen() -> None:
    servers = make_servers(1, 1)
    servers[0].sessions, servers[1].sessions, servers[1].max_sessions = 5, 1, 1
    assert choose(servers, 0.1, 0.9, 0.9, 0.9) == ["s0"]
    assert choose(servers, 0.9, 0.1, 0.9, 0.9) == ["s0"]


def test_active_sessions_are_spread_by_weight() -> None:
    servers = make_servers(1, 2, 3, 4)
    balance = Random(seeded_random(7))
    balance.set_servers(servers)
    for _ in range(2000):
        chosen = balance.choose()
        assert chosen is not None
        chosen.add_session()
    for server in servers:
        assert server.sessions == pytest.approx(200 * server.weight, rel=0.05)


def test_short_sessions_are_spread_by_weight() -> None:
    balance = Random(seeded_random(7))
    balance.set_servers(make_servers(1, 2, 3, 4))
    count = counts(balance.choose() for _ in range(10_000))
    for number in range(4):
        assert count[f"s{number}"] == pytest.approx(1000 * (number + 1), rel=0.1)


def test_share_of_full_server_is_spread_over_others() -> None:
    servers = make_servers(10, 1, 1)
    servers[0].max_sessions = servers[0].sessions = 1
    balance = Random(seeded_random(7))
    balance.set_servers(servers)
    count = counts(balance.choose() for _ in range(1000))
    assert set(count) == {"s1", "s2"}
    assert count["s1"] == pytest.approx(500, rel=0.15)
