"""With ``log_null = false`` a session without a byte of the client has no line, however the client ends it."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

import mailproxy
from mailproxy.testing import RefusingServer, UnansweredServer, collect
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import ON_BOTH

GREETING = b"* OK ready\r\n"
SILENT = {"f": {"log_null": False}}
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
BINDS = {
    "bare": {},
    "introduced": {"accept_proxy": ["127.0.0.0/8"]},
    "tls": {"mode": "tls"},
    "passthrough": {"mode": "passthrough"},
}


def connect(proxy: mailproxy.Proxy) -> socket.socket:
    host, port = proxy.frontends["f"].addresses[0].split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def leave(sock: socket.socket, *, by_reset: bool) -> None:
    if by_reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def assert_no_line(harness: ProxyHarness) -> None:
    """The session has none, and one that comes after it and says something has its own."""
    sock = connect(harness.proxies[0])
    sock.send(b"x\r\n")
    await trio.testing.wait_all_tasks_blocked(0.01)
    leave(sock, by_reset=False)
    await harness.sessions(1)
    await harness.wait_until_idle()
    await trio.sleep(0.05)  # lines are collected for a moment
    await harness.sessions(1)


@ON_BOTH
@pytest.mark.parametrize("by_reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("kind", BINDS)
async def test_client_that_says_nothing(
    harness: ProxyHarness, kind: str, waits: bool, by_reset: bool
) -> None:
    """On a bare bind it has the greeting unread when it leaves later, which makes a reset of a close."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, tls=kind == "tls", bind=BINDS[kind], frontends=SILENT)
    sock = connect(proxy)
    if waits and kind == "bare":
        await trio.lowlevel.wait_readable(sock)
    elif waits:
        await trio.testing.wait_all_tasks_blocked(0.01)
    leave(sock, by_reset=by_reset)
    await assert_no_line(harness)


@ON_BOTH
@pytest.mark.parametrize("by_reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "with the greeting unread"])
async def test_local_header_alone(harness: ProxyHarness, waits: bool, by_reset: bool) -> None:
    """A check of a proxy in front."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, bind=BINDS["introduced"], frontends=SILENT)
    sock = connect(proxy)
    sock.send(LOCAL)
    if waits:
        await trio.lowlevel.wait_readable(sock)
    leave(sock, by_reset=by_reset)
    await assert_no_line(harness)


async def test_client_that_leaves_while_the_server_is_connected(harness: ProxyHarness) -> None:
    server = UnansweredServer()
    await harness.nursery.start(server.serve)
    proxy = await harness.proxy(server.address, frontends=SILENT)
    sock = connect(proxy)
    await trio.testing.wait_all_tasks_blocked(0.01)
    leave(sock, by_reset=False)
    await assert_no_line(harness)


async def test_client_that_leaves_the_queue(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    place = {"address": server.address, "max_sessions": 1}
    proxy = await harness.proxy(server.address, frontends=SILENT, backends={"b": {"servers": [place]}})
    first = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await first.receive_line() == GREETING
    sock = connect(proxy)
    await trio.testing.wait_all_tasks_blocked(0.01)
    leave(sock, by_reset=False)
    first.drop()
    await assert_no_line(harness)


@pytest.mark.parametrize("by_reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(
    ("kind", "words", "end"),
    [
        ("bare", b"a1 LOGOUT\r\n", {"client-closed", "client-aborted", "client-left"}),
        ("introduced", LOCAL[:5], {"header-truncated", "header-aborted"}),
        ("introduced", b"a1 LOGOUT\r\n", {"header-missing", "header-aborted"}),
        ("tls", b"\x16\3\1", {"handshake-left", "handshake-failed"}),
        ("tls", b"a1 LOGOUT\r\n", {"handshake-failed"}),
        ("passthrough", b"\x16\3\1", {"handshake-left", "handshake-failed"}),
    ],
)
async def test_client_that_says_something(
    harness: ProxyHarness, kind: str, words: bytes, end: set[str], by_reset: bool
) -> None:
    """It has its line, even if what it says is of no use."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, tls=kind == "tls", bind=BINDS[kind], frontends=SILENT)
    sock = connect(proxy)
    await trio.testing.wait_all_tasks_blocked(0.01)
    sock.send(words)
    leave(sock, by_reset=by_reset)
    assert (await harness.session())["end"] in end


async def test_words_to_a_server_that_is_never_connected(harness: ProxyHarness) -> None:
    """They stay in the kernel, and are noticed all the same."""
    server = UnansweredServer()
    await harness.nursery.start(server.serve)
    proxy = await harness.proxy(server.address, frontends=SILENT)
    sock = connect(proxy)
    sock.send(b"a1 LOGOUT\r\n")
    await trio.testing.wait_all_tasks_blocked(0.01)
    leave(sock, by_reset=True)
    assert (await harness.session())["end"] == "client-left"


async def test_ends_by_others_are_logged(harness: ProxyHarness) -> None:
    """A client of a server that speaks first has said nothing when that server refuses."""
    refusing = RefusingServer()
    await harness.nursery.start(refusing.serve)
    proxy = await harness.proxy(refusing.address, frontends=SILENT)
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    assert (await harness.session())["end"] == "server-refused"


async def test_rejection_is_logged(harness: ProxyHarness) -> None:
    routes = [{"client": ["127.0.0.0/8"], "reject": True}]
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, frontends={"f": {**SILENT["f"], "routes": routes}})
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    assert (await harness.session())["end"] == "rejected"
