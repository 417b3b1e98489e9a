"""An ended session leaves no reference cycles for the garbage collector, which seldom runs."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.errors import MailproxyError
from mailproxy.log.record import SessionRecord
from mailproxy.net.dial import Dial
from mailproxy.net.relay import Relay
from mailproxy.net.relay.transfer import RECORD_BYTES
from mailproxy.net.relay.tunnel import Direction, Side, Tunnel
from mailproxy.net.tls.tls_socket import TlsSocket
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.session.dispatch import Dispatch
from mailproxy.proxy.session.session import Session
from mailproxy.proxy.session.slot_lease import SlotLease
from mailproxy.proxy.session.wait import InterruptibleWait
from mailproxy.testing import Close, Collect, Connection, Reset, Send, Stall
from tests.proxy.backend.test_server_addresses import resolve_to
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import ON_EACH, Kind, run_relay

pytestmark = ON_EACH

GREETING = b"* OK ready\r\n"
SESSION_TYPES = (
    Session,
    SessionRecord,
    ClientInfo,
    Dispatch,
    SlotLease,
    InterruptibleWait,
    Tunnel,
    Side,
    Direction,
    TlsSocket,
    Dial,
    MailproxyError,
)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # objects that exist now need not be searched
    gc.disable()
    yield
    gc.enable()


def session_objects() -> list[str]:
    """Return the type names of all objects of sessions, referenced or not."""
    return sorted(type(obj).__name__ for obj in gc.get_objects() if isinstance(obj, SESSION_TYPES))


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
@pytest.mark.parametrize(
    "end", ["client closes", "client resets", "server closes", "server resets", "silence", "refused"]
)
async def test_ended_session_leaves_no_objects(harness: ProxyHarness, tls: bool, end: str) -> None:
    last_step: dict[str, Any] = {"server closes": Close(), "server resets": Reset(), "silence": Stall()}
    server = await harness.server((Send(GREETING), last_step.get(end, Collect())))
    address = server.address if end != "refused" else "127.0.0.1:1"
    limits = {"timeouts": {"client": 0.2}} if end == "silence" else {}
    proxy = await harness.proxy(address, tls=tls, frontends={"f": limits})
    await run_client(harness, proxy, end, tls=tls)  # once before, for objects that a process makes once
    before = session_objects()
    for _ in range(3):
        await run_client(harness, proxy, end, tls=tls)
    assert session_objects() == before


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_failed_server_handshake_leaves_no_objects(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server((Send(GREETING), Collect()))  # speaks no TLS
    proxy = await harness.proxy(server.address, tls=tls, server_tls=True)
    await run_client(harness, proxy, "refused", tls=tls)
    before = session_objects()
    await run_client(harness, proxy, "refused", tls=tls)
    assert session_objects() == before


async def test_failed_client_handshake_leaves_no_objects(harness: ProxyHarness) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, tls=True)
    before = session_objects()
    for first_bytes in (b"a1 LOGIN x y\r\n", b"\x16\3\1\0\x05hello"):
        client = await harness.dial(proxy)
        await client.send(first_bytes)
        with trio.fail_after(TIMEOUT_S):
            await client.receive_until_end()
        client.drop()
    await harness.sessions(2)
    await harness.wait_until_idle()
    await trio.testing.wait_all_tasks_blocked()
    assert session_objects() == before


async def test_client_limit_leaves_no_objects(harness: ProxyHarness) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, frontends={"f": {"max_sessions_per_client": 1}})
    async with await harness.dial(proxy) as served:
        with trio.fail_after(TIMEOUT_S):
            assert await served.receive_line() == GREETING
        before = session_objects()
        for _ in range(3):
            client = await harness.dial(proxy)
            with trio.fail_after(TIMEOUT_S):
                assert await client.receive_until_end() == b""
            client.drop()
        assert {line["end"] for line in await harness.sessions(3)} == {"client-limit"}
        await trio.testing.wait_all_tasks_blocked()
        assert session_objects() == before


async def test_refused_first_address_leaves_no_objects(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    port = server.address.rpartition(":")[2]
    resolve_to(monkeypatch, lambda: ["127.0.0.2", "127.0.0.1"])
    proxy = await harness.proxy(f"mail.internal:{port}")
    before = session_objects()
    await run_client(harness, proxy, "client closes", tls=False)
    assert session_objects() == before


async def test_failed_lookahead_leaves_no_objects(harness: ProxyHarness) -> None:
    """The error of a read made ahead waits until the data read before has been sent."""
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, tls=True)
    before = session_objects()
    client = await harness.dial(proxy, tls=True)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_line()
        assert client.tls is not None
        client.tls.write(bytes(RECORD_BYTES))
        await client.stream.send_all(client._outgoing.read() + b"no record of TLS at all")
        client.drop()
    assert (await harness.session())["end"] == "client-aborted"
    await harness.wait_until_idle()
    del client
    await trio.testing.wait_all_tasks_blocked()
    assert session_objects() == before


@pytest.mark.parametrize("end", ["cancelled", "fault"])
async def test_failed_relay_leaves_no_objects(relay_kind: Kind, end: str) -> None:
    before = session_objects()
    async with run_relay(relay_kind) as relay:
        await relay_until(relay, end)
        await trio.testing.wait_all_tasks_blocked()
        assert session_objects() == before


async def relay_until(relay: Relay, end: str) -> None:
    class Faulty:
        def recv_into(self, _buffer: memoryview) -> int:
            raise ZeroDivisionError

        recv = recv_into

    ends = [*socket.socketpair(), *socket.socketpair()]
    for sock in ends:
        sock.setblocking(False)
    tunnel = Tunnel(*ends[1:3], client_timeout=1000, server_timeout=1000, half_closed_timeout=1000)
    with suppress(ZeroDivisionError, BaseExceptionGroup):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run, tunnel)
            await trio.testing.wait_all_tasks_blocked()
            if end == "cancelled":
                nursery.cancel_scope.cancel()
            else:
                tunnel.client.connection = Faulty()
                ends[0].send(b"x")
    for sock in ends:
        sock.close()


async def run_client(harness: ProxyHarness, proxy: Any, end: str, *, tls: bool) -> None:
    client: Connection = await harness.dial(proxy, tls=tls)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_line()
        if end == "client resets":
            client.reset()
        elif end == "client closes":
            await client.close()
        else:
            await client.receive_until_end()
            client.drop()
        del client
        await harness.wait_until_idle()
        await trio.testing.wait_all_tasks_blocked()
