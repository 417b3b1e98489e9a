"""The process's session limit, and many sessions at once."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mailproxy.testing import collect, greet_and_echo
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness, ResourceSnapshot
from tests.support.proxy.relays import ON_EACH

GREETING = b"* OK ready\r\n"


async def test_full_process_stops_accepting(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, process={"max_sessions": 2})
    clients = [await harness.dial(proxy) for _ in range(4)]  # the kernel takes all four connections
    await clients[0].receive_line()
    await clients[1].receive_line()
    await harness.events("sessions-full")
    assert proxy.sessions == 2
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not clients[2].received
    assert server.accepted == 2
    await clients[0].close()
    with trio.fail_after(TIMEOUT_S):
        assert await clients[2].receive_line() == GREETING  # one slot is freed and taken
    assert proxy.sessions == 2
    for client in clients:
        client.drop()


@pytest.mark.slow
@ON_EACH
async def test_300_sessions_at_once_lose_nothing(harness: ProxyHarness) -> None:
    """300 sessions, half of them TLS: each gets its own lines back."""
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address,
        tls=True,
        frontends={
            "f": {
                "bind": [
                    {"address": "127.0.0.1:0", "mode": "forward", "name": "clear"},
                    {"address": "127.0.0.1:0", "mode": "tls", "name": "tls"},
                ]
            }
        },
    )
    before = ResourceSnapshot.now()
    count, connected = 300, 0
    all_connected = trio.Event()

    async def run_client(number: int) -> None:
        nonlocal connected
        tls = number % 2 == 1
        client = await harness.dial(proxy, tls=tls, bind=int(tls))
        assert await client.receive_line() == GREETING
        connected += 1
        if connected == count:
            all_connected.set()
        await all_connected.wait()
        for turn in range(3):
            words = f"{number}.{turn}\r\n".encode()
            await client.send(words)
            assert await client.receive_line() == words
        await client.close()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(run_client, number)
    lines = await harness.sessions(count)
    assert {line["end"] for line in lines} == {"client-closed"}
    assert len({line["id"] for line in lines}) == count
    await before.wait_until_restored()
