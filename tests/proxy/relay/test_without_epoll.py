"""A platform without epoll: the same sessions with Trio's own functions and the portable relay."""

from __future__ import annotations

import pytest
import trio

from mailproxy.net.poller import TRIO
from mailproxy.net.relay import PortableRelay, open_relay
from mailproxy.testing import Close, Collect, Send, dial, pattern
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import Setting
from tests.support.proxy.task_steps import FEW_STEPS, cancel_at_every_step, count_steps

SIZE = 300_000


@pytest.fixture(autouse=True)
def no_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.proxy.service.open_poller", lambda *_: TRIO)


@pytest.mark.parametrize("kind", ["auto", "engine", "portable"])
async def test_relay_is_portable(kind: Setting) -> None:
    await trio.lowlevel.checkpoint()
    assert isinstance(open_relay(kind, TRIO), PortableRelay)


@pytest.mark.parametrize("server_tls", [False, True], ids=["clear server", "tls server"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear client", "tls client"])
async def test_session_relays_both_directions(harness: ProxyHarness, tls: bool, server_tls: bool) -> None:
    """Accept, handshakes, connect, relay, orderly end."""
    context = harness.ca.server_context("127.0.0.1") if server_tls else None
    server = await harness.server([Collect(), Send(pattern(SIZE)), Close()], tls=context)
    proxy = await harness.proxy(server.address, tls=tls, server_tls=server_tls)
    client = await harness.dial(proxy, tls=tls)
    with trio.fail_after(TIMEOUT_S):
        await client.send(pattern(SIZE))
        await client.half_close()
        await client.receive_until_end()
    assert client.received == server.connections[0].received == pattern(SIZE)
    assert client.end == ("close_notify" if tls else "eof")
    client.drop()
    line = await harness.session()
    assert (line["end"], line["bytes_in"], line["bytes_out"]) == ("client-closed", SIZE, SIZE)
    assert line["close_notify"] is (True if tls else None)


async def test_idle_session_does_not_spin(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address)
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await server.wait_for()
        await client.receive()
    assert await count_steps() < FEW_STEPS
    client.drop()
    assert (await harness.session())["end"] == "client-closed"


async def test_refusing_server_ends_session(harness: ProxyHarness) -> None:
    proxy = await harness.proxy("127.0.0.1:1")
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    assert (await harness.session())["end"] == "server-refused"


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_cancellation_at_every_step_leaves_nothing(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server([Send(b"* OK ready\r\n"), Collect(), Close()])
    context = harness.ca.client_context() if tls else None

    async def run_client(address: str) -> None:
        async with await dial(address, tls=context) as client:
            await client.receive_until_end()

    await cancel_at_every_step(harness.mapping(server.address, tls=tls), run_client, stride=4)
    assert server.accepted > 0, "some sessions reached the server"
