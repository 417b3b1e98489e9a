"""A server's weight, changed while the proxy runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.proxy.backend_cluster import BackendCluster, assert_rejected, receive_server_name


async def start_cluster(cluster: BackendCluster, *names: str, **backend: Any) -> None:
    for name in names:
        await cluster.add_server(name)
    await cluster.start_proxy(**backend)


@pytest.mark.parametrize("balance", ["roundrobin", "leastconn", "random", "source"])
async def test_weight_zero_keeps_new_sessions_away(cluster: BackendCluster, balance: str) -> None:
    await start_cluster(cluster, "s1", "s2", balance=balance)
    cluster.states["s1"].set_weight(0)
    assert {await cluster.connect_and_close() for _ in range(6)} == {"s2"}
    cluster.states["s1"].set_weight(1)
    cluster.states["s2"].set_weight(0)
    assert {await cluster.connect_and_close() for _ in range(6)} == {"s1"}


async def test_weight_changes_the_shares(cluster: BackendCluster) -> None:
    await start_cluster(cluster, "s1", "s2", balance="roundrobin")
    cluster.states["s1"].set_weight(3)
    assert cluster.states["s1"].weight == 3
    assert Counter([await cluster.connect_and_close() for _ in range(12)]) == {"s1": 9, "s2": 3}


async def test_new_weight_serves_queued_session(cluster: BackendCluster) -> None:
    await cluster.add_server("full", max_sessions=1)
    await cluster.add_server("spare", weight=0)
    await cluster.start_proxy()
    await cluster.connect_greeted()
    waiting = await cluster.connect_queued()
    cluster.states["spare"].set_weight(1)
    assert await receive_server_name(waiting) == "spare"


async def test_weight_zero_everywhere_is_logged(cluster: BackendCluster) -> None:
    await start_cluster(cluster, "s1")
    connected = await cluster.connect_greeted()
    cluster.states["s1"].set_weight(0)
    await assert_rejected(await cluster.connect_client())
    await connected.send(b"still here\r\n")
    assert await connected.receive_line() == b"still here\r\n"
    (line,) = await cluster.harness.events("backend-down")
    assert line["message"] == "backend b has no server available!"


@pytest.mark.parametrize("weight", [-1, 257, 1.5, "1"])
async def test_weight_out_of_range_is_rejected(cluster: BackendCluster, weight: Any) -> None:
    await start_cluster(cluster, "s1")
    with pytest.raises(ValueError, match="is not a whole number from 0 to 256"):
        cluster.states["s1"].set_weight(weight)
    assert cluster.states["s1"].weight == 1
