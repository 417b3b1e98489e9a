"""A ClientHello that fills one TLS record or needs two is read when TLS is terminated or passed through."""

from __future__ import annotations

import ssl

import pytest
import trio

from mailproxy.testing import dial, greet_and_echo
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness

NAME = "imap.example.com"
RECORD_MAX = 2**14  # bytes of content (RFC 8446 section 5.1)
RECORD_HEAD_BYTES = 5


def client_hello_records(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def set_client_hello_bytes(context: ssl.SSLContext, size: int) -> None:
    """Pad the ClientHello of a context to ``size`` bytes with names of application protocols."""
    protocols = ["x" * 200] * 3  # OpenSSL pads a shorter ClientHello to 512 bytes
    context.set_alpn_protocols(protocols)
    missing_bytes = size - message_bytes(client_hello_records(context))
    full_names, rest = divmod(missing_bytes, 201)
    protocols += ["x" * 200] * (full_names - 1)
    rest += 201 - 2  # two names with a length byte each, because no name may be empty
    protocols += ["x" * (rest // 2), "x" * (rest - rest // 2)]
    context.set_alpn_protocols(protocols)
    assert message_bytes(client_hello_records(context)) == size


def message_bytes(records: bytes) -> int:
    """Return the length of the message without the headers of its records."""
    count, offset = 0, 0
    while offset < len(records):
        size = int.from_bytes(records[offset + 3 : offset + 5], "big")
        count, offset = count + size, offset + RECORD_HEAD_BYTES + size
    return count


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
@pytest.mark.parametrize("size", [RECORD_MAX - 1, RECORD_MAX, RECORD_MAX + 1, 18 * 1024])
async def test_long_client_hello(harness: ProxyHarness, mode: str, size: int) -> None:
    is_passthrough = mode == "passthrough"
    server = await harness.server(
        greet_and_echo(b"* OK ready\r\n"), tls=harness.ca.server_context(NAME) if is_passthrough else None
    )
    proxy = await harness.proxy(
        server.address,
        tls=not is_passthrough,
        bind={"mode": mode},
        frontends={"f": {"routes": [{"sni": [NAME], "backend": "b"}]}},
    )
    context = harness.ca.client_context()
    set_client_hello_bytes(context, size)
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, server_name=NAME)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"* OK ready\r\n"
    client.drop()
    assert (await harness.session())["sni"] == NAME
