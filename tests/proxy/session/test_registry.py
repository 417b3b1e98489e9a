"""The live sessions: what is read from them, and how the operator ends them in each phase."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio

import mailproxy
from mailproxy.log import end_reasons
from mailproxy.proxy.session.registry import LiveSession, SessionRegistry
from mailproxy.testing import Collect, Connection, Expect, Send, UnansweredServer, collect, dial
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import ON_EACH

GREETING = b"* OK ready\r\n"


def registry_of(proxy: mailproxy.Proxy) -> SessionRegistry:
    return proxy._service.registry


async def the_only(registry: SessionRegistry, condition: Callable[[LiveSession], bool] = bool) -> LiveSession:
    """The only session, once it is there and the condition holds."""
    with trio.fail_after(TIMEOUT_S):
        while True:
            sessions = list(registry)
            if len(sessions) == 1 and condition(sessions[0]):
                return sessions[0]
            await trio.sleep(0.002)


@ON_EACH
@pytest.mark.parametrize("tls", [False, True])
async def test_live_session_shows_its_facts(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server((Send(GREETING), Expect(b"x\r\n"), Send(b"yes\r\n"), Collect()))
    proxy = await harness.proxy(server.address, tls=tls)
    registry = registry_of(proxy)
    async with await harness.dial(proxy, tls=tls) as client:
        assert await client.receive_line() == GREETING
        await client.send(b"x\r\n")
        assert await client.receive_line() == b"yes\r\n"
        session = await the_only(registry, lambda session: session.is_connected)
        record = session.record
        assert (record.frontend, record.bind, record.backend) == ("f", "B", "b")
        assert (record.server_address, session.local_address) == (
            server.address,
            proxy.frontends["f"].addresses[0],
        )
        assert (session.bytes_in, session.bytes_out) == (3, len(GREETING) + 5)
        assert 0 <= session.idle <= session.age < TIMEOUT_S
        await trio.sleep(0.2)
        assert session.idle >= 0.2
        assert registry.get(record.id) is session
        assert registry.select(lambda session: session.record.frontend == "f") == [session]
        assert registry.select(lambda session: session.record.frontend == "g") == []
    await harness.session()
    await harness.wait_until_idle()
    assert len(registry) == 0
    assert registry.get(record.id) is None


@ON_EACH
@pytest.mark.parametrize("tls", [False, True])
async def test_connected_session_ends_with_the_given_reason(harness: ProxyHarness, tls: bool) -> None:
    """Both sides get an orderly end, with close_notify under TLS."""
    server = await harness.server(
        collect(GREETING), tls=harness.ca.server_context("127.0.0.1") if tls else None
    )
    proxy = await harness.proxy(server.address, tls=tls, server_tls=tls)
    async with await harness.dial(proxy, tls=tls) as client:
        assert await client.receive_line() == GREETING
        session = await the_only(registry_of(proxy), lambda session: session.is_connected)
        session.end(end_reasons.KILLED)
        assert await client.receive_until_end() == b""
    line = await harness.session()
    assert (line["end"], line["by"], line["state"], line["phase"]) == ("killed", "admin", "K-", "data")
    assert line["bytes_out"] == len(GREETING)


@ON_EACH
async def test_other_sessions_go_on(harness: ProxyHarness) -> None:
    server = await harness.server(
        collect(GREETING), (Send(GREETING), Expect(b"x\r\n"), Send(b"yes\r\n"), Collect())
    )
    proxy = await harness.proxy(server.address)
    async with await harness.dial(proxy) as ended:
        assert await ended.receive_line() == GREETING
        session = await the_only(registry_of(proxy))
        async with await harness.dial(proxy) as other:
            assert await other.receive_line() == GREETING
            session.end(end_reasons.DRAINED)
            assert await ended.receive_until_end() == b""
            await other.send(b"x\r\n")
            assert await other.receive_line() == b"yes\r\n"
    assert sorted(line["end"] for line in await harness.sessions(2)) == ["client-closed", "drained"]


async def _in_header(harness: ProxyHarness) -> tuple[mailproxy.Proxy, Connection]:
    proxy = await harness.proxy("127.0.0.1:9", bind={"accept_proxy": ["127.0.0.0/8"]})
    return proxy, await harness.dial(proxy)


async def _in_client_hello(harness: ProxyHarness) -> tuple[mailproxy.Proxy, Connection]:
    proxy = await harness.proxy("127.0.0.1:9", tls=True)
    return proxy, await harness.dial(proxy)


async def _in_handshake(harness: ProxyHarness) -> tuple[mailproxy.Proxy, Connection]:
    """The ClientHello has arrived, and the client's next message has not."""
    proxy = await harness.proxy("127.0.0.1:9", tls=True)
    client = await harness.dial(proxy)
    outgoing = ssl.MemoryBIO()
    tls = harness.ca.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    await client.send(outgoing.read())
    return proxy, client


async def _in_connect(harness: ProxyHarness) -> tuple[mailproxy.Proxy, Connection]:
    unanswering: str = await harness.nursery.start(UnansweredServer().serve)
    proxy = await harness.proxy(unanswering)
    return proxy, await harness.dial(proxy)


async def _in_turnaround_pause(harness: ProxyHarness) -> tuple[mailproxy.Proxy, Connection]:
    proxy = await harness.proxy(
        "127.0.0.1:9", backends={"b": {"retries": 1000, "redispatch": False, "timeouts": {"connect": "1s"}}}
    )
    return proxy, await harness.dial(proxy)


@ON_EACH
@pytest.mark.parametrize(
    ("enter", "phase", "end", "state"),
    [
        (_in_header, "proxy-header", "header-stopped", None),
        (_in_client_hello, "handshake", "handshake-stopped", None),
        (_in_handshake, "handshake", "handshake-stopped", None),
        (_in_connect, "connect", "stopped-connecting", "KC"),
        (_in_turnaround_pause, "connect", "stopped-connecting", "KC"),
    ],
)
async def test_session_before_its_tunnel_ends_at_once(
    harness: ProxyHarness, enter: Any, phase: str, end: str, state: str | None
) -> None:
    """It has the end reason of its phase. The detail says which command ended it."""
    proxy, client = await enter(harness)
    session = await the_only(registry_of(proxy), lambda session: session.record.phase.value == phase)
    await trio.sleep(0.05)  # until it waits
    assert not session.is_connected
    assert (session.bytes_in, session.bytes_out) == (0, 0)
    assert session.local_address == proxy.frontends["f"].addresses[0]
    with trio.fail_after(TIMEOUT_S):
        session.end(end_reasons.KILLED)
        await client.receive_until_end()
        line = await harness.session()
    assert (line["end"], line["by"], line["state"], line["detail"]) == (end, "admin", state, "killed")
    assert line["total_ms"] < 1000
    client.drop()


@ON_EACH
async def test_queued_session_ends_at_once(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    servers = [{"name": "s", "address": server.address, "max_sessions": 1}]
    proxy = await harness.proxy(server.address, backends={"b": {"servers": servers}})
    first = await harness.dial(proxy)
    assert await first.receive_line() == GREETING
    second = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        while not (  # noqa: ASYNC110 - a phase, not an event
            queued := registry_of(proxy).select(lambda session: session.record.phase.value == "queue")
        ):
            await trio.sleep(0.002)
        queued[0].end(end_reasons.KILLED)
        assert await second.receive_until_end() == b""
        line = await harness.session()
    assert (line["end"], line["state"], line["detail"]) == ("stopped-queued", "KQ", "killed")
    for client in (first, second):
        client.drop()


async def test_session_that_has_not_run_yet_never_connects(harness: ProxyHarness) -> None:
    """It is ended in the scheduler step in which it was accepted."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address)
    registry = registry_of(proxy)

    class EndsAtOnce(dict[int, LiveSession]):
        def __setitem__(self, number: int, session: LiveSession) -> None:
            super().__setitem__(number, session)
            session.end(end_reasons.KILLED)

    registry.sessions = EndsAtOnce()
    client = await dial(proxy.frontends["f"].addresses[0])
    assert await client.receive_until_end() == b""
    line = await harness.session()
    assert (line["end"], line["detail"]) == ("stopped-connecting", "killed")
    assert server.accepted == 0
    client.drop()
