"""What becomes of a server's sessions when it goes: they go on, or end at once, as ``on_marked_down`` says."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.testing import Collect, Connection, Flood, HalfClose, Send, dial
from tests.support.patience import until
from tests.support.proxy.backend_cluster import Farm, checked_by, is_served, served_by, turned_away
from tests.support.proxy.proxy_fixture import PATIENCE_S, Belongings
from tests.support.proxy.relays import ON_BOTH

SHUT_DOWN: dict[str, Any] = {"on_marked_down": "shutdown-sessions"}
NEVER: dict[str, Any] = {"timeouts": {"connect": "1h"}}


async def two_guests(farm: Farm, **settings: Any) -> tuple[Connection, Connection]:
    """One at s1, one at s2."""
    await farm.server("s1")
    await farm.server("s2")
    await farm.start(balance="roundrobin", **settings)
    one, two = await farm.welcome(), await farm.welcome()
    assert [server.sessions for server in farm.states.values()] == [1, 1]
    return one, two


@ON_BOTH
@pytest.mark.parametrize("tls", [False, True])
async def test_sessions_of_a_server_in_maintenance_end(farm: Farm, tls: bool) -> None:
    one, two = await two_guests(farm, tls=tls, **SHUT_DOWN)
    await is_served(one)
    farm.states["s1"].set_state("maint")
    await turned_away(one)
    assert one.end in {"eof", "close_notify"}, "no reset: what was on its way may arrive"
    with trio.fail_after(PATIENCE_S):
        await farm.servers["s1"].wait_ended()
    assert farm.servers["s1"].connections[0].end == "eof", "the server's side ends, too"
    line = await farm.scene.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == ("server-down", "proxy", "data", "D-")
    assert (line["server"], line["bytes_in"], line["bytes_out"]) == ("s1", 14, 18)
    await is_served(two)
    assert [server.sessions for server in farm.states.values()] == [0, 1]


async def test_the_log_has_the_server_before_its_sessions(farm: Farm) -> None:
    await two_guests(farm, **SHUT_DOWN)
    farm.states["s1"].set_state("maint")
    await farm.scene.session()
    lines = [line for line in farm.scene.lines() if line["event"] in ("server-state", "session")]
    assert [line["event"] for line in lines] == ["server-state", "session"]
    assert "1 sessions active, 0 requeued" in lines[0]["message"]


async def test_haproxys_line_of_it(farm: Farm) -> None:
    await two_guests(farm, tcplog=True, **SHUT_DOWN)
    farm.states["s1"].set_state("maint")
    line = await farm.tcp_line()
    assert (line.place, line.state, line.retries, line.queue) == ("b/s1", "D-", "0", "0/0")


@pytest.mark.parametrize("settings", [{}, {"on_marked_down": "none"}])
async def test_unless_it_is_wished_sessions_go_on(farm: Farm, settings: dict[str, Any]) -> None:
    one, two = await two_guests(farm, **settings)
    farm.states["s1"].set_state("maint")
    await is_served(one)
    await is_served(two)
    assert await farm.visit() == "s2"
    await farm.leave(one)
    lines = await farm.scene.sessions(2)
    assert {line["end"] for line in lines} == {"client-closed"}


async def test_a_server_may_have_it_otherwise_than_its_backend(farm: Farm) -> None:
    await farm.server("s1", on_marked_down="none")
    await farm.server("s2")
    await farm.start(balance="roundrobin", **SHUT_DOWN)
    one, two = [await farm.welcome() for _ in range(2)]
    for server in farm.states.values():
        server.set_state("maint")
    await turned_away(two)
    await is_served(one)


async def test_sessions_of_a_server_that_drains_go_on(farm: Farm) -> None:
    """Until it goes for maintenance, which is how one is emptied that people will not leave."""
    one, _ = await two_guests(farm, **SHUT_DOWN)
    farm.states["s1"].set_state("drain")
    await is_served(one)
    farm.states["s1"].set_state("maint")
    await turned_away(one)
    assert (await farm.scene.session())["end"] == "server-down"


async def test_a_server_that_comes_back_has_new_sessions_only(farm: Farm) -> None:
    one, _ = await two_guests(farm, **SHUT_DOWN)
    farm.states["s1"].set_state("maint")
    await turned_away(one)
    farm.states["s1"].set_state("ready")
    assert {await farm.visit() for _ in range(2)} == {"s1", "s2"}
    again = await farm.guest()
    while await served_by(again) != "s1":
        again = await farm.guest()
    farm.states["s1"].set_state("maint")
    await turned_away(again)


async def test_sessions_of_a_server_whose_checks_fail_end(farm: Farm) -> None:
    checked = await farm.bystander("checked")
    await farm.server("s1", check=checked_by(checked))
    await farm.server("s2")
    await farm.start(balance="first", **SHUT_DOWN)
    client = await farm.welcome()
    await checked.close()
    await turned_away(client)
    line = await farm.scene.session()
    assert (line["end"], line["state"]) == ("server-down", "D-")
    (said,) = await farm.scene.events("server-down")
    assert "1 sessions active" in said["message"]
    assert await farm.visit() == "s2"


async def test_sessions_of_the_last_server_end_too(farm: Farm) -> None:
    await farm.server("s1")
    await farm.start(**SHUT_DOWN)
    client = await farm.welcome()
    farm.states["s1"].set_state("maint")
    await turned_away(client)
    await farm.scene.events("backend-down")
    assert (await farm.scene.session())["end"] == "server-down"


async def test_other_backends_sessions_go_on(farm: Farm) -> None:
    """Also those at a server of the same name and address."""
    server = await farm.server("s1")
    bind = [{"address": "127.0.0.1:0"}]
    same = {"name": "s1", "address": server.address, **SHUT_DOWN}
    proxy = await farm.scene.run_proxy(
        {
            "log": {"format": "json", "to": str(farm.scene.log)},
            "frontends": {name: {"bind": bind, "backend": name, "log_null": True} for name in "bc"},
            "backends": {name: {"check": "none", "servers": [same]} for name in "bc"},
        }
    )
    async with (
        await dial(proxy.frontends["b"].addresses[0]) as one,
        await dial(proxy.frontends["c"].addresses[0]) as other,
    ):
        assert await served_by(one) == await served_by(other) == "s1"
        proxy.backends["b"].servers["s1"].set_state("maint")
        await turned_away(one)
        await is_served(other)


# Whatever they are at


@pytest.mark.parametrize("where", ["connecting", "TLS", "in the pause"])
async def test_who_is_being_connected_is_taken_elsewhere(farm: Farm, where: str) -> None:
    """Nothing has come of it yet, so nothing is lost."""
    tls = farm.scene.ca.server_context("127.0.0.1") if where == "TLS" else None
    match where:
        case "connecting":
            await farm.unanswered("s1")
        case "TLS":
            await farm.server("s1", (Collect(),))
        case _:
            await farm.server("s1")
    await farm.server("s2", tls=tls)
    sticky: dict[str, Any] = {"stick": {"on": "source"}} if where == "in the pause" else {}
    await farm.start(
        balance="first",
        retries=3,
        introduced=True,
        backend_tls=tls is not None,
        **SHUT_DOWN,
        **NEVER,
        **sticky,
    )
    if sticky:
        assert await farm.visit() == "s1"
        await farm.servers["s1"].close()
    client = await farm.guest()
    match where:
        case "connecting":
            await farm.connecting()
        case "TLS":
            with trio.fail_after(PATIENCE_S):
                connection = await farm.servers["s1"].wait_for(1)
                await connection.wait_received(1)
        case _:
            await farm.failed("s1")
    farm.states["s1"].set_state("maint")
    assert await served_by(client) == "s2"
    await is_served(client)
    await farm.leave(client)
    line = (await farm.scene.sessions(2 if sticky else 1))[-1]
    assert (line["end"], line["server"], line["redispatched"]) == ("client-closed", "s2", True)
    assert [server.sessions for server in farm.states.values()] == [0, 0]


async def test_who_was_taken_elsewhere_has_nothing_to_do_with_it_any_more(farm: Farm) -> None:
    await farm.refusing("s1")
    await farm.server("s2")
    await farm.start(balance="first", retries=1, **SHUT_DOWN)
    client = await farm.welcome()
    farm.states["s1"].set_state("maint")
    await is_served(client)


@ON_BOTH
@pytest.mark.parametrize("server_tls", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_peers_that_read_nothing_keep_no_session(farm: Farm, tls: bool, server_tls: bool) -> None:
    await farm.server("s1", (Flood(),), tls=farm.scene.ca.server_context("127.0.0.1") if server_tls else None)
    await farm.start(tls=tls, backend_tls=server_tls, **SHUT_DOWN)
    before = Belongings.now()
    client = await farm.guest()
    with trio.fail_after(PATIENCE_S):
        await client.receive_exactly(100)
        await trio.testing.wait_all_tasks_blocked(0.05)  # everything is full now
        farm.states["s1"].set_state("maint")
        line = await farm.scene.session()
    assert (line["end"], line["state"]) == ("server-down", "D-")
    client.drop()
    await before.again()


@ON_BOTH
async def test_half_closed_sessions_end_too(farm: Farm) -> None:
    await farm.server("s1", (Send(b"s1\r\n"), HalfClose(), Collect()))
    await farm.start(**SHUT_DOWN)
    client = await farm.guest()
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_until_end() == b"s1\r\n"  # the session goes on the other way
    assert farm.proxy.sessions == 1
    farm.states["s1"].set_state("maint")
    assert (await farm.scene.session())["end"] == "server-down"


@ON_BOTH
async def test_a_hundred_sessions_end_at_once(farm: Farm) -> None:
    await farm.server("s1")
    await farm.server("s2")
    await farm.start(**SHUT_DOWN)
    before = Belongings.now()
    clients = [await farm.welcome() for _ in range(100)]
    farm.states["s1"].set_state("maint")
    lines = await farm.scene.sessions(50)
    assert {(line["server"], line["end"]) for line in lines} == {("s1", "server-down")}
    assert [server.sessions for server in farm.states.values()] == [0, 50]
    ended = 0

    async def notice(client: Connection) -> None:
        nonlocal ended
        await client.receive_until_end()
        ended += 1

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(notice, client)
        await until(lambda: ended == 50)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ended == 50
        nursery.cancel_scope.cancel()
    for client in clients:
        client.drop()
    await before.again()


async def test_a_place_that_is_freed_so_is_no_place(farm: Farm) -> None:
    """The sessions end because the server goes: those who wait for one do not get it."""
    server = await farm.server("s1", max_sessions=1)
    await farm.start(**SHUT_DOWN)
    here, client = await farm.welcome(), await farm.in_line()
    farm.states["s1"].set_state("maint")
    await turned_away(here)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (farm.pool.waiting, server.accepted) == (1, 1)
    farm.states["s1"].set_state("ready")
    assert await served_by(client) == "s1"
