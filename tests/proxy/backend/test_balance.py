"""Which server real sessions get, by each balance, by weight, and when only backups are left."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mailproxy.testing import dial
from tests.support.proxy.backend_cluster import Farm, served_by, turned_away


async def servers(farm: Farm, *names: str, **table: Any) -> None:
    for name in names:
        await farm.server(name, **table)


async def visits(farm: Farm, count: int) -> list[str]:
    """Who serves so many guests, of whom each leaves before the next one comes."""
    return [await farm.visit() for _ in range(count)]


async def stays(farm: Farm, count: int) -> list[str]:
    """Who serves so many guests, who all stay."""
    return [await served_by(await farm.guest()) for _ in range(count)]


def hosts(count: int) -> list[str]:
    return [f"198.51.{number // 250}.{number % 250 + 1}" for number in range(count)]


# roundrobin


async def test_in_turn(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3")
    await farm.start(balance="roundrobin")
    assert await visits(farm, 7) == ["s1", "s2", "s3", "s1", "s2", "s3", "s1"]


async def test_in_turn_however_long_they_stay(farm: Farm) -> None:
    await servers(farm, "s1", "s2")
    await farm.start(balance="roundrobin")
    first = await farm.welcome()
    assert await stays(farm, 4) == ["s2", "s1", "s2", "s1"]
    await farm.leave(first)
    assert await stays(farm, 2) == ["s2", "s1"]


async def test_in_turn_by_weight_and_well_mixed(farm: Farm) -> None:
    await farm.server("strong", weight=3)
    await farm.server("weak")
    await farm.start(balance="roundrobin")
    served = await visits(farm, 12)
    assert Counter(served) == {"strong": 9, "weak": 3}
    for start in range(0, 12, 4):
        assert Counter(served[start : start + 4]) == {"strong": 3, "weak": 1}


async def test_a_server_that_is_full_is_passed_over(farm: Farm) -> None:
    await farm.server("small", max_sessions=1)
    await farm.server("large")
    await farm.start(balance="roundrobin")
    assert await stays(farm, 4) == ["small", "large", "large", "large"]


async def test_a_server_that_comes_back_is_not_overrun(farm: Farm) -> None:
    await servers(farm, "s1", "s2")
    await farm.start(balance="roundrobin")
    farm.states["s1"].set_state("maint")
    assert set(await visits(farm, 6)) == {"s2"}
    farm.states["s1"].set_state("ready")
    assert Counter(await visits(farm, 6)) == {"s1": 3, "s2": 3}


# leastconn


async def test_whoever_has_least_to_do(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3")
    await farm.start()
    clients = [await farm.guest() for _ in range(1)]
    assert [await served_by(client) for client in clients] == ["s1"]
    assert await stays(farm, 2) == ["s2", "s3"]
    await farm.leave(clients[0])
    assert await stays(farm, 1) == ["s1"]


async def test_by_weight_the_strong_have_more(farm: Farm) -> None:
    await farm.server("strong", weight=4)
    await farm.server("weak")
    await farm.start()
    await stays(farm, 20)
    assert [server.sessions for server in farm.states.values()] == [16, 4]


async def test_a_server_that_comes_back_is_filled_first(farm: Farm) -> None:
    await servers(farm, "s1", "s2")
    await farm.start()
    farm.states["s1"].set_state("maint")
    await stays(farm, 4)
    farm.states["s1"].set_state("ready")
    assert await stays(farm, 4) == ["s1"] * 4


# first


async def test_the_first_until_it_is_full(farm: Farm) -> None:
    await servers(farm, "s1", "s2", max_sessions=2)
    await farm.server("s3")
    await farm.start(balance="first")
    first = await farm.welcome()
    assert await stays(farm, 5) == ["s1", "s2", "s2", "s3", "s3"]
    await farm.leave(first)
    assert await stays(farm, 2) == ["s1", "s3"]


async def test_weights_do_not_matter_to_the_first(farm: Farm) -> None:
    await farm.server("s1", weight=1)
    await farm.server("s2", weight=100)
    await farm.start(balance="first")
    assert await stays(farm, 3) == ["s1"] * 3


# source


async def test_by_source_a_client_always_has_the_same_server(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3")
    await farm.start(balance="source", introduced=True)
    first = {host: await farm.visit(host) for host in hosts(24)}
    assert set(first.values()) == {"s1", "s2", "s3"}
    assert {host: await farm.visit(host) for host in hosts(24)} == first


async def test_by_source_over_a_restart_and_in_every_proxy(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3")
    await farm.start(balance="source", introduced=True)
    first = {host: await farm.visit(host) for host in hosts(12)}
    farm.tables.reverse()
    await farm.start(balance="source", introduced=True)
    assert {host: await farm.visit(host) for host in hosts(12)} == first, "nor does their order matter"


async def test_by_source_only_the_clients_of_a_server_that_goes_move(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3")
    await farm.start(balance="source", introduced=True)
    first = {host: await farm.visit(host) for host in hosts(24)}
    farm.states["s1"].set_state("maint")
    meanwhile = {host: await farm.visit(host) for host in hosts(24)}
    assert "s1" not in meanwhile.values()
    assert {host: name for host, name in meanwhile.items() if first[host] != "s1"} == {
        host: name for host, name in first.items() if name != "s1"
    }
    farm.states["s1"].set_state("ready")
    assert {host: await farm.visit(host) for host in hosts(24)} == first, "and they come back"


async def test_by_source_a_household_with_ipv6_is_one_client(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3", "s4")
    await farm.start(balance="source", introduced=True)
    households = [
        [await farm.visit(f"2001:db8:0:{net:x}::{host:x}") for host in (1, 0xFFFF)] for net in range(12)
    ]
    assert all(len(set(served)) == 1 for served in households)
    assert len({served[0] for served in households}) > 1


async def test_by_source_clients_of_a_unix_socket_take_turns(farm: Farm) -> None:
    await servers(farm, "s1", "s2")
    await farm.start(balance="source", frontend={"bind": [{"address": f"unix:{farm.scene.folder}/p.sock"}]})
    assert await visits(farm, 4) == ["s1", "s2", "s1", "s2"]


async def test_by_source_without_a_header_the_connections_address_counts(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3")
    await farm.start(balance="source")
    assert len(set(await visits(farm, 5))) == 1


async def test_by_source_a_full_server_sends_its_clients_to_the_same_other_one(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3", max_sessions=1)
    await farm.start(balance="source", introduced=True)
    own = await served_by(await farm.guest("192.0.2.1"))
    others = [await farm.visit("192.0.2.1") for _ in range(3)]
    assert len(set(others)) == 1
    assert others[0] != own


# random


async def test_by_chance_everybody_has_some(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3")
    await farm.start(balance="random")
    await stays(farm, 60)
    # of two that are drawn the less loaded one: far more even than chance alone
    assert all(10 <= server.sessions <= 30 for server in farm.states.values())


async def test_by_chance_places_that_are_left_are_found(farm: Farm) -> None:
    await servers(farm, "s1", "s2", "s3", max_sessions=4)
    await farm.start(balance="random")
    await stays(farm, 12)
    assert [server.sessions for server in farm.states.values()] == [4, 4, 4]


# Weights, backups


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "first", "random", "source"])
async def test_a_server_without_weight_takes_nobody(farm: Farm, balance: str) -> None:
    await farm.server("s1", weight=0)
    await servers(farm, "s2", "s3")
    await farm.start(balance=balance, introduced=True)
    served = [await farm.visit(host) for host in hosts(8)]
    assert "s1" not in served


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "first", "random", "source"])
async def test_backups_serve_only_while_no_other_server_is_there(farm: Farm, balance: str) -> None:
    await servers(farm, "spare", "spare2", backup=True)
    await servers(farm, "s1", "s2")
    await farm.start(balance=balance, introduced=True)
    assert {await farm.visit(host) for host in hosts(6)} <= {"s1", "s2"}
    farm.states["s1"].set_state("maint")
    assert {await farm.visit(host) for host in hosts(3)} == {"s2"}
    farm.states["s2"].set_state("drain")
    assert {await farm.visit(host) for host in hosts(3)} == {"spare"}, "the first of them, alone"
    farm.states["spare"].set_state("maint")
    assert {await farm.visit(host) for host in hosts(3)} == {"spare2"}
    farm.states["s1"].set_state("ready")
    assert {await farm.visit(host) for host in hosts(3)} == {"s1"}


async def test_full_servers_are_waited_for_rather_than_backups_used(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    spare = await farm.server("spare", backup=True)
    await farm.start()
    here = await farm.welcome()
    client = await farm.in_line()
    assert spare.accepted == 0
    await farm.leave(here)
    assert await served_by(client) == "s1"


async def test_who_waits_for_a_place_has_the_backups_when_the_servers_go(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.server("spare", backup=True)
    await farm.start()
    await farm.welcome()
    waiting = await farm.line_up(2)
    farm.states["s1"].set_state("maint")
    for client in waiting:
        assert await served_by(client) == "spare"


async def test_no_server_at_all(farm: Farm) -> None:
    await farm.server("s1")
    await farm.server("s2", weight=0)
    await farm.start()
    farm.states["s1"].set_state("drain")
    await turned_away(await farm.guest())
    line = await farm.scene.session()
    assert (line["end"], line["by"], line["state"]) == ("no-server", "proxy", "SC")
    assert "s1: DRAIN" in line["detail"]
    assert "s2: weight 0" in line["detail"]


async def test_two_frontends_share_a_backends_turns(farm: Farm) -> None:
    await servers(farm, "s1", "s2")
    bind = [{"address": "127.0.0.1:0"}]
    proxy = await farm.scene.run_proxy(
        {
            "log": {"format": "json", "to": str(farm.scene.log)},
            "frontends": {name: {"bind": bind, "backend": "b"} for name in "fg"},
            "backends": {"b": {"servers": farm.tables, "balance": "roundrobin", "check": "none"}},
        }
    )
    served = []
    for name in "fgfg":
        async with await dial(proxy.frontends[name].addresses[0]) as client:
            served.append(await served_by(client))
    assert served == ["s1", "s2", "s1", "s2"]
