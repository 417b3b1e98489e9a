"""Claims of identity that a client makes before its login, on the way to a server that might believe them."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mailproxy.protocol.gate.gate import REPLACEMENT
from mailproxy.testing import EchoLines, Send
from mailproxy.testing.connection import Connection
from mailproxy.testing.playbook import Close, Collect, Expect, ExpectLine, Reset, Step, WaitFor
from tests.support.proxy.mail_servers import upgrade
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import ON_EACH

SPOOF = b'a ID ("name" "x" "x-originating-ip" "192.0.2.66")\r\n'
STRIPPED = b'a ID ("name" "x")\r\n'
GREETING = b"* OK server\r\n"
LOGIN, LOGGED_IN = b"b LOGIN joe secret\r\n", b"b OK in\r\n"


def frontend(
    harness: ProxyHarness, mode: str = "forward", protocol: str = "imap", **backend: Any
) -> dict[str, Any]:
    frontend: dict[str, Any] = {"protocol": protocol}
    if mode != "forward":
        frontend["tls"] = {"certificates": [str(harness.pem)]}
    return {
        "bind": {"mode": mode},
        "frontends": {"f": frontend},
        "backends": {"b": {"protocol": protocol, **backend}},
    }


@ON_EACH
@pytest.mark.parametrize("mode", ["forward", "tls", "starttls"])
async def test_plain_relay_strips_them_until_a_login(harness: ProxyHarness, mode: str) -> None:
    """Nothing in the configuration asks for it: the server sees the proxy's address, and may trust it."""
    server = await harness.server(
        (Send(GREETING), Expect(STRIPPED), Send(b"a OK\r\n"), Expect(LOGIN), Send(LOGGED_IN), EchoLines())
    )
    proxy = await harness.proxy(server.address, **frontend(harness, mode))
    async with await harness.dial(proxy, tls=mode == "tls") as client:
        if mode == "starttls":
            await upgrade(client, "imap", harness.ca.client_context())
        else:
            assert await client.receive_line() == GREETING
        await client.send(SPOOF + LOGIN + SPOOF)
        assert await client.receive_line() == b"a OK\r\n"
        assert await client.receive_line() == LOGGED_IN
        assert await client.receive_line() == SPOOF
        await client.send(SPOOF * 2)
        assert await client.receive_exactly(2 * len(SPOOF)) == SPOOF * 2
    line = await harness.session()
    assert (line["end"], line["bytes_in"]) == ("client-closed", 4 * len(SPOOF) + len(LOGIN))


async def test_with_a_proxy_header_nothing_is_read(harness: ProxyHarness) -> None:
    server = await harness.server((ExpectLine(), Send(GREETING), EchoLines()))
    proxy = await harness.proxy(server.address, **frontend(harness, send_proxy="v1"))
    async with await harness.dial(proxy) as client:
        assert await client.receive_line() == GREETING
        await client.send(SPOOF * 2)
        assert await client.receive_exactly(2 * len(SPOOF)) == SPOOF * 2


@pytest.mark.parametrize("lists_it", [True, False], ids=["listed", "not listed"])
async def test_server_that_lists_no_xclient_is_not_gated(harness: ProxyHarness, lists_it: bool) -> None:
    """The check has learnt what the server lists to the proxy's address."""
    offer = b"XCLIENT ADDR" if lists_it else b"SIZE"
    list_ = b"250-server\r\n250 " + offer + b"\r\n"
    check = (Send(b"220 hi\r\n"), ExpectLine(), Send(list_), ExpectLine(), Send(b"221 bye\r\n"), Close())
    server = await harness.server(check, (Send(b"220 server\r\n"), EchoLines()))
    changes = frontend(harness, protocol="smtp", check={"type": "smtp", "interval": "1h"})
    proxy = await harness.proxy(server.address, **changes)
    with trio.fail_after(TIMEOUT_S):
        while not proxy.backends["b"].servers["127.0.0.1:" + server.address.rpartition(":")[2]].last_check:  # noqa: ASYNC110 - no event
            await trio.sleep(0.005)
    async with await harness.dial(proxy) as client:
        await client.receive_line()
        await client.send(b"XCLIENT ADDR=192.0.2.66\r\n")
        answer = await client.receive_line()
    assert answer == (REPLACEMENT + b"\r\n" if lists_it else b"XCLIENT ADDR=192.0.2.66\r\n")


@ON_EACH
async def test_starttls_between_client_and_server_passes(harness: ProxyHarness) -> None:
    context = harness.ca.server_context("localhost")

    class Upgraded:
        async def play(self, connection: Connection) -> None:
            await connection.accept_tls(context)

    server = await harness.server(
        (Send(GREETING), Expect(b"a STARTTLS\r\n"), Send(b"a OK go\r\n"), Upgraded(), EchoLines())
    )
    proxy = await harness.proxy(server.address, **frontend(harness))
    async with await harness.dial(proxy) as client:
        await client.receive_line()
        await client.send(b"a STARTTLS\r\n")
        assert await client.receive_line() == b"a OK go\r\n"
        await client.start_tls(harness.ca.client_context())
        await client.send(b"no IMAP at all\r\n")
        assert await client.receive_line() == b"no IMAP at all\r\n"


@ON_EACH
async def test_bytes_behind_a_starttls_that_passes_end_the_session(harness: ProxyHarness) -> None:
    server = await harness.server((Send(GREETING), ExpectLine(), Send(b"a OK go\r\n"), Collect()))
    proxy = await harness.proxy(server.address, **frontend(harness))
    async with await harness.dial(proxy) as client:
        await client.receive_line()
        await client.send(b"a STARTTLS\r\nb NOOP\r\n")
        await client.receive_until_end()
    line = await harness.session()
    assert (line["end"], line["detail"]) == ("injection", "bytes in clear text behind STARTTLS")
    assert server.connections[0].received == b"a STARTTLS\r\n"


@ON_EACH
async def test_commands_of_a_client_that_has_closed_are_all_answered(harness: ProxyHarness) -> None:
    """The client's end comes behind what the gate holds."""
    commands = [b"%d NOOP\r\n" % number for number in range(5)]
    steps: list[Step] = []
    for number, command in enumerate(commands):
        steps += [Expect(command), Send(b"%d OK\r\n" % number)]
    server = await harness.server((Send(GREETING), *steps, Collect()))
    proxy = await harness.proxy(server.address, **frontend(harness))
    async with await harness.dial(proxy) as client:
        await client.send(b"".join(commands))
        await client.half_close()
        answers = await client.receive_until_end()
        assert answers == GREETING + b"".join(b"%d OK\r\n" % number for number in range(5))
    assert (await harness.session())["end"] == "client-closed"


@ON_EACH
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_mail_that_is_pipelined_waits_at_the_client(harness: ProxyHarness, tls: bool) -> None:
    """The relay stops to read while the gate is full, and goes on behind the answers."""
    mail = bytes(range(256)) * 8192
    server = await harness.server(
        (
            Send(b"220 server\r\n"), ExpectLine(), Send(b"250 ok\r\n"), ExpectLine(), Send(b"250 ok\r\n"),
            ExpectLine(), Expect(mail), Send(b"250 queued\r\n"), Expect(b"QUIT\r\n"), Send(b"221 bye\r\n"), Close(),
        )
    )  # fmt: skip
    proxy = await harness.proxy(server.address, **frontend(harness, "tls" if tls else "forward", "smtp"))
    async with await harness.dial(proxy, tls=tls) as client, trio.open_nursery() as nursery:
        await client.receive_line()
        commands = b"MAIL FROM:<a>\r\nRCPT TO:<b>\r\nBDAT %d LAST\r\n" % len(mail)
        nursery.start_soon(client.send, commands + mail + b"QUIT\r\n")
        lines = [await client.receive_line() for _ in range(4)]
        assert lines == [b"250 ok\r\n", b"250 ok\r\n", b"250 queued\r\n", b"221 bye\r\n"]
    assert (await harness.session())["bytes_in"] == len(commands) + len(mail) + 6


@ON_EACH
@pytest.mark.parametrize("side", ["client", "server"])
async def test_side_that_fails_ends_a_session_whose_gate_holds(harness: ProxyHarness, side: str) -> None:
    gone = trio.Event()
    last = (Collect(),) if side == "client" else (WaitFor(gone), Reset())
    server = await harness.server((Send(GREETING), Expect(b"a NOOP\r\n"), *last))
    proxy = await harness.proxy(server.address, **frontend(harness))
    client = await harness.dial(proxy)
    await client.receive_line()
    await client.send(b"a NOOP\r\n" + SPOOF)
    with trio.fail_after(TIMEOUT_S):
        while not server.connections or b"NOOP" not in server.connections[0].received:  # noqa: ASYNC110 - no event
            await trio.sleep(0.005)
    if side == "client":
        client.reset()
    else:
        gone.set()
    line = await harness.session()
    assert line["end"] == f"{side}-aborted"
    assert b"192.0.2.66" not in server.connections[0].received
    client.drop()


@ON_EACH
async def test_client_that_has_closed_waits_for_a_silent_server_no_longer_than_half_closed(
    harness: ProxyHarness,
) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    changes = frontend(harness)
    changes["frontends"]["f"]["timeouts"] = {"half_closed": "100ms"}
    proxy = await harness.proxy(server.address, **changes)
    async with await harness.dial(proxy) as client:
        await client.receive_line()
        await client.send(b"a NOOP\r\nb NOOP\r\nc NOOP\r\n")
        await client.half_close()
        await client.receive_until_end()
    assert (await harness.session())["end"] == "client-timeout"
    assert server.connections[0].received == b"a NOOP\r\n"


@ON_EACH
async def test_client_that_speaks_tls_to_a_clear_port_ends_at_once(harness: ProxyHarness) -> None:
    """Whatever the gate makes of it: half a line that waits does not keep the session."""
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, **frontend(harness))
    async with await harness.dial(proxy) as client:
        await client.receive_line()
        await client.send(b"\x16\x03\x01\0\xf0\n\0" + bytes(200))
    assert (await harness.session())["end"] == "client-closed"


@ON_EACH
async def test_server_of_another_protocol_ends_the_session(harness: ProxyHarness) -> None:
    """Otherwise the client would wait for an answer to its first command until its timeout."""
    server = await harness.server((Send(b"220 mail.example.com ESMTP\r\n"), Collect()))
    proxy = await harness.proxy(server.address, **frontend(harness))
    async with await harness.dial(proxy) as client:
        await client.send(b"a NOOP\r\n")
        with trio.fail_after(TIMEOUT_S):
            await client.receive_until_end()
    line = await harness.session()
    assert line["end"] == "server-aborted"
    assert line["detail"] == "the server's greeting is not one of this protocol: 220 mail.example.com ESMTP"
    assert server.connections[0].received == b""
