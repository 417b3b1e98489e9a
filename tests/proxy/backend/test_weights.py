"""A server's weight, changed while the proxy runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.proxy.backend_cluster import Farm, served_by, turned_away


async def start(farm: Farm, *names: str, **backend: Any) -> None:
    for name in names:
        await farm.server(name)
    await farm.start(**backend)


@pytest.mark.parametrize("balance", ["roundrobin", "leastconn", "random", "source"])
async def test_weight_zero_keeps_new_sessions_away(farm: Farm, balance: str) -> None:
    await start(farm, "s1", "s2", balance=balance)
    farm.states["s1"].set_weight(0)
    assert {await farm.visit() for _ in range(6)} == {"s2"}
    farm.states["s1"].set_weight(1)
    farm.states["s2"].set_weight(0)
    assert {await farm.visit() for _ in range(6)} == {"s1"}


async def test_weight_changes_the_shares(farm: Farm) -> None:
    await start(farm, "s1", "s2", balance="roundrobin")
    farm.states["s1"].set_weight(3)
    assert farm.states["s1"].weight == 3
    assert Counter([await farm.visit() for _ in range(12)]) == {"s1": 9, "s2": 3}


async def test_weight_gives_a_waiting_session_its_server(farm: Farm) -> None:
    await farm.server("full", max_sessions=1)
    await farm.server("spare", weight=0)
    await farm.start()
    await farm.welcome()
    waiting = await farm.in_line()
    farm.states["spare"].set_weight(1)
    assert await served_by(waiting) == "spare"


async def test_weight_zero_of_all_servers_is_logged(farm: Farm) -> None:
    await start(farm, "s1")
    stays = await farm.welcome()
    farm.states["s1"].set_weight(0)
    await turned_away(await farm.guest())
    await stays.send(b"still here\r\n")
    assert await stays.receive_line() == b"still here\r\n"
    (line,) = await farm.scene.events("backend-down")
    assert line["message"] == "backend b has no server available!"


@pytest.mark.parametrize("weight", [-1, 257, 1.5, "1"])
async def test_weight_out_of_range_is_refused(farm: Farm, weight: Any) -> None:
    await start(farm, "s1")
    with pytest.raises(ValueError, match="is not a whole number from 0 to 256"):
        farm.states["s1"].set_weight(weight)
    assert farm.states["s1"].weight == 1
