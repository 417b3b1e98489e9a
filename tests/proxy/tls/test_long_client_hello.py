"""A ClientHello that fills a TLS record, and one that needs two, pass wherever the proxy reads it."""

from __future__ import annotations

import ssl

import pytest
import trio

from mailproxy.testing import dial, greet_and_echo
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness

NAME = "imap.example.com"
RECORD_MAX = 2**14  # bytes of content (RFC 8446 section 5.1)
RECORD_HEAD_BYTES = 5


def first_flight(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def offer(context: ssl.SSLContext, size: int) -> None:
    """Make a client's hello this long, which is done with the names of application protocols."""
    protocols = ["x" * 200] * 3  # OpenSSL fills up hellos of less than 512 bytes
    context.set_alpn_protocols(protocols)
    missing = size - hello_bytes(first_flight(context))
    many, rest = divmod(missing, 201)
    protocols += ["x" * 200] * (many - 1)
    rest += 201 - 2  # in two names: none may be empty
    protocols += ["x" * (rest // 2), "x" * (rest - rest // 2)]
    context.set_alpn_protocols(protocols)
    assert hello_bytes(first_flight(context)) == size


def hello_bytes(flight: bytes) -> int:
    """Bytes of the message, without the heads of its records."""
    count, place = 0, 0
    while place < len(flight):
        size = int.from_bytes(flight[place + 3 : place + 5], "big")
        count, place = count + size, place + RECORD_HEAD_BYTES + size
    return count


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
@pytest.mark.parametrize("size", [RECORD_MAX - 1, RECORD_MAX, RECORD_MAX + 1, 18 * 1024])
async def test_long_hello(harness: ProxyHarness, mode: str, size: int) -> None:
    is_passed = mode == "passthrough"
    server = await harness.server(
        greet_and_echo(b"* OK ready\r\n"), tls=harness.ca.server_context(NAME) if is_passed else None
    )
    proxy = await harness.proxy(
        server.address,
        tls=not is_passed,
        bind={"mode": mode},
        frontends={"f": {"routes": [{"sni": [NAME], "backend": "b"}]}},
    )
    context = harness.ca.client_context()
    offer(context, size)
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, server_name=NAME)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"* OK ready\r\n"
    client.drop()
    assert (await harness.session())["sni"] == NAME
