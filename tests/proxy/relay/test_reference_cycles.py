"""A session that has ended is gone at once: the collector, which is let look rarely, finds nothing of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.errors import MailproxyError
from mailproxy.log.record import SessionRecord
from mailproxy.net.dial import Dial
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
from tests.support.proxy.relays import ON_BOTH

pytestmark = ON_BOTH

GREETING = b"* OK ready\r\n"
OF_SESSIONS = (
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
    gc.freeze()  # what there is now need not be searched for sessions
    gc.disable()
    yield
    gc.enable()


def of_sessions() -> list[str]:
    """What is there of sessions, whether anybody has it or not."""
    return sorted(type(each).__name__ for each in gc.get_objects() if isinstance(each, OF_SESSIONS))


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
@pytest.mark.parametrize(
    "end", ["client closes", "client resets", "server closes", "server resets", "silence", "refused"]
)
async def test_a_session_that_has_ended_is_gone(harness: ProxyHarness, tls: bool, end: str) -> None:
    last: dict[str, Any] = {"server closes": Close(), "server resets": Reset(), "silence": Stall()}
    server = await harness.server((Send(GREETING), last.get(end, Collect())))
    address = server.address if end != "refused" else "127.0.0.1:1"
    limits = {"timeouts": {"client": 0.2}} if end == "silence" else {}
    proxy = await harness.proxy(address, tls=tls, frontends={"f": limits})
    await play(harness, proxy, end, tls=tls)  # once, for what is made once
    before = of_sessions()
    for _ in range(3):
        await play(harness, proxy, end, tls=tls)
    assert of_sessions() == before


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_a_session_whose_server_fails_the_handshake_is_gone(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server((Send(GREETING), Collect()))  # which is no TLS
    proxy = await harness.proxy(server.address, tls=tls, server_tls=True)
    await play(harness, proxy, "refused", tls=tls)
    before = of_sessions()
    await play(harness, proxy, "refused", tls=tls)
    assert of_sessions() == before


async def test_a_session_whose_client_fails_the_handshake_is_gone(harness: ProxyHarness) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, tls=True)
    before = of_sessions()
    for said in (b"a1 LOGIN x y\r\n", b"\x16\3\1\0\x05hello"):
        client = await harness.dial(proxy)
        await client.send(said)
        with trio.fail_after(TIMEOUT_S):
            await client.receive_until_end()
        client.drop()
    await harness.sessions(2)
    await harness.wait_until_idle()
    await trio.testing.wait_all_tasks_blocked()
    assert of_sessions() == before


async def test_a_session_over_the_limit_of_its_client_is_gone(harness: ProxyHarness) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, frontends={"f": {"max_sessions_per_client": 1}})
    async with await harness.dial(proxy) as served:
        with trio.fail_after(TIMEOUT_S):
            assert await served.receive_line() == GREETING
        before = of_sessions()
        for _ in range(3):
            client = await harness.dial(proxy)
            with trio.fail_after(TIMEOUT_S):
                assert await client.receive_until_end() == b""
            client.drop()
        assert {line["end"] for line in await harness.sessions(3)} == {"client-limit"}
        await trio.testing.wait_all_tasks_blocked()
        assert of_sessions() == before


async def test_a_session_with_several_addresses_of_which_the_first_refuses_is_gone(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    port = server.address.rpartition(":")[2]
    resolve_to(monkeypatch, lambda: ["127.0.0.2", "127.0.0.1"])
    proxy = await harness.proxy(f"mail.internal:{port}")
    before = of_sessions()
    await play(harness, proxy, "client closes", tls=False)
    assert of_sessions() == before


async def test_a_session_that_fails_behind_a_full_record_is_gone(harness: ProxyHarness) -> None:
    """What comes of a read that was made ahead waits until what was read before has left."""
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, tls=True)
    before = of_sessions()
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
    assert of_sessions() == before


async def play(harness: ProxyHarness, proxy: Any, end: str, *, tls: bool) -> None:
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
