"""Sessions that the proxy greets and upgrades: each protocol, joined over TLS or in clear, and STARTTLS to servers."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

from mailproxy.testing import EchoLines, Send, dial
from mailproxy.testing.playbook import Expect, PlaybookError, Stall
from tests.support.proxy.mail_servers import (
    GREETINGS,
    HELLO,
    PROTOCOLS,
    STARTTLS,
    Upgrade,
    receive_answer,
    receive_greeting,
    upgrade,
)
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.proxy.relays import ON_EACH
from tests.support.proxy.task_steps import cancel_at_every_step

pytestmark = pytest.mark.usefixtures("harness")


def frontend(harness: ProxyHarness, protocol: str, **changes: Any) -> dict[str, Any]:
    """Return the changes of a mapping that make its frontend one that upgrades."""
    return {
        "bind": {"mode": "starttls", **changes.pop("bind", {})},
        "frontends": {"f": {"protocol": protocol, "tls": {"certificates": [str(harness.pem)]}, **changes}},
    }


@ON_EACH
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_client_upgrades_and_is_joined(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((Send(GREETINGS[protocol]), EchoLines()))
    proxy = await harness.proxy(server.address, **frontend(harness, protocol))
    async with await harness.dial(proxy) as client:
        await upgrade(client, protocol, harness.ca.client_context())
        if protocol == "sieve":  # the server's greeting is the list over TLS
            assert await receive_greeting(client, protocol) == GREETINGS[protocol]
        await client.send(b"a1 HELLO\r\n")
        assert await client.receive_line() == b"a1 HELLO\r\n"
    line = await harness.session()
    assert (line["end"], line["tls_version"]) == ("client-closed", "TLSv1.3")
    assert server.connections[0].received == b"a1 HELLO\r\n"


@ON_EACH
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_client_that_does_not_upgrade_is_joined_in_clear(harness: ProxyHarness, protocol: str) -> None:
    hello = HELLO.get(protocol, b"")
    answer = b"250-server\r\n250 SIZE\r\n"
    refused = {"imap": b"m NO\r\n", "pop3": b"-ERR\r\n", "sieve": b"NO\r\n"}.get(protocol, b"500 no\r\n")
    playbook = [Send(GREETINGS[protocol]), *([Expect(hello), Send(answer)] if hello else [])]
    server = await harness.server([*playbook, Expect(b"m LOGIN x\r\n"), Send(refused), EchoLines()])
    changes = frontend(harness, protocol, bind={"starttls_required": False})
    proxy = await harness.proxy(server.address, **changes)
    async with await harness.dial(proxy) as client:
        await receive_greeting(client, protocol)
        if hello:
            await client.send(hello)
            assert b"STARTTLS" in await receive_answer(client, protocol)
        await client.send(b"m LOGIN x\r\nm2 ")
        assert await client.receive_line() == refused
        await client.send(b"more\r\n")
        assert await client.receive_line() == b"m2 more\r\n"
    line = await harness.session()
    assert (line["end"], line["tls_version"]) == ("client-closed", None)
    assert line["bytes_in"] == len(b"m LOGIN x\r\nm2 more\r\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("pause", [False, True], ids=["with", "behind"])
async def test_injected_bytes_end_the_session(harness: ProxyHarness, protocol: str, pause: bool) -> None:
    server = await harness.server((Send(GREETINGS[protocol]), EchoLines()))
    proxy = await harness.proxy(server.address, **frontend(harness, protocol))
    async with await harness.dial(proxy) as client:
        greeting = await receive_greeting(client, protocol)
        hello = HELLO.get(protocol, b"")
        if hello:
            await client.send(hello)
            greeting += await receive_answer(client, protocol)
        await client.send(STARTTLS[protocol])
        if pause:
            await receive_answer(client, protocol)
        await client.send(b"x NOOP\r\n")
        rest = await client.receive_until_end()
        assert b"x OK" not in rest
        assert rest.count(b"\n") <= 2
    # The proxy may have answered STARTTLS before the rest arrived. Then it is no ClientHello.
    assert (await harness.session())["end"] == "injection"
    assert not server.connections


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_injection_in_one_segment_is_not_answered(harness: ProxyHarness, protocol: str) -> None:
    proxy = await harness.proxy("127.0.0.1:1", **frontend(harness, protocol))
    async with await harness.dial(proxy) as client:
        await receive_greeting(client, protocol)
        before = len(client.received)
        await client.send(HELLO.get(protocol, b"") + STARTTLS[protocol] + b"x NOOP\r\n")
        await client.receive_until_end()
        assert b"TLS neg" not in client.received[before:]
        assert b"Ready to start" not in client.received[before:]
    assert (await harness.session())["end"] == "injection"


async def test_client_that_leaves_before_tls_is_logged(harness: ProxyHarness) -> None:
    proxy = await harness.proxy("127.0.0.1:1", **frontend(harness, "imap"))
    async with await harness.dial(proxy) as client:
        await receive_greeting(client, "imap")
        await client.send(b"a LOGOUT\r\n")
        assert await client.receive_until_end() == b"* BYE Logging out.\r\na OK LOGOUT completed.\r\n"
    line = await harness.session()
    assert (line["end"], line["state"], line["phase"]) == ("left-before-tls", "CR", "negotiation")


async def test_too_many_errors_end_the_session(harness: ProxyHarness) -> None:
    proxy = await harness.proxy("127.0.0.1:1", **frontend(harness, "submission", max_errors=2))
    async with await harness.dial(proxy) as client:
        await receive_greeting(client, "submission")
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: *\r\n")
        end = b"500 5.5.2 Command is not recognized\r\n421 4.7.0 Too many errors\r\n"
        assert await client.receive_until_end() == end
    assert (await harness.session())["end"] == "too-many-errors"


async def test_slow_client_is_ended_by_the_negotiation_timeout(harness: ProxyHarness) -> None:
    changes = frontend(harness, "imap", timeouts={"negotiation": "100ms"})
    proxy = await harness.proxy("127.0.0.1:1", **changes)
    async with await harness.dial(proxy) as client:
        await receive_greeting(client, "imap")
        await client.send_in_pieces(b"a N", pause=0.02)
        assert await client.receive_until_end() == b"* BYE Idle for too long.\r\n"
    line = await harness.session()
    assert (line["end"], line["state"]) == ("negotiation-timeout", "cR")


async def test_greeting_and_capabilities_of_the_configuration(harness: ProxyHarness) -> None:
    changes = frontend(harness, "imap", greeting="Hello.", capabilities=["IMAP4rev1", "AUTH=PLAIN", "IDLE"])
    proxy = await harness.proxy("127.0.0.1:1", **changes)
    async with await harness.dial(proxy) as client:
        line = await client.receive_line()
        assert line == b"* OK [CAPABILITY IMAP4rev1 IDLE STARTTLS LOGINDISABLED] Hello.\r\n"


async def test_capabilities_are_learnt_by_the_check(harness: ProxyHarness) -> None:
    check = (
        Send(b"* OK hi\r\n"),
        Expect(b"a1 CAPABILITY\r\n"),
        Send(b"* CAPABILITY IMAP4rev1 Idle XFOO AUTH=PLAIN\r\na1 OK\r\n"),
        Expect(b"a2 LOGOUT\r\n"),
        Send(b"* BYE\r\na2 OK\r\n"),
    )
    server = await harness.server(check)
    changes = frontend(harness, "imap")
    proxy = await harness.proxy(server.address, **changes, backends={"b": {"check": {"interval": "60s"}}})
    async with await harness.dial(proxy) as client:
        line = await client.receive_line()
        assert line == b"* OK [CAPABILITY IMAP4rev1 Idle XFOO STARTTLS LOGINDISABLED] ready.\r\n"


async def test_early_talker_is_refused(harness: ProxyHarness) -> None:
    changes = frontend(harness, "smtp", greeting_delay="10s")
    proxy = await harness.proxy("127.0.0.1:1", **changes)
    async with await harness.dial(proxy) as client:
        await client.send(b"EHLO spam.example\r\n")
        assert (await client.receive_until_end()).startswith(b"554 ")
    line = await harness.session()
    assert (line["end"], line["state"]) == ("early-talker", "PR")


async def test_early_talker_is_counted(harness: ProxyHarness) -> None:
    changes = frontend(harness, "submission", greeting_delay="100ms", early_talkers="count", max_errors=2)
    proxy = await harness.proxy("127.0.0.1:1", **changes)
    async with await harness.dial(proxy) as client:
        await client.send(b"EHLO early.example\r\n")
        await receive_greeting(client, "submission")
        await receive_answer(client, "submission")
        await client.send(b"XYZZY\r\n")
        assert await client.receive_until_end() == b"421 4.7.0 Too many errors\r\n"


async def test_client_that_waits_is_greeted_after_the_delay(harness: ProxyHarness) -> None:
    changes = frontend(harness, "smtp", greeting_delay="50ms")
    proxy = await harness.proxy("127.0.0.1:1", **changes)
    async with await harness.dial(proxy) as client:
        started_at = trio.current_time()
        await receive_greeting(client, "smtp")
        assert trio.current_time() - started_at > 0.04


async def test_server_that_refuses_in_its_greeting_is_tried_no_more(harness: ProxyHarness) -> None:
    full = await harness.server((Send(b"* BYE full\r\n"),))
    other = await harness.server((Send(GREETINGS["imap"]), EchoLines()))
    changes = frontend(harness, "imap")
    backend = {"balance": "first", "retries": 3, "redispatch": 1}
    proxy = await harness.proxy(full.address, other.address, **changes, backends={"b": backend})
    async with await harness.dial(proxy) as client:
        await upgrade(client, "imap", harness.ca.client_context())
        await client.send(b"a1 HELLO\r\n")
        assert await client.receive_line() == b"a1 HELLO\r\n"
    line = await harness.session()
    assert line["redispatched"]


async def test_server_without_greeting_is_ended_by_its_timeout(harness: ProxyHarness) -> None:
    server = await harness.server((Stall(),))
    changes = frontend(harness, "imap")
    backend = {"timeouts": {"greeting": "100ms"}}
    proxy = await harness.proxy(server.address, **changes, backends={"b": backend})
    async with await harness.dial(proxy) as client:
        await upgrade(client, "imap", harness.ca.client_context())
        await client.receive_until_end()
    assert (await harness.session())["end"] == "connect-timeout"


# STARTTLS to servers


@ON_EACH
@pytest.mark.parametrize("mode", ["starttls", "tls", "forward"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_server_is_upgraded(harness: ProxyHarness, protocol: str, mode: str) -> None:
    context = harness.ca.server_context("localhost", "127.0.0.1")
    after = [Send(GREETINGS["sieve"])] if protocol == "sieve" else []
    server = await harness.server((Upgrade(protocol, context), *after, EchoLines()))
    changes = frontend(harness, protocol, bind={"mode": mode})
    if mode == "forward":
        del changes["frontends"]["f"]["tls"]
    tls = {"tls": {"mode": "starttls", "ca": str(harness.ca.pem)}}
    proxy = await harness.proxy(server.address, **changes, backends={"b": tls})
    async with await harness.dial(proxy, tls=mode == "tls") as client:
        if mode == "starttls":
            await upgrade(client, protocol, harness.ca.client_context())
        if mode != "starttls" or protocol == "sieve":
            greeting = await receive_greeting(client, protocol)
            assert b"clear" not in greeting
            assert (b'"server"' in greeting) == (protocol == "sieve")
        await client.send(b"a1 HELLO\r\n")
        assert await client.receive_line() == b"a1 HELLO\r\n"
    assert (await harness.session())["end"] == "client-closed"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_server_without_starttls_is_never_used_in_clear(harness: ProxyHarness, protocol: str) -> None:
    context = harness.ca.server_context("localhost", "127.0.0.1")
    server = await harness.server((Upgrade(protocol, context, offers=False), EchoLines()))
    tls = {"tls": {"mode": "starttls", "ca": str(harness.ca.pem)}}
    proxy = await harness.proxy(server.address, **frontend(harness, protocol), backends={"b": tls})
    async with await harness.dial(proxy) as client:
        await upgrade(client, protocol, harness.ca.client_context())
        await client.send(b"a1 HELLO\r\n")
        await client.receive_until_end()
    line = await harness.session()
    assert line["end"] == "server-handshake-failed"
    assert "is not offered" in line["detail"]
    assert b"HELLO" not in server.connections[0].received


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_bytes_that_a_server_injects_end_the_session(harness: ProxyHarness, protocol: str) -> None:
    context = harness.ca.server_context("localhost", "127.0.0.1")
    server = await harness.server((Upgrade(protocol, context, injected=GREETINGS[protocol]), EchoLines()))
    tls = {"tls": {"mode": "starttls", "ca": str(harness.ca.pem)}}
    proxy = await harness.proxy(server.address, **frontend(harness, protocol), backends={"b": tls})
    async with await harness.dial(proxy) as client:
        await upgrade(client, protocol, harness.ca.client_context())
        assert b"server" not in await client.receive_until_end()
    assert (await harness.session())["end"] == "server-handshake-failed"


# Nothing is left behind


@pytest.mark.slow
async def test_cancelling_at_every_step_leaves_nothing(harness: ProxyHarness) -> None:
    context = harness.ca.server_context("localhost", "127.0.0.1")
    server = await harness.server((Upgrade("imap", context), EchoLines()))
    tls = {"tls": {"mode": "starttls", "ca": str(harness.ca.pem)}}
    mapping = harness.mapping(server.address, **frontend(harness, "imap"), backends={"b": tls})

    async def run_client(address: str) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.EndOfChannel, PlaybookError):
            async with await dial(address) as client:
                await upgrade(client, "imap", harness.ca.client_context())
                await client.receive_until_end()

    await cancel_at_every_step(mapping, run_client, stride=3)
    logged = {line["end"] for line in harness.lines() if line["event"] == "session"}
    assert logged <= {
        "negotiation-stopped", "left-before-tls", "handshake-stopped", "stopped-connecting", "stopped",
        "handshake-left",
    }  # fmt: skip
    assert {"negotiation-stopped", "stopped"} <= logged
