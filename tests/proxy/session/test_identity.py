"""What servers learn of the client without a PROXY header, and what a client must not claim itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mailproxy.testing import EchoLines, Send
from mailproxy.testing.playbook import Collect, Expect, ExpectLine, Step
from tests.support.proxy.mail_servers import GREETINGS, receive_greeting, upgrade
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.proxy.relays import ON_EACH

XCLIENT: Mapping[str, tuple[Step, ...]] = {
    "pop3": (Send(b"+OK [XCLIENT] server\r\n"), ExpectLine(), Send(b"+OK Updated\r\n")),
    "submission": (
        Send(b"220 server.example first\r\n"),
        ExpectLine(),
        Send(b"250-server.example\r\n250 XCLIENT ADDR PORT\r\n"),
        ExpectLine(),
        Send(b"220 server.example again\r\n"),
    ),
    "sieve": (
        Send(b'"IMPLEMENTATION" "server"\r\n"XCLIENT"\r\nOK "server"\r\n'),
        ExpectLine(),
        Send(b'OK "Updated"\r\n'),
    ),
    "imap": (Send(GREETINGS["imap"]), ExpectLine(), Send(b"* ID NIL\r\np1 OK\r\n")),
}
LOGIN = {
    "imap": (b"l LOGIN x y\r\n", b"l OK in\r\n"),
    "pop3": (b"PASS y\r\n", b"+OK in\r\n"),
    "submission": (b"AUTH PLAIN eA==\r\n", b"235 in\r\n"),
    "sieve": (b'AUTHENTICATE "PLAIN" "eA=="\r\n', b'OK "in"\r\n'),
}


def frontend(harness: ProxyHarness, protocol: str, mode: str, identity: str) -> dict[str, Any]:
    frontend: dict[str, Any] = {"protocol": protocol}
    if mode != "forward":
        frontend["tls"] = {"certificates": [str(harness.pem)]}
    return {
        "bind": {"mode": mode},
        "frontends": {"f": frontend},
        "backends": {"b": {"identity": identity, "protocol": protocol}},
    }


@ON_EACH
@pytest.mark.parametrize("mode", ["starttls", "tls", "forward"])
@pytest.mark.parametrize("protocol", XCLIENT)
async def test_server_is_told_of_the_client(harness: ProxyHarness, protocol: str, mode: str) -> None:
    command, answer = LOGIN[protocol]
    server = await harness.server((*XCLIENT[protocol], Expect(command), Send(answer), EchoLines()))
    identity = "id" if protocol == "imap" else "xclient"
    proxy = await harness.proxy(server.address, **frontend(harness, protocol, mode, identity))
    async with await harness.dial(proxy, tls=mode == "tls") as client:
        if mode == "starttls":
            await upgrade(client, protocol, harness.ca.client_context())
        if mode != "starttls" or protocol == "sieve":
            greeting = await receive_greeting(client, protocol)
            assert b"server" in greeting
            assert (b"again" in greeting) == (protocol == "submission")
        await client.send(command)
        assert await client.receive_line() == answer
        await client.send(b"XCLIENT is harmless now\r\n")
        assert await client.receive_line() == b"XCLIENT is harmless now\r\n"
        host, port = client.stream.socket.getsockname()
    told = bytes(server.connections[0].received)
    if protocol == "imap":
        assert f'"x-originating-ip" "{host}" "x-originating-port" "{port}"'.encode() in told
    else:
        assert f"ADDR={host} PORT={port}".encode() in told
    line = await harness.session()
    assert line["end"] == "client-closed"
    assert line["bytes_in"] == len(command) + len(b"XCLIENT is harmless now\r\n")


@pytest.mark.parametrize("identity", ["xclient", "none"])
async def test_client_cannot_pose_as_a_proxy(harness: ProxyHarness, identity: str) -> None:
    greeting = Send(b"+OK server\r\n")
    server = await harness.server((greeting, ExpectLine(), Send(b"-ERR\r\n"), Expect(b"QUIT\r\n"), Collect()))
    proxy = await harness.proxy(server.address, **frontend(harness, "pop3", "forward", identity))
    async with await harness.dial(proxy) as client:
        assert await client.receive_line() == b"+OK server\r\n"
        await client.send(b"XCLIENT ADDR=192.0.2.66\r\nQUIT\r\n")
        assert await client.receive_line() == b"-ERR\r\n"
        await client.half_close()
    await harness.session()
    assert b"192.0.2.66" not in server.connections[0].received


async def test_server_that_does_not_take_it_serves_with_one_warning(harness: ProxyHarness) -> None:
    server = await harness.server((Send(b"+OK server\r\n"), EchoLines()))
    proxy = await harness.proxy(server.address, **frontend(harness, "pop3", "tls", "xclient"))
    for _ in range(2):
        async with await harness.dial(proxy, tls=True) as client:
            assert await client.receive_line() == b"+OK server\r\n"
    await harness.sessions(2)
    (line,) = await harness.events("identity-refused")
    assert line["level"] == "warning"


async def test_session_that_goes_in_circles_is_refused(harness: ProxyHarness) -> None:
    server = await harness.server((*XCLIENT["imap"], Collect()))
    proxy = await harness.proxy(server.address, **frontend(harness, "imap", "tls", "id"))
    async with await harness.dial(proxy, tls=True) as client:
        await client.receive_line()
        await client.send(b'a ID ("x-proxy-ttl" "1")\r\n')
        await client.receive_until_end()
    line = await harness.session()
    assert "too many proxies" in line["detail"]
