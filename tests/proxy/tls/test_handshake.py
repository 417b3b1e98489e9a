"""The TLS handshake with clients: who gets through, with which certificate, and how the others end."""

from __future__ import annotations

import socket
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
import trio

from mailproxy.testing import Connection, ThrowAwayCA, dial, greet_and_echo
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot

GREETING = b"* OK ready\r\n"
QUICK: dict[str, Any] = {"frontends": {"f": {"timeouts": {"handshake": "300ms"}}}}


async def handshake_line(harness: ProxyHarness, said: bytes, leave: str, **changes: Any) -> Line:
    """The line of a session whose client says something that is no handshake, then leaves in this way or stays."""
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True, **changes)
    before = ResourceSnapshot.now()
    client = await dial(proxy.frontends["f"].addresses[0])
    if said:
        await client.send(said)
    if leave == "close":
        client.drop()
    elif leave == "reset":
        client.reset()
    line = await harness.session()
    with trio.fail_after(TIMEOUT_S):
        if leave == "stay":
            await client.receive_until_end()
            client.drop()
    await before.wait_until_restored()
    assert server.accepted == 0, "nobody is connected to a server before the handshake is done"
    assert line["phase"] == "handshake"
    assert line["state"] is None
    return line


def hello(context: ssl.SSLContext | None = None) -> bytes:
    """A ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = (context or ssl.create_default_context()).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("leave", ["stay", "close"])
async def test_clear_text(harness: ProxyHarness, leave: str) -> None:
    line = await handshake_line(harness, b"a1 LOGIN user secret-password\r\n", leave)
    assert line["end"] == "handshake-failed"
    assert line["detail"], "OpenSSL's reason is there"
    assert "secret-password" not in harness.log.read_text()


async def test_nothing_and_closed(harness: ProxyHarness) -> None:
    assert (await handshake_line(harness, b"", "close"))["end"] == "handshake-empty"


async def test_nothing_and_closed_is_not_logged_by_default(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True, frontends={"f": {"log_null": False}})
    for _ in range(3):
        (await dial(proxy.frontends["f"].addresses[0])).drop()
    client = await dial(proxy.frontends["f"].addresses[0])
    await client.send(b"clear text\r\n")
    assert (await harness.session())["end"] == "handshake-failed"
    client.drop()
    await harness.wait_until_idle()
    assert len(await harness.sessions(1)) == 1


async def test_nothing_and_reset(harness: ProxyHarness) -> None:
    assert (await handshake_line(harness, b"", "reset"))["end"] == "handshake-failed"


async def test_half_a_hello_and_closed(harness: ProxyHarness) -> None:
    assert (await handshake_line(harness, hello()[:100], "close"))["end"] == "handshake-left"


async def test_half_a_hello_and_reset(harness: ProxyHarness) -> None:
    assert (await handshake_line(harness, hello()[:100], "reset"))["end"] == "handshake-failed"


@pytest.mark.parametrize("size", [0, 3, 100, 10_000])
async def test_never_finished(harness: ProxyHarness, size: int) -> None:
    line = await handshake_line(harness, hello()[:size], "stay", **QUICK)
    assert line["end"] == "handshake-timeout"
    assert 300 <= line["total_ms"] < 5000


async def test_trickling_does_not_stretch_the_limit(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True, **QUICK)
    client = await dial(proxy.frontends["f"].addresses[0])
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.send_in_pieces(hello(), 1, 0.02)
    client.drop()
    assert (await harness.session())["end"] == "handshake-timeout"


async def test_hello_byte_by_byte(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True)
    host, port = proxy.frontends["f"].addresses[0].rsplit(":", 1)
    sock = trio.socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await sock.connect((host, int(port)))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = harness.ca.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with trio.fail_after(TIMEOUT_S):
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    await sock.send(bytes([byte]))
                incoming.write(await sock.recv(65536))
    sock.close()


async def test_old_version(harness: ProxyHarness) -> None:
    context = harness.ca.client_context()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True)
    with pytest.raises(trio.BrokenResourceError):
        await dial(proxy.frontends["f"].addresses[0], tls=context)
    line = await harness.session()
    assert line["end"] == "handshake-failed"
    assert "unsupported protocol" in line["detail"]


async def test_client_that_does_not_trust_us(harness: ProxyHarness, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = ThrowAwayCA(tmp_path / "other").client_context()
    stranger.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 the alert comes after our side is done
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True)
    with pytest.raises(trio.BrokenResourceError):
        await dial(proxy.frontends["f"].addresses[0], tls=stranger)
    line = await harness.session()
    assert line["end"] == "handshake-failed"
    assert "unknown ca" in line["detail"]


async def test_facts_in_the_log(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True)
    client = await harness.dial(proxy, tls=True, server_name="imap.example.com")
    await client.receive_line()
    await client.close()
    line = await harness.session()
    assert line["tls_version"] == "TLSv1.3"
    assert line["tls_cipher"].startswith("TLS_")
    assert line["sni"] == "imap.example.com"
    assert line["close_notify"] is True


@pytest.mark.parametrize("orderly", [True, False])
async def test_close_notify_is_told_from_a_bare_fin(harness: ProxyHarness, orderly: bool) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True)
    client = await harness.dial(proxy, tls=True)
    await client.receive_line()
    if orderly:
        await client.close()
    else:
        client.drop()
    line = await harness.session()
    assert (line["end"], line["state"], line["close_notify"]) == ("client-closed", "--", orderly)


def certificate(connection: Connection) -> dict[str, object]:
    assert connection.tls is not None
    found = connection.tls.getpeercert()
    assert found is not None
    return dict(found)


async def test_certificate_by_server_name(harness: ProxyHarness, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    for number, name in enumerate(["localhost", "imap.example.com", "*.example.org"]):
        harness.ca.issue(name).rename(folder / f"{number}.pem")
    server = await harness.server()
    proxy = await harness.proxy(
        server.address, tls=True, frontends={"f": {"tls": {"certificates": [str(folder)]}}}
    )
    for asked, got in {
        "localhost": "localhost",
        "imap.example.com": "imap.example.com",
        "IMAP.example.COM": "imap.example.com",
        "mail.example.org": "*.example.org",
    }.items():
        client = await harness.dial(proxy, tls=True, server_name=asked)
        assert certificate(client)["subjectAltName"] == (("DNS", got),), asked
        client.drop()
    lenient = harness.ca.client_context()
    lenient.check_hostname = False
    for asked in [
        "deep.mail.example.org",
        "example.org",
        "elsewhere.example",
    ]:  # one label for a star; else the default
        client = await dial(proxy.frontends["f"].addresses[0], tls=lenient, server_name=asked)
        assert certificate(client)["subjectAltName"] == (("DNS", "localhost"),), asked
        client.drop()


async def test_rsa_and_ecdsa_side_by_side(harness: ProxyHarness) -> None:
    places = [
        str(harness.ca.issue("localhost", key_type="ec")),
        str(harness.ca.issue("localhost", key_type="rsa")),
    ]
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True, frontends={"f": {"tls": {"certificates": places}}})
    for algorithm in ("ECDSA", "RSA"):
        context = harness.ca.client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"ECDHE-{algorithm}-AES128-GCM-SHA256")
        client = await dial(proxy.frontends["f"].addresses[0], tls=context)
        assert client.tls is not None
        assert client.tls.cipher() == (f"ECDHE-{algorithm}-AES128-GCM-SHA256", "TLSv1.2", 128)
        client.drop()


async def test_lowest_version_and_alpn(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(
        server.address, tls=True, frontends={"f": {"tls": {"min_version": "1.3", "alpn": ["imap"]}}}
    )
    old = harness.ca.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(trio.BrokenResourceError):
        await dial(proxy.frontends["f"].addresses[0], tls=old)
    new = harness.ca.client_context()
    new.set_alpn_protocols(["imap"])
    client = await dial(proxy.frontends["f"].addresses[0], tls=new)
    assert client.tls is not None
    assert client.tls.selected_alpn_protocol() == "imap"
    client.drop()


async def test_a_stuck_handshake_harms_nobody(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, tls=True)
    stuck = [await dial(proxy.frontends["f"].addresses[0]) for _ in range(20)]
    for client in stuck[::2]:
        await client.send(hello()[:50])
    good = await harness.dial(proxy, tls=True)
    assert await good.receive_line() == GREETING
    await good.send(b"a1 NOOP\r\n")
    assert await good.receive_line() == b"a1 NOOP\r\n"
    for client in (*stuck, good):
        client.drop()
