"""``log_null = false``: a session that the client ends without having sent a byte is not logged."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

import mailproxy
from mailproxy.testing import RefusingServer, UnansweredServer, collect
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import ON_EACH

GREETING = b"* OK ready\r\n"
WITHOUT_NULL = {"f": {"log_null": False}}
LOCAL_HEADER = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
BINDS = {
    "plain": {},
    "proxy-header": {"accept_proxy": ["127.0.0.0/8"]},
    "tls": {"mode": "tls"},
    "passthrough": {"mode": "passthrough"},
}


def connect(proxy: mailproxy.Proxy) -> socket.socket:
    host, port = proxy.frontends["f"].addresses[0].split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def end_connection(sock: socket.socket, *, by_reset: bool) -> None:
    if by_reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def assert_no_line(harness: ProxyHarness) -> None:
    """Check that the session is not logged: only a later session with data is."""
    sock = connect(harness.proxies[0])
    sock.send(b"x\r\n")
    await trio.testing.wait_all_tasks_blocked(0.01)
    end_connection(sock, by_reset=False)
    await harness.sessions(1)
    await harness.wait_until_idle()
    await trio.sleep(0.05)  # the log writer batches lines for a moment
    await harness.sessions(1)


@ON_EACH
@pytest.mark.parametrize("by_reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("is_later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("kind", BINDS)
async def test_client_without_data_is_not_logged(
    harness: ProxyHarness, kind: str, is_later: bool, by_reset: bool
) -> None:
    """A client of a plain bind that closes later has the greeting unread, so its close becomes a reset."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, tls=kind == "tls", bind=BINDS[kind], frontends=WITHOUT_NULL)
    sock = connect(proxy)
    if is_later and kind == "plain":
        await trio.lowlevel.wait_readable(sock)
    elif is_later:
        await trio.testing.wait_all_tasks_blocked(0.01)
    end_connection(sock, by_reset=by_reset)
    await assert_no_line(harness)


@ON_EACH
@pytest.mark.parametrize("by_reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("is_after_greeting", [False, True], ids=["at once", "with the greeting unread"])
async def test_local_header_alone_is_not_logged(
    harness: ProxyHarness, is_after_greeting: bool, by_reset: bool
) -> None:
    """Proxies in front check a server in this way."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, bind=BINDS["proxy-header"], frontends=WITHOUT_NULL)
    sock = connect(proxy)
    sock.send(LOCAL_HEADER)
    if is_after_greeting:
        await trio.lowlevel.wait_readable(sock)
    end_connection(sock, by_reset=by_reset)
    await assert_no_line(harness)


async def test_client_closed_during_connecting_is_not_logged(harness: ProxyHarness) -> None:
    server = UnansweredServer()
    await harness.nursery.start(server.serve)
    proxy = await harness.proxy(server.address, frontends=WITHOUT_NULL)
    sock = connect(proxy)
    await trio.testing.wait_all_tasks_blocked(0.01)
    end_connection(sock, by_reset=False)
    await assert_no_line(harness)


async def test_client_closed_in_queue_is_not_logged(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    server_table = {"address": server.address, "max_sessions": 1}
    proxy = await harness.proxy(
        server.address, frontends=WITHOUT_NULL, backends={"b": {"servers": [server_table]}}
    )
    first = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await first.receive_line() == GREETING
    sock = connect(proxy)
    await trio.testing.wait_all_tasks_blocked(0.01)
    end_connection(sock, by_reset=False)
    first.drop()
    await assert_no_line(harness)


@pytest.mark.parametrize("by_reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(
    ("kind", "data", "end"),
    [
        ("plain", b"a1 LOGOUT\r\n", {"client-closed", "client-aborted", "client-left"}),
        ("proxy-header", LOCAL_HEADER[:5], {"header-truncated", "header-aborted"}),
        ("proxy-header", b"a1 LOGOUT\r\n", {"header-missing", "header-aborted"}),
        ("tls", b"\x16\3\1", {"handshake-left", "handshake-failed"}),
        ("tls", b"a1 LOGOUT\r\n", {"handshake-failed"}),
        ("passthrough", b"\x16\3\1", {"handshake-left", "handshake-failed"}),
    ],
)
async def test_client_with_data_is_logged(
    harness: ProxyHarness, kind: str, data: bytes, end: set[str], by_reset: bool
) -> None:
    """The session is logged even if the data is useless."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, tls=kind == "tls", bind=BINDS[kind], frontends=WITHOUT_NULL)
    sock = connect(proxy)
    await trio.testing.wait_all_tasks_blocked(0.01)
    sock.send(data)
    end_connection(sock, by_reset=by_reset)
    assert (await harness.session())["end"] in end


async def test_client_with_unread_data_is_logged(harness: ProxyHarness) -> None:
    """The data stays in the kernel's buffer and is noticed nevertheless."""
    server = UnansweredServer()
    await harness.nursery.start(server.serve)
    proxy = await harness.proxy(server.address, frontends=WITHOUT_NULL)
    sock = connect(proxy)
    sock.send(b"a1 LOGOUT\r\n")
    await trio.testing.wait_all_tasks_blocked(0.01)
    end_connection(sock, by_reset=True)
    assert (await harness.session())["end"] == "client-left"


async def test_refusing_server_is_logged(harness: ProxyHarness) -> None:
    """A client that waits for the greeting has sent nothing when the server refuses."""
    refusing = RefusingServer()
    await harness.nursery.start(refusing.serve)
    proxy = await harness.proxy(refusing.address, frontends=WITHOUT_NULL)
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    assert (await harness.session())["end"] == "server-refused"


async def test_rejection_is_logged(harness: ProxyHarness) -> None:
    routes = [{"client": ["127.0.0.0/8"], "reject": True}]
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, frontends={"f": {**WITHOUT_NULL["f"], "routes": routes}})
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    assert (await harness.session())["end"] == "rejected"
