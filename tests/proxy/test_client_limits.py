"""Limits per client: over one, a session ends before anything is done for it, and other clients do not notice."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import mailproxy
from mailproxy.pool import ClientLimits
from mailproxy.protocol.proxy_header import Command, HeaderV2, Protocol, format_v2
from mailproxy.testing import Connection, collect, dial, greet_and_echo
from tests.support.proxy.backend_cluster import assert_served, receive_server_name
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot
from tests.support.timeouts import wait_until

GREETING = b"s1\r\n"
ONE, TWO, OTHER = "127.0.0.2", "127.0.0.3", "127.0.0.4"  # clients
EACH_MODE = pytest.mark.parametrize("mode", ["forward", "passthrough", "tls", "accept_proxy"])


def header(host: str, port: int = 40000) -> bytes:
    own = "203.0.113.9" if ":" not in host else "2001:db8:ffff::9"
    protocol = Protocol.TCP6 if ":" in host else Protocol.TCP4
    return format_v2(
        HeaderV2(command=Command.PROXY, protocol=protocol, source=(host, port), destination=(own, 993))
    )


LOCAL = format_v2(HeaderV2(command=Command.LOCAL, protocol=Protocol.UNSPEC))


@asynccontextmanager
async def connected(address: str, source: str) -> AsyncIterator[Connection]:
    """A client from this address of the loopback network."""
    host, _, port = address.rpartition(":")
    sock = trio.socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
    await sock.bind((source, 0))
    with trio.fail_after(TIMEOUT_S):
        await sock.connect((host.strip("[]"), int(port)))
    async with Connection(trio.SocketStream(sock)) as connection:
        yield connection


class Door:
    """A proxy whose frontend has one bind of this mode, and the clients that come to it."""

    def __init__(self, harness: ProxyHarness, mode: str) -> None:
        self.harness, self.mode = harness, mode
        self.proxy: mailproxy.Proxy
        self._clients = AsyncExitStack()

    @classmethod
    async def open(cls, harness: ProxyHarness, mode: str, **limits: Any) -> Door:
        door = cls(harness, mode)
        tls = harness.ca.server_context("localhost") if mode == "passthrough" else None
        server = await harness.server(greet_and_echo(GREETING), tls=tls)
        bind: Line = {"mode": mode if mode != "accept_proxy" else "forward"}
        if mode == "accept_proxy":
            bind["accept_proxy"] = ["127.0.0.0/8"]
        door.proxy = await harness.proxy(
            server.address, tls=mode == "tls", bind=bind, frontends={"f": limits}
        )
        return door

    async def come(self, source: str) -> Connection:
        """A client that has said what comes first in this mode."""
        address = self.proxy.frontends["f"].addresses[0]
        if self.mode == "accept_proxy":
            client = await self._clients.enter_async_context(connected(address, "127.0.0.1"))
            await client.send(header(source))
        else:
            client = await self._clients.enter_async_context(connected(address, source))
        return client

    async def served(self, source: str) -> Connection:
        client = await self.come(source)
        with trio.fail_after(TIMEOUT_S):
            if self.mode in ("passthrough", "tls"):
                await client.start_tls(self.harness.ca.client_context())
            assert await receive_server_name(client) == "s1"
        return client

    async def refused(self, source: str) -> None:
        """The end comes, and nothing before it: no greeting, no alert."""
        client = await self.come(source)
        with trio.fail_after(TIMEOUT_S):
            assert await client.receive_until_end() == b""

    async def __aenter__(self) -> Door:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._clients.aclose()


# In each mode


@EACH_MODE
async def test_client_over_its_sessions_is_refused(harness: ProxyHarness, mode: str) -> None:
    async with await Door.open(harness, mode, max_sessions_per_client=2) as door:
        before = ResourceSnapshot.now()
        first, second = await door.served(ONE), await door.served(ONE)
        await door.refused(ONE)
        (line,) = await harness.sessions(1)
        other = await door.served(TWO)
        for client in (first, second, other):
            await assert_served(client)
        await first.close()
        await harness.sessions(2)
        await door.served(ONE)
        await door.refused(ONE)
        assert door.proxy.frontends["f"].client_limited == 2
    await harness.sessions(6)
    await harness.wait_until_idle()
    assert (line["end"], line["by"], line["state"]) == ("client-limit", "proxy", "PR")
    assert line["detail"] == f"{ONE} has 2 sessions, max_sessions_per_client is 2"
    assert line["client"].startswith(f"{ONE}:")
    assert (line["bytes_in"], line["bytes_out"], line["server"], line["tls_version"]) == (0, 0, None, None)
    await before.wait_until_restored()


@EACH_MODE
async def test_client_over_its_rate_is_refused(harness: ProxyHarness, mode: str) -> None:
    limits = {"max_session_rate_per_client": {"count": 2, "per": "1d"}}
    async with await Door.open(harness, mode, **limits) as door:
        for _ in range(2):
            client = await door.served(ONE)
            await client.close()
        await harness.sessions(2)
        await door.refused(ONE)
        await door.refused(ONE)
        await door.served(TWO)
    lines = await harness.sessions(5)
    refused = [line for line in lines if line["end"] == "client-limit"]
    assert [line["detail"].split(", ")[-1] for line in refused] == [
        "max_session_rate_per_client is 2 in 1d"
    ] * 2
    assert refused[0]["detail"].startswith(f"{ONE} made 3 connections in 1d, ")


async def test_session_is_refused_without_waiting_for_its_client(harness: ProxyHarness) -> None:
    """A client that says nothing has no time to do so: no handshake is begun."""
    async with await Door.open(harness, "tls", max_sessions_per_client=1) as door:
        await door.served(ONE)
        await door.refused(ONE)  # which has not sent a byte
        (line,) = await harness.sessions(1)
    assert (line["end"], line["phase"]) == ("client-limit", "route")


async def test_line_of_haproxys_form_says_pr(harness: ProxyHarness) -> None:
    log = harness.folder / "tcplog"
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(
        server.address,
        frontends={"f": {"max_sessions_per_client": 1}},
        log={"format": "tcplog", "to": str(log)},
    )
    async with await harness.dial(proxy) as first:
        assert await receive_server_name(first)
        async with await harness.dial(proxy) as second:
            assert await second.receive_until_end() == b""
            line = await harness.wait_for_line(log, " PR ")
    assert re.search(r"\] f f/<NOSRV> -1/-1/\d+ 0 PR 2/2/0/0/0 0/0$", line)


# What counts


async def test_limits_are_off_unless_they_are_given(harness: ProxyHarness) -> None:
    async with await Door.open(harness, "forward") as door:
        for _ in range(40):
            await door.served(ONE)
        assert door.proxy.frontends["f"].client_limited == 0


async def test_sessions_that_fail_are_given_back(harness: ProxyHarness) -> None:
    """However one ends, its client has the place again: no server, a broken handshake, a client that is gone."""
    proxy = await harness.proxy("127.0.0.1:1", tls=True, frontends={"f": {"max_sessions_per_client": 1}})
    for count, first_bytes in enumerate([b"no TLS\r\n", b"\x16\x03\x01\xff\xff", b""] * 3):
        async with await harness.dial(proxy) as client:
            if first_bytes:
                await client.send(first_bytes)
                await client.receive_until_end()
        ends = [line["end"] for line in await harness.sessions(count + 1)]
        assert "client-limit" not in ends, ends


async def test_frontends_count_apart(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    frontend = {"backend": "b", "bind": ["127.0.0.1:0"], "log_null": True, "max_sessions_per_client": 1}
    proxy = await harness.proxy(
        server.address, frontends={"f": {"max_sessions_per_client": 1}, "g": frontend}
    )
    f, g = (proxy.frontends[name].addresses[0] for name in ("f", "g"))
    async with await dial(f) as one, await dial(g) as two:
        assert [await receive_server_name(client) for client in (one, two)] == ["s1", "s1"]


async def test_binds_of_a_frontend_count_together(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    binds = [{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0"}]
    proxy = await harness.proxy(
        server.address, frontends={"f": {"max_sessions_per_client": 1, "bind": binds}}
    )
    async with await harness.dial(proxy) as one:
        assert await receive_server_name(one) == "s1"
        async with await harness.dial(proxy, bind=1) as two:
            assert await two.receive_until_end() == b""


async def test_exempt_networks_have_no_limit(harness: ProxyHarness) -> None:
    limits = {
        "max_sessions_per_client": 1,
        "max_session_rate_per_client": {"count": 1, "per": "1d"},
        "max_sessions_per_client_exempt": [f"{ONE}/32", "192.0.2.0/24"],
    }
    async with await Door.open(harness, "forward", **limits) as door:
        for _ in range(5):
            await door.served(ONE)
        await door.served(TWO)
        await door.refused(TWO)


# Addresses


async def test_clients_of_a_unix_socket_have_no_limit(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    limits = {"max_sessions_per_client": 1, "max_session_rate_per_client": {"count": 1}}
    path = harness.folder / "p.sock"
    proxy = await harness.proxy(server.address, bind={"address": f"unix:{path}"}, frontends={"f": limits})
    async with await harness.dial(proxy) as one, await harness.dial(proxy) as two:
        assert [await receive_server_name(client) for client in (one, two)] == ["s1", "s1"]


async def test_header_on_a_unix_socket_gives_a_client(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    bind = {"address": f"unix:{harness.folder}/p.sock", "accept_proxy": ["unix"]}
    proxy = await harness.proxy(server.address, bind=bind, frontends={"f": {"max_sessions_per_client": 1}})
    async with await harness.dial(proxy) as one, await harness.dial(proxy) as two:
        await one.send(header("192.0.2.1"))
        assert await receive_server_name(one) == "s1"
        await two.send(header("192.0.2.1"))
        assert await two.receive_until_end() == b""


@pytest.mark.parametrize("first", [LOCAL, b"PROXY UNKNOWN\r\n"])
async def test_header_without_a_client_has_no_limit(harness: ProxyHarness, first: bytes) -> None:
    """Or the health checks of a balancer would be refused, and all those of which it knows no address."""
    server = await harness.server(collect(GREETING))
    bind = {"accept_proxy": ["127.0.0.0/8"]}
    proxy = await harness.proxy(server.address, bind=bind, frontends={"f": {"max_sessions_per_client": 1}})
    async with await harness.dial(proxy) as one, await harness.dial(proxy) as two:
        for client in (one, two):
            await client.send(first)
            assert await receive_server_name(client) == "s1"


async def test_client_without_header_counts_where_that_is_optional(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    bind = {"accept_proxy": ["192.0.2.0/24"], "proxy_optional": True}
    proxy = await harness.proxy(server.address, bind=bind, frontends={"f": {"max_sessions_per_client": 1}})
    async with await harness.dial(proxy) as one:
        assert await receive_server_name(one) == "s1"
        async with await harness.dial(proxy) as two:
            assert await two.receive_until_end() == b""


async def test_waiting_for_a_header_is_no_session_of_anybody(harness: ProxyHarness) -> None:
    """Whose it will be is not known yet, and a balancer holds many open."""
    async with await Door.open(harness, "accept_proxy", max_sessions_per_client=1) as door:
        address = door.proxy.frontends["f"].addresses[0]
        async with await dial(address), await dial(address), await dial(address):
            await door.served(ONE)
            await door.served(TWO)


@pytest.mark.parametrize(
    ("same", "another", "name"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"], "2001:db8:1:3::1", "2001:db8:1:2::/64"),
        (["192.0.2.1", "::ffff:192.0.2.1"], "192.0.2.2", "192.0.2.1"),
        (["::ffff:192.0.2.1", "192.0.2.1"], "::ffff:192.0.2.2", "192.0.2.1"),
        (["::1", "::2"], "0:0:0:1::1", "::/64"),
    ],
)
async def test_client_is_an_ipv4_address_or_an_ipv6_network(
    harness: ProxyHarness, same: list[str], another: str, name: str
) -> None:
    async with await Door.open(harness, "accept_proxy", max_sessions_per_client=1) as door:
        await door.served(same[0])
        await door.refused(same[1])
        await door.served(another)
        (line,) = await harness.sessions(1)
    assert line["detail"] == f"{name} has 1 session, max_sessions_per_client is 1"


async def test_exempt_ipv6_address_leaves_its_network_limited(harness: ProxyHarness) -> None:
    limits = {"max_sessions_per_client": 1, "max_sessions_per_client_exempt": ["2001:db8::1"]}
    async with await Door.open(harness, "accept_proxy", **limits) as door:
        for _ in range(3):
            await door.served("2001:db8::1")
        await door.served("2001:db8::2")
        await door.refused("2001:db8::3")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
async def test_ipv4_client_of_a_bind_for_both_families_is_one_client(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address,
        frontends={
            "f": {
                "max_sessions_per_client": 1,
                "bind": [{"address": "[::]:0"}, {"address": "127.0.0.1:0"}],
            }
        },
    )
    both, v4 = proxy.frontends["f"].addresses
    port = both.rpartition(":")[2]
    async with connected(f"127.0.0.1:{port}", ONE) as one, connected(f"[::1]:{port}", "::1") as two:
        assert [await receive_server_name(client) for client in (one, two)] == ["s1", "s1"]
        async with connected(v4, ONE) as three, connected(f"[::1]:{port}", "::1") as four:
            assert [await client.receive_until_end() for client in (three, four)] == [b"", b""]
    details = [line["detail"] for line in await harness.sessions(4) if line["end"] == "client-limit"]
    assert {detail.split()[0] for detail in details} == {ONE, "::/64"}


# Hostile clients


async def test_client_in_a_hurry_does_not_touch_another(harness: ProxyHarness) -> None:
    """It opens and closes as fast as it can, and the other one comes and goes beside it."""
    limits = {"max_sessions_per_client": 2, "max_session_rate_per_client": {"count": 30, "per": "1d"}}
    async with await Door.open(harness, "forward", **limits) as door:
        address = door.proxy.frontends["f"].addresses[0]
        is_over = False

        async def hurry() -> None:
            while not is_over:
                async with connected(address, OTHER) as client:
                    client.reset()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(hurry)
            await wait_until(lambda: door.proxy.frontends["f"].client_limited >= 20)
            for _ in range(15):
                client = await door.served(ONE)
                await assert_served(client)
                await client.close()
            is_over = True
        await harness.wait_until_idle()


async def test_fault_in_counting_ends_one_session_alone(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the session is told of, as every fault of the proxy is; the next one is counted as before."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, frontends={"f": {"max_sessions_per_client": 1}})
    with monkeypatch.context() as broken:
        broken.setattr(ClientLimits, "add", None)
        async with await harness.dial(proxy) as client:
            assert await client.receive_until_end() == b""
    (line,) = await harness.sessions(1)
    assert line["end"] == "internal-error"
    async with await harness.dial(proxy) as client:
        assert await receive_server_name(client) == "s1"
    harness.log.write_text("")  # the harness wants no faults of the proxy at its end


async def test_stopping_gives_every_place_back(harness: ProxyHarness) -> None:
    async with await Door.open(harness, "forward", max_sessions_per_client=3) as door:
        for _ in range(3):
            await door.served(ONE)
        with trio.fail_after(TIMEOUT_S):
            await door.proxy.drain(0)
    lines = await harness.sessions(3)
    assert {line["end"] for line in lines} == {"stopped"}
