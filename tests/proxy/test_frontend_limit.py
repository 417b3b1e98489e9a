"""A frontend's own bound on sessions: over it, accepting waits, and the other frontends do not notice."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

import mailproxy
from mailproxy.testing import Connection, collect, dial
from tests.support.proxy.backend_cluster import assert_rejected, receive_server_name
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness, ResourceSnapshot
from tests.support.timeouts import wait_until

GREETING = b"s1\r\n"


async def two_frontends(
    harness: ProxyHarness, *, f: dict[str, Any], g: dict[str, Any] | None = None, **changes: Any
) -> mailproxy.Proxy:
    server = await harness.server(collect(GREETING))
    common = {"backend": "b", "log_null": True, "bind": [{"address": "127.0.0.1:0"}]}
    return await harness.proxy(
        server.address, frontends={"f": {**common, **f}, "g": {**common, **(g or {})}}, **changes
    )


async def come(proxy: mailproxy.Proxy, frontend: str = "f") -> Connection:
    return await dial(proxy.frontends[frontend].addresses[0])


async def held_up(proxy: mailproxy.Proxy, client: Connection) -> None:
    """It is connected, and nothing happens."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert not client.received
    assert client.end is None


async def test_over_the_bound_accepting_waits(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 2})
    before = ResourceSnapshot.now()
    clients = [await come(proxy) for _ in range(2)]
    for client in clients:
        assert await receive_server_name(client)
    late = await come(proxy)  # which the kernel keeps
    await held_up(proxy, late)
    assert proxy.frontends["f"].sessions == 2
    assert proxy.sessions == 2
    await clients.pop().close()
    assert await receive_server_name(late)
    for client in (*clients, late):
        client.drop()
    await before.wait_until_restored()


async def test_other_frontends_accept_on(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 1})
    async with await come(proxy) as here, await come(proxy) as late:
        assert await receive_server_name(here)
        await held_up(proxy, late)
        for _ in range(5):
            async with await come(proxy, "g") as other:
                assert await receive_server_name(other)
        assert proxy.frontends["f"].sessions == 1
        await held_up(proxy, late)


async def test_each_has_a_bound_of_its_own(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 1}, g={"max_sessions": 2})
    async with await come(proxy) as one, await come(proxy, "g") as two, await come(proxy, "g") as three:
        for client in (one, two, three):
            assert await receive_server_name(client)
        async with await come(proxy) as late, await come(proxy, "g") as later:
            await held_up(proxy, late)
            await held_up(proxy, later)
            two.drop()
            assert await receive_server_name(later)
            await held_up(proxy, late)
            one.drop()
            assert await receive_server_name(late)
    limits = {line["frontend"]: line["limit"] for line in await harness.events("sessions-full", 2)}
    assert limits == {"f": 1, "g": 2}


async def test_the_log_says_so_once(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 1})
    for _ in range(5):
        async with await come(proxy) as here, await come(proxy) as late:
            assert await receive_server_name(here)
            await held_up(proxy, late)
            here.drop()
            assert await receive_server_name(late)
    await harness.sessions(10)
    (said,) = await harness.events("sessions-full")
    assert (said["frontend"], said["limit"], said["level"]) == ("f", 1, "warning")
    assert said["message"] == (
        "frontend f has 1 sessions, as many as frontends.f.max_sessions allows: accepting waits, connections in its queue: 1"
    )
    assert (said["key"], said["waiting"]) == ("frontends.f.max_sessions", 1)


async def test_the_bound_is_that_of_all_binds_together(harness: ProxyHarness) -> None:
    binds = [{"address": "127.0.0.1:0"}, {"address": f"unix:{harness.folder}/p.sock"}]
    proxy = await two_frontends(harness, f={"max_sessions": 1, "bind": binds})
    first, second = proxy.frontends["f"].addresses
    async with await dial(first) as here, await dial(second) as late:
        assert await receive_server_name(here)
        await held_up(proxy, late)
        here.drop()
        assert await receive_server_name(late)


async def test_the_processs_bound_holds_beside_it(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 2}, process={"max_sessions": 3})
    async with await come(proxy) as one, await come(proxy) as two, await come(proxy, "g") as other:
        for client in (one, two, other):
            assert await receive_server_name(client)
        async with await come(proxy, "g") as late:
            await held_up(proxy, late)
            one.drop()  # room in both
            assert await receive_server_name(late)
        await wait_until(lambda: proxy.sessions == 2)


async def test_zero_is_no_bound(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 0})
    clients = [await come(proxy) for _ in range(20)]
    for client in clients:
        assert await receive_server_name(client)
        client.drop()


async def test_a_session_in_its_handshake_counts(harness: ProxyHarness) -> None:
    """The bound is one on connections: a stranger that says nothing has one of the places."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, tls=True, frontends={"f": {"max_sessions": 1}})
    async with await come(proxy) as silent:
        await wait_until(lambda: proxy.sessions == 1)
        async with await come(proxy) as late, trio.open_nursery() as nursery:
            nursery.start_soon(late.start_tls, harness.ca.client_context())
            await held_up(proxy, late)
            silent.drop()
        assert late.tls is not None, "which had its handshake then"


async def test_those_that_wait_to_be_accepted_are_not_heard_of_once_they_have_left(
    harness: ProxyHarness,
) -> None:
    """They have a line when there is room: nobody knew of them before."""
    proxy = await two_frontends(harness, f={"max_sessions": 1})
    here = await come(proxy)
    assert await receive_server_name(here)
    gone = [await come(proxy) for _ in range(3)]
    for client in gone:
        client.drop()
    async with await come(proxy) as late:
        await held_up(proxy, late)
        await here.close()
        assert await receive_server_name(late)
    lines = await harness.sessions(5)
    assert {line["end"] for line in lines} <= {"client-closed", "client-left"}


async def test_stopping_does_not_wait_for_room(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 1})
    here, late = await come(proxy), await come(proxy)
    assert await receive_server_name(here)
    await held_up(proxy, late)
    with trio.fail_after(TIMEOUT_S):
        await proxy.drain(0)
        await assert_rejected(here)
        await late.receive_until_end()
    late.drop()
    assert (await harness.session())["end"] == "stopped"


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_crowd_is_served_one_after_the_other(harness: ProxyHarness, limit: int) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": limit})
    most = inside = 0

    async def visit() -> None:
        nonlocal most, inside
        async with await come(proxy) as client:
            assert await receive_server_name(client)
            inside += 1
            most = max(most, inside)
            await trio.lowlevel.checkpoint()
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(visit)
    assert most <= limit
    await harness.sessions(60)
    await harness.wait_until_idle()
