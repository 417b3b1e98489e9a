"""The TLS handshake with clients: certificates, versions, and how failed handshakes are logged."""

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
SHORT_TIMEOUT: dict[str, Any] = {"frontends": {"f": {"timeouts": {"handshake": "300ms"}}}}


async def log_of_failed_handshake(harness: ProxyHarness, sent: bytes, ending: str, **changes: Any) -> Line:
    """Return the log line of a client that sends these bytes, then closes, resets or stays."""
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True, **changes)
    before = ResourceSnapshot.now()
    client = await dial(proxy.frontends["f"].addresses[0])
    if sent:
        await client.send(sent)
    if ending == "close":
        client.drop()
    elif ending == "reset":
        client.reset()
    line = await harness.session()
    with trio.fail_after(TIMEOUT_S):
        if ending == "stay":
            await client.receive_until_end()
            client.drop()
    await before.wait_until_restored()
    assert server.accepted == 0, "no server is connected before the handshake is done"
    assert line["phase"] == "handshake"
    assert line["state"] is None
    return line


def client_hello(context: ssl.SSLContext | None = None) -> bytes:
    """Return a ClientHello for the server name localhost."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = (context or ssl.create_default_context()).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("ending", ["stay", "close"])
async def test_clear_text_fails_handshake(harness: ProxyHarness, ending: str) -> None:
    line = await log_of_failed_handshake(harness, b"a1 LOGIN user secret-password\r\n", ending)
    assert line["end"] == "handshake-failed"
    assert line["detail"], "the line has OpenSSL's reason"
    assert "secret-password" not in harness.log.read_text()


async def test_close_without_data(harness: ProxyHarness) -> None:
    assert (await log_of_failed_handshake(harness, b"", "close"))["end"] == "handshake-empty"


async def test_close_without_data_is_not_logged_by_default(harness: ProxyHarness) -> None:
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


async def test_reset_without_data(harness: ProxyHarness) -> None:
    assert (await log_of_failed_handshake(harness, b"", "reset"))["end"] == "handshake-failed"


async def test_close_within_client_hello(harness: ProxyHarness) -> None:
    assert (await log_of_failed_handshake(harness, client_hello()[:100], "close"))["end"] == "handshake-left"


async def test_reset_within_client_hello(harness: ProxyHarness) -> None:
    assert (await log_of_failed_handshake(harness, client_hello()[:100], "reset"))[
        "end"
    ] == "handshake-failed"


@pytest.mark.parametrize("size", [0, 3, 100, 10_000])
async def test_unfinished_handshake_times_out(harness: ProxyHarness, size: int) -> None:
    line = await log_of_failed_handshake(harness, client_hello()[:size], "stay", **SHORT_TIMEOUT)
    assert line["end"] == "handshake-timeout"
    assert 300 <= line["total_ms"] < 5000


async def test_slow_client_hello_does_not_extend_timeout(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True, **SHORT_TIMEOUT)
    client = await dial(proxy.frontends["f"].addresses[0])
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.send_in_pieces(client_hello(), 1, 0.02)
    client.drop()
    assert (await harness.session())["end"] == "handshake-timeout"


async def test_client_hello_byte_by_byte(harness: ProxyHarness) -> None:
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


async def test_old_tls_version_is_rejected(harness: ProxyHarness) -> None:
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


async def test_client_without_trust_sends_alert(harness: ProxyHarness, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    untrusting = ThrowAwayCA(tmp_path / "other").client_context()
    untrusting.maximum_version = (
        ssl.TLSVersion.TLSv1_2
    )  # with 1.3 the alert comes after the proxy's side is done
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True)
    with pytest.raises(trio.BrokenResourceError):
        await dial(proxy.frontends["f"].addresses[0], tls=untrusting)
    line = await harness.session()
    assert line["end"] == "handshake-failed"
    assert "unknown ca" in line["detail"]


async def test_tls_facts_are_logged(harness: ProxyHarness) -> None:
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


@pytest.mark.parametrize("has_close_notify", [True, False])
async def test_close_notify_and_bare_fin_are_distinguished(
    harness: ProxyHarness, has_close_notify: bool
) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True)
    client = await harness.dial(proxy, tls=True)
    await client.receive_line()
    if has_close_notify:
        await client.close()
    else:
        client.drop()
    line = await harness.session()
    assert (line["end"], line["state"], line["close_notify"]) == ("client-closed", "--", has_close_notify)


def certificate(connection: Connection) -> dict[str, object]:
    assert connection.tls is not None
    peer_certificate = connection.tls.getpeercert()
    assert peer_certificate is not None
    return dict(peer_certificate)


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
    # The wildcard matches exactly one label. All other names get the default certificate.
    for asked in ["deep.mail.example.org", "example.org", "elsewhere.example"]:
        client = await dial(proxy.frontends["f"].addresses[0], tls=lenient, server_name=asked)
        assert certificate(client)["subjectAltName"] == (("DNS", "localhost"),), asked
        client.drop()


async def test_rsa_and_ecdsa_side_by_side(harness: ProxyHarness) -> None:
    paths = [
        str(harness.ca.issue("localhost", key_type="ec")),
        str(harness.ca.issue("localhost", key_type="rsa")),
    ]
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True, frontends={"f": {"tls": {"certificates": paths}}})
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


async def test_stuck_handshakes_do_not_delay_others(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, tls=True)
    stuck = [await dial(proxy.frontends["f"].addresses[0]) for _ in range(20)]
    for client in stuck[::2]:
        await client.send(client_hello()[:50])
    working = await harness.dial(proxy, tls=True)
    assert await working.receive_line() == GREETING
    await working.send(b"a1 NOOP\r\n")
    assert await working.receive_line() == b"a1 NOOP\r\n"
    for client in (*stuck, working):
        client.drop()
