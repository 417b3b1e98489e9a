"""Limits per client: the proxy ends a session above a limit first. Other clients are not affected."""

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
    destination_host = "203.0.113.9" if ":" not in host else "2001:db8:ffff::9"
    protocol = Protocol.TCP6 if ":" in host else Protocol.TCP4
    return format_v2(
        HeaderV2(
            command=Command.PROXY, protocol=protocol, source=(host, port), destination=(destination_host, 993)
        )
    )


LOCAL = format_v2(HeaderV2(command=Command.LOCAL, protocol=Protocol.UNSPEC))


@asynccontextmanager
async def connected(address: str, source: str) -> AsyncIterator[Connection]:
    """Connect from this address of the loopback network."""
    host, _, port = address.rpartition(":")
    sock = trio.socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
    await sock.bind((source, 0))
    with trio.fail_after(TIMEOUT_S):
        await sock.connect((host.strip("[]"), int(port)))
    async with Connection(trio.SocketStream(sock)) as connection:
        yield connection


class LimitedProxy:
    """A proxy whose frontend has one bind of this mode, and its clients."""

    def __init__(self, harness: ProxyHarness, mode: str) -> None:
        self.harness, self.mode = harness, mode
        self.proxy: mailproxy.Proxy
        self._clients = AsyncExitStack()

    @classmethod
    async def open(cls, harness: ProxyHarness, mode: str, **limits: Any) -> LimitedProxy:
        limited = cls(harness, mode)
        tls = harness.ca.server_context("localhost") if mode == "passthrough" else None
        server = await harness.server(greet_and_echo(GREETING), tls=tls)
        bind: Line = {"mode": mode if mode != "accept_proxy" else "forward"}
        if mode == "accept_proxy":
            bind["accept_proxy"] = ["127.0.0.0/8"]
            limits = {**limits, "timeouts": {"proxy_header": "60s"}}
        limited.proxy = await harness.proxy(
            server.address, tls=mode == "tls", bind=bind, frontends={"f": limits}
        )
        return limited

    async def connect(self, source: str) -> Connection:
        """Connect a client, with the PROXY header if the mode needs one."""
        address = self.proxy.frontends["f"].addresses[0]
        if self.mode == "accept_proxy":
            client = await self._clients.enter_async_context(connected(address, "127.0.0.1"))
            await client.send(header(source))
        else:
            client = await self._clients.enter_async_context(connected(address, source))
        return client

    async def connect_served(self, source: str) -> Connection:
        client = await self.connect(source)
        with trio.fail_after(TIMEOUT_S):
            if self.mode in ("passthrough", "tls"):
                await client.start_tls(self.harness.ca.client_context())
            assert await receive_server_name(client) == "s1"
        return client

    async def connect_rejected(self, source: str) -> None:
        """Connect a client whose connection ends with no byte before: no greeting, no alert."""
        client = await self.connect(source)
        with trio.fail_after(TIMEOUT_S):
            assert await client.receive_until_end() == b""

    async def __aenter__(self) -> LimitedProxy:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._clients.aclose()


# In each mode


@EACH_MODE
async def test_client_above_session_limit_is_rejected(harness: ProxyHarness, mode: str) -> None:
    async with await LimitedProxy.open(harness, mode, max_sessions_per_client=2) as limited:
        before = ResourceSnapshot.now()
        first, second = await limited.connect_served(ONE), await limited.connect_served(ONE)
        await limited.connect_rejected(ONE)
        (line,) = await harness.sessions(1)
        other = await limited.connect_served(TWO)
        for client in (first, second, other):
            await assert_served(client)
        await first.close()
        await harness.sessions(2)
        await limited.connect_served(ONE)
        await limited.connect_rejected(ONE)
        assert limited.proxy.frontends["f"].client_limited == 2
    await harness.sessions(6)
    await harness.wait_until_idle()
    assert (line["end"], line["by"], line["state"]) == ("client-limit", "proxy", "PR")
    assert line["detail"] == f"{ONE} has 2 sessions, max_sessions_per_client is 2"
    assert line["client"].startswith(f"{ONE}:")
    assert (line["bytes_in"], line["bytes_out"], line["server"], line["tls_version"]) == (0, 0, None, None)
    await before.wait_until_restored()


@EACH_MODE
async def test_client_above_rate_limit_is_rejected(harness: ProxyHarness, mode: str) -> None:
    limits = {"max_session_rate_per_client": {"count": 2, "per": "1d"}}
    async with await LimitedProxy.open(harness, mode, **limits) as limited:
        for _ in range(2):
            client = await limited.connect_served(ONE)
            await client.close()
        await harness.sessions(2)
        await limited.connect_rejected(ONE)
        await limited.connect_rejected(ONE)
        await limited.connect_served(TWO)
    lines = await harness.sessions(5)
    rejected = [line for line in lines if line["end"] == "client-limit"]
    assert [line["detail"].split(", ")[-1] for line in rejected] == [
        "max_session_rate_per_client is 2 in 1d"
    ] * 2
    assert rejected[0]["detail"].startswith(f"{ONE} made 3 connections in 1d, ")


async def test_rejection_does_not_wait_for_handshake(harness: ProxyHarness) -> None:
    """A silent client is rejected at once. No TLS handshake is started."""
    async with await LimitedProxy.open(harness, "tls", max_sessions_per_client=1) as limited:
        await limited.connect_served(ONE)
        await limited.connect_rejected(ONE)  # has not sent a byte
        (line,) = await harness.sessions(1)
    assert (line["end"], line["phase"]) == ("client-limit", "route")


async def test_tcplog_line_of_rejected_session_has_pr(harness: ProxyHarness) -> None:
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


async def test_limits_are_off_by_default(harness: ProxyHarness) -> None:
    async with await LimitedProxy.open(harness, "forward") as limited:
        for _ in range(40):
            await limited.connect_served(ONE)
        assert limited.proxy.frontends["f"].client_limited == 0


async def test_failed_session_frees_place(harness: ProxyHarness) -> None:
    """Each end frees the client's place: no server, a broken handshake, a client that has gone."""
    proxy = await harness.proxy("127.0.0.1:1", tls=True, frontends={"f": {"max_sessions_per_client": 1}})
    for count, first_bytes in enumerate([b"no TLS\r\n", b"\x16\x03\x01\xff\xff", b""] * 3):
        async with await harness.dial(proxy) as client:
            if first_bytes:
                await client.send(first_bytes)
                await client.receive_until_end()
        ends = [line["end"] for line in await harness.sessions(count + 1)]
        assert "client-limit" not in ends, ends


async def test_frontends_count_separately(harness: ProxyHarness) -> None:
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
    async with await LimitedProxy.open(harness, "forward", **limits) as limited:
        for _ in range(5):
            await limited.connect_served(ONE)
        await limited.connect_served(TWO)
        await limited.connect_rejected(TWO)


# Addresses


async def test_unix_socket_client_has_no_limit(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    limits = {"max_sessions_per_client": 1, "max_session_rate_per_client": {"count": 1}}
    path = harness.folder / "p.sock"
    proxy = await harness.proxy(server.address, bind={"address": f"unix:{path}"}, frontends={"f": limits})
    async with await harness.dial(proxy) as one, await harness.dial(proxy) as two:
        assert [await receive_server_name(client) for client in (one, two)] == ["s1", "s1"]


async def test_unix_socket_client_from_header_is_limited(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    bind = {"address": f"unix:{harness.folder}/p.sock", "accept_proxy": ["unix"]}
    proxy = await harness.proxy(server.address, bind=bind, frontends={"f": {"max_sessions_per_client": 1}})
    async with await harness.dial(proxy) as one, await harness.dial(proxy) as two:
        await one.send(header("192.0.2.1"))
        assert await receive_server_name(one) == "s1"
        await two.send(header("192.0.2.1"))
        assert await two.receive_until_end() == b""


@pytest.mark.parametrize("header_bytes", [LOCAL, b"PROXY UNKNOWN\r\n"])
async def test_header_without_a_client_has_no_limit(harness: ProxyHarness, header_bytes: bytes) -> None:
    """Otherwise a balancer's health checks, and clients whose address it does not know, would be rejected."""
    server = await harness.server(collect(GREETING))
    bind = {"accept_proxy": ["127.0.0.0/8"]}
    frontend = {"max_sessions_per_client": 1, "timeouts": {"proxy_header": "60s"}}
    proxy = await harness.proxy(server.address, bind=bind, frontends={"f": frontend})
    async with await harness.dial(proxy) as one, await harness.dial(proxy) as two:
        for client in (one, two):
            await client.send(header_bytes)
            assert await receive_server_name(client) == "s1"


async def test_client_without_optional_header_counts(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    bind = {"accept_proxy": ["192.0.2.0/24"], "proxy_optional": True}
    proxy = await harness.proxy(server.address, bind=bind, frontends={"f": {"max_sessions_per_client": 1}})
    async with await harness.dial(proxy) as one:
        assert await receive_server_name(one) == "s1"
        async with await harness.dial(proxy) as two:
            assert await two.receive_until_end() == b""


async def test_session_before_header_does_not_count(harness: ProxyHarness) -> None:
    """The client is not known yet, and a balancer keeps many connections open."""
    async with await LimitedProxy.open(harness, "accept_proxy", max_sessions_per_client=1) as limited:
        address = limited.proxy.frontends["f"].addresses[0]
        async with await dial(address), await dial(address), await dial(address):
            await limited.connect_served(ONE)
            await limited.connect_served(TWO)


@pytest.mark.parametrize(
    ("same", "other", "client_name"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"], "2001:db8:1:3::1", "2001:db8:1:2::/64"),
        (["192.0.2.1", "::ffff:192.0.2.1"], "192.0.2.2", "192.0.2.1"),
        (["::ffff:192.0.2.1", "192.0.2.1"], "::ffff:192.0.2.2", "192.0.2.1"),
        (["::1", "::2"], "0:0:0:1::1", "::/64"),
    ],
)
async def test_client_is_ipv4_address_or_ipv6_network(
    harness: ProxyHarness, same: list[str], other: str, client_name: str
) -> None:
    async with await LimitedProxy.open(harness, "accept_proxy", max_sessions_per_client=1) as limited:
        await limited.connect_served(same[0])
        await limited.connect_rejected(same[1])
        await limited.connect_served(other)
        (line,) = await harness.sessions(1)
    assert line["detail"] == f"{client_name} has 1 session, max_sessions_per_client is 1"


async def test_exempt_ipv6_address_leaves_network_limited(harness: ProxyHarness) -> None:
    limits = {"max_sessions_per_client": 1, "max_sessions_per_client_exempt": ["2001:db8::1"]}
    async with await LimitedProxy.open(harness, "accept_proxy", **limits) as limited:
        for _ in range(3):
            await limited.connect_served("2001:db8::1")
        await limited.connect_served("2001:db8::2")
        await limited.connect_rejected("2001:db8::3")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
async def test_ipv4_client_of_dual_stack_bind_counts_once(harness: ProxyHarness) -> None:
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


async def test_fast_client_does_not_affect_another(harness: ProxyHarness) -> None:
    """One client opens and closes as fast as it can, while another one comes and goes."""
    limits = {"max_sessions_per_client": 2, "max_session_rate_per_client": {"count": 30, "per": "1d"}}
    async with await LimitedProxy.open(harness, "forward", **limits) as limited:
        address = limited.proxy.frontends["f"].addresses[0]
        is_over = False

        async def connect_and_reset() -> None:
            while not is_over:
                async with connected(address, OTHER) as client:
                    client.reset()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(connect_and_reset)
            await wait_until(lambda: limited.proxy.frontends["f"].client_limited >= 20)
            for _ in range(15):
                client = await limited.connect_served(ONE)
                await assert_served(client)
                await client.close()
            is_over = True
        await harness.wait_until_idle()


async def test_fault_in_counting_ends_one_session(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is logged as every fault of the proxy is. The next session is counted as before."""
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
    harness.log.write_text("")  # the harness accepts no session-fault at its end


async def test_stopping_ends_limited_sessions(harness: ProxyHarness) -> None:
    async with await LimitedProxy.open(harness, "forward", max_sessions_per_client=3) as limited:
        for _ in range(3):
            await limited.connect_served(ONE)
        with trio.fail_after(TIMEOUT_S):
            await limited.proxy.drain(0)
    lines = await harness.sessions(3)
    assert {line["end"] for line in lines} == {"stopped"}
