"""A frontend's own session limit: at the limit it stops accepting, and other frontends do not notice."""

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


async def connect(proxy: mailproxy.Proxy, frontend: str = "f") -> Connection:
    return await dial(proxy.frontends[frontend].addresses[0])


async def assert_not_accepted(proxy: mailproxy.Proxy, client: Connection) -> None:
    """Assert that the client is connected in the kernel, and that the proxy has not accepted it."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert not client.received
    assert client.end is None


async def test_full_frontend_stops_accepting(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 2})
    before = ResourceSnapshot.now()
    clients = [await connect(proxy) for _ in range(2)]
    for client in clients:
        assert await receive_server_name(client)
    late = await connect(proxy)  # the kernel keeps this connection
    await assert_not_accepted(proxy, late)
    assert proxy.frontends["f"].sessions == 2
    assert proxy.sessions == 2
    await clients.pop().close()
    assert await receive_server_name(late)
    for client in (*clients, late):
        client.drop()
    await before.wait_until_restored()


async def test_full_frontend_does_not_stop_others(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 1})
    async with await connect(proxy) as current, await connect(proxy) as late:
        assert await receive_server_name(current)
        await assert_not_accepted(proxy, late)
        for _ in range(5):
            async with await connect(proxy, "g") as other:
                assert await receive_server_name(other)
        assert proxy.frontends["f"].sessions == 1
        await assert_not_accepted(proxy, late)


async def test_frontends_have_separate_limits(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 1}, g={"max_sessions": 2})
    async with (
        await connect(proxy) as one,
        await connect(proxy, "g") as two,
        await connect(proxy, "g") as three,
    ):
        for client in (one, two, three):
            assert await receive_server_name(client)
        async with await connect(proxy) as late, await connect(proxy, "g") as later:
            await assert_not_accepted(proxy, late)
            await assert_not_accepted(proxy, later)
            two.drop()
            assert await receive_server_name(later)
            await assert_not_accepted(proxy, late)
            one.drop()
            assert await receive_server_name(late)
    limits = {line["frontend"]: line["limit"] for line in await harness.events("sessions-full", 2)}
    assert limits == {"f": 1, "g": 2}


async def test_full_frontend_is_logged_once(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 1})
    for _ in range(5):
        async with await connect(proxy) as current, await connect(proxy) as late:
            assert await receive_server_name(current)
            await assert_not_accepted(proxy, late)
            current.drop()
            assert await receive_server_name(late)
    await harness.sessions(10)
    (event,) = await harness.events("sessions-full")
    assert (event["frontend"], event["limit"], event["level"]) == ("f", 1, "warning")
    assert event["message"] == (
        "frontend f has 1 sessions, as many as frontends.f.max_sessions allows: accepting waits, connections in its queue: 1"
    )
    assert (event["key"], event["waiting"]) == ("frontends.f.max_sessions", 1)


async def test_limit_counts_all_binds_of_frontend(harness: ProxyHarness) -> None:
    binds = [{"address": "127.0.0.1:0"}, {"address": f"unix:{harness.folder}/p.sock"}]
    proxy = await two_frontends(harness, f={"max_sessions": 1, "bind": binds})
    first, second = proxy.frontends["f"].addresses
    async with await dial(first) as current, await dial(second) as late:
        assert await receive_server_name(current)
        await assert_not_accepted(proxy, late)
        current.drop()
        assert await receive_server_name(late)


async def test_process_limit_holds_beside_frontend_limit(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 2}, process={"max_sessions": 3})
    async with await connect(proxy) as one, await connect(proxy) as two, await connect(proxy, "g") as other:
        for client in (one, two, other):
            assert await receive_server_name(client)
        async with await connect(proxy, "g") as late:
            await assert_not_accepted(proxy, late)
            one.drop()  # frees a slot in both limits
            assert await receive_server_name(late)
        await wait_until(lambda: proxy.sessions == 2)


async def test_zero_means_no_limit(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 0})
    clients = [await connect(proxy) for _ in range(20)]
    for client in clients:
        assert await receive_server_name(client)
        client.drop()


async def test_session_in_handshake_counts(harness: ProxyHarness) -> None:
    """The limit counts connections: a silent client takes one of the slots."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, tls=True, frontends={"f": {"max_sessions": 1}})
    async with await connect(proxy) as silent:
        await wait_until(lambda: proxy.sessions == 1)
        async with await connect(proxy) as late, trio.open_nursery() as nursery:
            nursery.start_soon(late.start_tls, harness.ca.client_context())
            await assert_not_accepted(proxy, late)
            silent.drop()
        assert late.tls is not None, "the handshake is made once a slot is free"


async def test_clients_gone_before_accept_are_logged_later(
    harness: ProxyHarness,
) -> None:
    """Each gets a log line once there is a free slot. The proxy does not know of it before."""
    proxy = await two_frontends(harness, f={"max_sessions": 1})
    current = await connect(proxy)
    assert await receive_server_name(current)
    gone = [await connect(proxy) for _ in range(3)]
    for client in gone:
        client.drop()
    async with await connect(proxy) as late:
        await assert_not_accepted(proxy, late)
        await current.close()
        assert await receive_server_name(late)
    lines = await harness.sessions(5)
    assert {line["end"] for line in lines} <= {"client-closed", "client-left"}


async def test_stopping_does_not_wait_for_free_slot(harness: ProxyHarness) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": 1})
    current, late = await connect(proxy), await connect(proxy)
    assert await receive_server_name(current)
    await assert_not_accepted(proxy, late)
    with trio.fail_after(TIMEOUT_S):
        await proxy.drain(0)
        await assert_rejected(current)
        await late.receive_until_end()
    late.drop()
    assert (await harness.session())["end"] == "stopped"


@pytest.mark.parametrize("limit", [1, 3])
async def test_crowd_never_exceeds_limit(harness: ProxyHarness, limit: int) -> None:
    proxy = await two_frontends(harness, f={"max_sessions": limit})
    most_at_once = active = 0

    async def connect_once() -> None:
        nonlocal most_at_once, active
        async with await connect(proxy) as client:
            assert await receive_server_name(client)
            active += 1
            most_at_once = max(most_at_once, active)
            await trio.lowlevel.checkpoint()
            active -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(connect_once)
    assert most_at_once <= limit
    await harness.sessions(60)
    await harness.wait_until_idle()
