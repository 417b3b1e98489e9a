"""Test your own client against servers that misbehave, with the proxy between them as in production."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from mailproxy.testing import Reset, ScriptedServer, Send, greet_and_echo

if TYPE_CHECKING:
    from mailproxy.testing.fixtures import RunProxy

pytest_plugins = ["mailproxy.testing.fixtures"]


async def fetch_greeting(address: str) -> str:
    """Your own client: connect and return the greeting, or raise ConnectionError."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        try:
            data = await stream.receive_some()
        except trio.BrokenResourceError as error:
            raise ConnectionError("connection lost before the greeting") from error
    if not data:
        raise ConnectionError("connection closed before the greeting")
    return data.decode().strip()


async def proxy_to(server: ScriptedServer, run_proxy: RunProxy, nursery: trio.Nursery) -> str:
    """Start the server and a proxy in front of it, and return the proxy's address."""
    await nursery.start(server.serve)
    proxy = await run_proxy(
        {
            "frontends": {"imap": {"backend": "mail", "bind": ["127.0.0.1:0"]}},
            "backends": {"mail": {"check": False, "servers": [server.address]}},
        }
    )
    return proxy.frontends["imap"].addresses[0]


@pytest.mark.trio
async def test_client_returns_the_greeting(run_proxy: RunProxy, nursery: trio.Nursery) -> None:
    server = ScriptedServer(greet_and_echo(b"* OK ready\r\n"))
    address = await proxy_to(server, run_proxy, nursery)
    assert await fetch_greeting(address) == "* OK ready"


@pytest.mark.trio
async def test_client_reports_a_server_that_resets(run_proxy: RunProxy, nursery: trio.Nursery) -> None:
    address = await proxy_to(ScriptedServer([Reset()]), run_proxy, nursery)
    with pytest.raises(ConnectionError, match="before the greeting"):
        await fetch_greeting(address)


@pytest.mark.trio
async def test_client_does_not_need_a_whole_line(run_proxy: RunProxy, nursery: trio.Nursery) -> None:
    address = await proxy_to(ScriptedServer([Send(b"* OK")]), run_proxy, nursery)
    assert await fetch_greeting(address) == "* OK"
