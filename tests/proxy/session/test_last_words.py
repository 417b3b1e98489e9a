"""Refusals and goodbyes: what a client reads when the proxy ends its session, and when it reads nothing."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.testing import EchoLines, Send
from mailproxy.testing.playbook import Collect, Stall
from tests.support.proxy.mail_servers import GREETINGS, PROTOCOLS, receive_greeting, upgrade
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.proxy.relays import ON_EACH

UNAVAILABLE = {
    "imap": b"* BYE [UNAVAILABLE] ",
    "pop3": b"-ERR [SYS/TEMP] ",
    "smtp": b"421 4.3.2 ",
    "submission": b"421 4.3.2 ",
    "lmtp": b"421 4.3.2 ",
    "sieve": b'BYE (TRYLATER) "',
}


def changes(harness: ProxyHarness, protocol: str, mode: str, **frontend: Any) -> dict[str, Any]:
    if mode in ("tls", "starttls"):
        frontend["tls"] = {"certificates": [str(harness.pem)]}
    return {"bind": {"mode": mode}, "frontends": {"f": {"protocol": protocol, **frontend}}}


# Refusals


@pytest.mark.parametrize("mode", ["starttls", "tls", "forward"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_session_without_a_server_is_refused(harness: ProxyHarness, protocol: str, mode: str) -> None:
    proxy = await harness.proxy("127.0.0.1:1", **changes(harness, protocol, mode))
    async with await harness.dial(proxy, tls=mode == "tls") as client:
        if mode == "starttls":
            await upgrade(client, protocol, harness.ca.client_context())
        line = await client.receive_until_end()
        assert line.startswith(UNAVAILABLE[protocol])
        assert line.endswith(b"\r\n")
        assert client.end == ("eof" if mode == "forward" else "close_notify")
    assert (await harness.session())["end"] == "server-refused"


async def test_client_over_its_limit_is_refused(harness: ProxyHarness) -> None:
    server = await harness.server((Send(GREETINGS["imap"]), EchoLines()))
    limit = changes(harness, "imap", "forward", max_sessions_per_client=1, refusal="Come back later.")
    proxy = await harness.proxy(server.address, **limit)
    async with await harness.dial(proxy) as first:
        await receive_greeting(first, "imap")
        async with await harness.dial(proxy) as second:
            assert await second.receive_until_end() == b"* BYE [LIMIT] Come back later.\r\n"
    lines = await harness.sessions(2)
    assert {line["end"] for line in lines} == {"client-limit", "client-closed"}


async def test_client_over_its_limit_reads_it_inside_tls(harness: ProxyHarness) -> None:
    server = await harness.server((Send(GREETINGS["imap"]), EchoLines()))
    limit = changes(harness, "imap", "tls", max_sessions_per_client=1)
    proxy = await harness.proxy(server.address, **limit)
    async with await harness.dial(proxy, tls=True) as first:
        await receive_greeting(first, "imap")
        async with await harness.dial(proxy, tls=True) as second:
            assert (await second.receive_until_end()).startswith(b"* BYE [LIMIT] ")
            assert second.end == "close_notify"
    assert {line["end"] for line in await harness.sessions(2)} == {"client-limit", "client-closed"}


@pytest.mark.parametrize("protocol", ["imap", "tcp"])
async def test_route_that_rejects_says_so_inside_tls(harness: ProxyHarness, protocol: str) -> None:
    """By the client's address. A name that no route has gets an alert. So does any client where no words are known."""
    routes = changes(harness, protocol, "tls", routes=[{"client": ["127.0.0.0/8"], "reject": True}])
    proxy = await harness.proxy("127.0.0.1:1", **routes)
    if protocol == "imap":
        async with await harness.dial(proxy, tls=True) as client:
            assert (await client.receive_until_end()).startswith(b"* BYE ")
    else:
        with pytest.raises(trio.BrokenResourceError, match="ACCESS_DENIED"):
            await harness.dial(proxy, tls=True)
    assert (await harness.session())["end"] == "rejected"


async def test_flood_of_clients_over_their_limit_gets_few_handshakes(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.session.session._REFUSING_MAX", 2)
    server = await harness.server((Send(GREETINGS["imap"]), EchoLines()))
    proxy = await harness.proxy(server.address, **changes(harness, "imap", "tls", max_sessions_per_client=1))
    async with await harness.dial(proxy, tls=True) as first:
        await receive_greeting(first, "imap")
        silent = [await harness.dial(proxy) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        third = await harness.dial(proxy)
        assert await third.receive_until_end() == b""
        for each in (third, *silent):
            each.drop()
        await harness.sessions(3)


@pytest.mark.parametrize(("protocol", "mode"), [("tcp", "forward"), ("imap", "passthrough")])
async def test_other_sessions_end_without_a_word(harness: ProxyHarness, protocol: str, mode: str) -> None:
    proxy = await harness.proxy("127.0.0.1:1", **changes(harness, protocol, mode))
    async with await harness.dial(proxy, tls=False) as client:
        if mode == "passthrough":
            await client.send(b"a NOOP\r\n")  # no ClientHello
        assert await client.receive_until_end() == b""


# Goodbyes


@ON_EACH
@pytest.mark.parametrize("mode", ["starttls", "tls"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_idle_session_gets_a_goodbye(harness: ProxyHarness, protocol: str, mode: str) -> None:
    server = await harness.server((Send(GREETINGS[protocol]), Collect()))
    proxy = await harness.proxy(server.address, **changes(harness, protocol, mode))
    async with await harness.dial(proxy, tls=mode == "tls") as client:
        if mode == "starttls":
            await upgrade(client, protocol, harness.ca.client_context())
        if mode == "tls" or protocol == "sieve":
            await receive_greeting(client, protocol)
        else:
            await trio.sleep(0.2)  # until the session is joined, which the client cannot see
        await proxy.drain(0.0)
        line = await client.receive_until_end()
        assert line.startswith(UNAVAILABLE[protocol]), line
        assert client.end == "close_notify"
    assert (await harness.session())["end"] in ("stopped", "stopped-connecting")


@ON_EACH
async def test_no_goodbye_inside_a_literal(harness: ProxyHarness) -> None:
    part = b"* 1 FETCH (BODY[] {100}\r\nSubject: x\r\n"
    server = await harness.server((Send(GREETINGS["imap"] + part), Stall()))
    proxy = await harness.proxy(server.address, **changes(harness, "imap", "tls"))
    async with await harness.dial(proxy, tls=True) as client:
        await client.receive_exactly(len(GREETINGS["imap"] + part))
        await proxy.drain(0.0)
        await client.receive_until_end()
        assert client.received == GREETINGS["imap"] + part
    assert (await harness.session())["end"] == "stopped"


@ON_EACH
@pytest.mark.parametrize(
    ("goodbye", "mode", "expected"),
    [("never", "tls", False), ("when-known", "forward", False), ("always", "forward", True)],
)
async def test_goodbye_is_chosen(harness: ProxyHarness, goodbye: str, mode: str, expected: bool) -> None:
    server = await harness.server((Send(GREETINGS["imap"]), Collect()))
    proxy = await harness.proxy(server.address, **changes(harness, "imap", mode, goodbye=goodbye))
    async with await harness.dial(proxy, tls=mode == "tls") as client:
        await receive_greeting(client, "imap")
        await proxy.drain(0.0)
        assert (await client.receive_until_end()).startswith(b"* BYE") == expected


@ON_EACH
@pytest.mark.parametrize(
    ("protocol", "words"), [("imap", b"* BYE Idle"), ("pop3", b""), ("smtp", b"421 4.4.2")]
)
async def test_idle_timeout_says_so_except_in_pop3(
    harness: ProxyHarness, protocol: str, words: bytes
) -> None:
    server = await harness.server((Send(GREETINGS[protocol]), Collect()))
    timeouts = {"client": "200ms"}
    proxy = await harness.proxy(server.address, **changes(harness, protocol, "tls", timeouts=timeouts))
    async with await harness.dial(proxy, tls=True) as client:
        await receive_greeting(client, protocol)
        rest = await client.receive_until_end()
        assert rest.startswith(words)
        assert bool(rest) == bool(words)
    assert (await harness.session())["end"] == "client-timeout"


@ON_EACH
async def test_server_that_goes_down_is_said_goodbye_for(harness: ProxyHarness) -> None:
    server = await harness.server((Send(GREETINGS["imap"]), Collect()))
    backend = {"b": {"on_marked_down": "shutdown-sessions"}}
    proxy = await harness.proxy(server.address, **changes(harness, "imap", "tls"), backends=backend)
    async with await harness.dial(proxy, tls=True) as client:
        await receive_greeting(client, "imap")
        (server_of,) = proxy.backends["b"].servers.values()
        server_of.set_state("maint")
        assert (await client.receive_until_end()).startswith(b"* BYE [UNAVAILABLE]")
    assert (await harness.session())["end"] == "server-down"
