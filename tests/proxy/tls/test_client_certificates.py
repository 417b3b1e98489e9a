"""Client certificates: who is let in, who is not and why, what the log and the server hear; and those shown to servers."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

import mailproxy
from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.protocol.proxy_header import Client, Type
from mailproxy.testing import Connection, ThrowAwayCA, dial, greet_and_echo
from tests.support.proxy.header_recorder import HeaderRecorder
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot

GREETING = b"* OK ready\r\n"
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

each_version = pytest.mark.parametrize("version", VERSIONS)


def limited(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def demanding(harness: ProxyHarness, verify: str, **more: Any) -> dict[str, Any]:
    """Changes of a harness's frontend."""
    ca = {} if verify == "none" else {"client_ca": str(harness.ca.pem)}
    return {"frontends": {"f": {"tls": {"client_verify": verify, **ca, **more}}}}


async def talk(client: Connection) -> None:
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
        await client.send(b"a1 NOOP\r\n")
        assert await client.receive_line() == b"a1 NOOP\r\n"
    await client.close()


async def resume(client: Connection, context: ssl.SSLContext, before: Connection) -> None:
    """A handshake that goes on with the session of a connection before it."""
    assert before.tls is not None
    await client._handshake(
        context.wrap_bio(
            client._incoming, client._outgoing, server_hostname="localhost", session=before.tls.session
        )
    )


# Who is let in


@each_version
@pytest.mark.parametrize("shown", [False, True], ids=["without", "with"])
@pytest.mark.parametrize("verify", ["none", "optional", "required"])
async def test_what_is_demanded(harness: ProxyHarness, verify: str, shown: bool, version: str) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, tls=True, **demanding(harness, verify))
    before = ResourceSnapshot.now()
    context = limited(harness.ca.client_context(harness.ca.issue_client("alice") if shown else None), version)
    if verify == "required" and not shown:
        line = await refused(harness, proxy, context, end_reasons.HANDSHAKE_FAILED)
        assert line["detail"] == "peer did not return a certificate"
        assert server.accepted == 0
    else:
        await talk(await dial(proxy.frontends["f"].addresses[0], tls=context))
        line = await harness.session()
        assert line["end"] == "client-closed"
        assert line["client_cn"] == ("alice" if shown and verify != "none" else None)
        assert line["tls_version"] == f"TLSv{version}"
    await before.wait_until_restored()


async def refused(
    harness: ProxyHarness, proxy: mailproxy.Proxy, context: ssl.SSLContext, end: EndReason
) -> Line:
    """The line of a client that gets no handshake."""
    client = await dial(proxy.frontends["f"].addresses[0])
    with trio.fail_after(TIMEOUT_S):
        try:
            await client.start_tls(context)
        except trio.BrokenResourceError:
            assert context.maximum_version is ssl.TLSVersion.TLSv1_2
        else:  # with 1.3 a client is done before its certificate has been looked at
            assert await client.receive_until_end() == b""
    assert client.end == "tls", "it is told by an alert"
    client.drop()
    line = await harness.session()
    assert (line["end"], line["by"], line["phase"]) == (end.name, "client", "handshake")
    return line


@each_version
@pytest.mark.parametrize("verify", ["optional", "required"])
@pytest.mark.parametrize(
    ("fault", "end", "words"),
    [
        ("stranger", end_reasons.CERTIFICATE_REFUSED, "unable to get local issuer certificate"),
        ("stranger with root", end_reasons.CERTIFICATE_CHAIN_REFUSED, "certificate in certificate chain"),
        ("expired", end_reasons.CERTIFICATE_REFUSED, "certificate has expired"),
        ("revoked", end_reasons.CERTIFICATE_REFUSED, "certificate revoked"),
    ],
)
async def test_certificates_that_are_no_good(
    harness: ProxyHarness,
    tmp_path: Path,
    *,
    fault: str,
    end: EndReason,
    words: str,
    verify: str,
    version: str,
) -> None:
    """A bad one is worse than none: it ends the handshake where it is optional, too."""
    ca = harness.ca
    if fault.startswith("stranger"):
        (tmp_path / "other").mkdir()
        other = ThrowAwayCA(tmp_path / "other")
        shown = other.issue_client("alice")
        if fault == "stranger with root":
            shown.write_bytes(shown.read_bytes() + other.pem.read_bytes())
    else:
        past = datetime.now(UTC) - timedelta(days=1) if fault == "expired" else None
        shown = ca.issue_client("alice", folder=tmp_path, not_after=past)
    crl = ca.revoke(*([shown] if fault == "revoked" else []), folder=tmp_path)
    server = await harness.server()
    proxy = await harness.proxy(server.address, tls=True, **demanding(harness, verify, client_crl=str(crl)))
    before = ResourceSnapshot.now()
    line = await refused(harness, proxy, limited(ca.client_context(shown), version), end)
    assert words in line["detail"]
    assert line["client_cn"] is None
    assert server.accepted == 0
    await before.wait_until_restored()


@each_version
async def test_a_revocation_list_lets_the_others_in(
    harness: ProxyHarness, tmp_path: Path, version: str
) -> None:
    good, bad = (harness.ca.issue_client(name, folder=tmp_path) for name in ("alice", "mallory"))
    server = await harness.server(greet_and_echo(GREETING))
    crl = harness.ca.revoke(bad, folder=tmp_path)
    proxy = await harness.proxy(
        server.address, tls=True, **demanding(harness, "required", client_crl=str(crl))
    )
    await talk(
        await dial(proxy.frontends["f"].addresses[0], tls=limited(harness.ca.client_context(good), version))
    )
    assert (await harness.session())["client_cn"] == "alice"


NAMED = ["localhost", "imap.example.com", "a.example.org", "elsewhere.example", None]


@pytest.fixture(scope="module")
def certificates(throw_away_ca: ThrowAwayCA, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two kinds of key for the default, and certificates for other names."""
    folder = tmp_path_factory.mktemp("certificates")
    names = ["localhost", "imap.example.com", "*.example.org"]
    return [
        *(str(throw_away_ca.issue(name, folder=folder)) for name in names),
        str(throw_away_ca.issue("localhost", folder=folder, key_type="rsa")),
    ]


@pytest.mark.parametrize(("version", "routed"), [("1.2", True), ("1.3", True), ("1.3", False)])
@pytest.mark.parametrize("name", NAMED)
async def test_with_each_named_certificate(
    harness: ProxyHarness,
    tmp_path: Path,
    certificates: list[str],
    *,
    name: str | None,
    routed: bool,
    version: str,
) -> None:
    """Choosing by name changes the certificate, and demands nothing less."""
    server = await harness.server(greet_and_echo(GREETING))
    changes = demanding(harness, "required", certificates=certificates)
    if routed:  # the hello has been looked at before
        changes["frontends"]["f"]["routes"] = [{"sni": ["imap.example.com"], "backend": "b"}]
    proxy = await harness.proxy(server.address, tls=True, **changes)
    context = limited(harness.ca.client_context(harness.ca.issue_client("alice", folder=tmp_path)), version)
    context.check_hostname = False
    address = proxy.frontends["f"].addresses[0]
    client = await dial(address, tls=context, server_name=name)
    assert client.tls is not None
    shown: Any = client.tls.getpeercert()
    served_by = {"imap.example.com": "imap.example.com", "a.example.org": "*.example.org"}
    assert shown["subjectAltName"] == (("DNS", served_by.get(name or "", "localhost")),)
    await talk(client)
    line = await harness.session()
    assert (line["client_cn"], line["sni"]) == ("alice", name)

    bare = limited(harness.ca.client_context(), version)
    bare.check_hostname = False
    client = await dial(address)
    with trio.fail_after(TIMEOUT_S):
        try:
            await client.start_tls(bare, name)
            await client.receive_until_end()
        except trio.BrokenResourceError:
            pass
    client.drop()
    assert (await harness.sessions(2))[1]["detail"] == "peer did not return a certificate"
    assert server.accepted == 1


# What is heard of it


async def test_in_the_text_log(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    log = tmp_path / "text.log"
    proxy = await harness.proxy(
        server.address, tls=True, log={"format": "text", "to": str(log)}, **demanding(harness, "required")
    )
    context = harness.ca.client_context(harness.ca.issue_client("alice"))
    await talk(await dial(proxy.frontends["f"].addresses[0], tls=context))
    assert " for localhost as alice client-closed " in await harness.wait_for_line(log, "client-closed")


@pytest.mark.parametrize("name", ["al\nice", "alice\x1b[31m", "alice\0.example.com", "al\u2028ice"])
async def test_a_name_that_is_not_printable_is_none(harness: ProxyHarness, tmp_path: Path, name: str) -> None:
    """Whatever a CA signs: nobody writes a second line, or to a terminal, or is another user behind a zero byte."""
    server = HeaderRecorder(greet_and_echo(GREETING))
    await harness.nursery.start(server.serve)
    proxy = await harness.proxy(
        server.address,
        tls=True,
        **demanding(harness, "required"),
        backends={"b": {"send_proxy": "v2-ssl-cn"}},
    )
    file = tmp_path / "odd.pem"
    file.write_bytes(harness.ca._ca.issue_cert(common_name=name).private_key_and_cert_chain_pem.bytes())
    await talk(await dial(proxy.frontends["f"].addresses[0], tls=harness.ca.client_context(file)))
    line = await harness.session()
    assert (line["end"], line["client_cn"]) == ("client-closed", None)
    assert server.ssl.client == Client.SSL | Client.CERT_CONN | Client.CERT_SESS
    assert server.ssl.value_of(Type.SSL_CN) is None


async def test_a_certificate_without_a_name(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, tls=True, **demanding(harness, "required"))
    nameless = harness.ca.issue("alice.example.com", folder=tmp_path)  # only another kind of name
    await talk(await dial(proxy.frontends["f"].addresses[0], tls=harness.ca.client_context(nameless)))
    line = await harness.session()
    assert (line["end"], line["client_cn"]) == ("client-closed", None)


@each_version
@pytest.mark.parametrize("shown", [False, True], ids=["without", "with"])
async def test_what_the_server_is_told(harness: ProxyHarness, shown: bool, version: str) -> None:
    """With a new TLS session, and with one that goes on: then the certificate was shown before (PROXY 2.2.6)."""
    server = HeaderRecorder(greet_and_echo(GREETING))
    await harness.nursery.start(server.serve)
    changes = demanding(harness, "optional")
    proxy = await harness.proxy(
        server.address,
        tls=True,
        **changes,
        backends={"b": {"send_proxy": "v2-ssl-cn", "send_proxy_tlvs": ["client-cert"]}},
    )
    address = proxy.frontends["f"].addresses[0]
    context = limited(harness.ca.client_context(harness.ca.issue_client("alice") if shown else None), version)
    first = await dial(address, tls=context)
    await talk(first)
    name, both = (b"alice", Client.CERT_CONN | Client.CERT_SESS) if shown else (None, Client(0))
    assert (server.ssl.client, server.ssl.verify) == (Client.SSL | both, 0)
    assert server.ssl.value_of(Type.SSL_CN) == name
    certificate = server.ssl.value_of(Type.SSL_CLIENT_CERT)
    assert (certificate is not None) == shown

    second = await dial(address)
    await resume(second, context, first)
    assert second.tls is not None
    assert second.tls.session_reused
    await talk(second)
    before = Client.CERT_SESS if shown else Client(0)
    assert (server.ssl.client, server.ssl.verify) == (Client.SSL | before, 0)
    assert server.ssl.value_of(Type.SSL_CN) == name
    assert server.ssl.value_of(Type.SSL_CLIENT_CERT) == certificate
    lines = await harness.sessions(2)
    assert [line["client_cn"] for line in lines] == ["alice" if shown else None] * 2
    assert [line["sni"] for line in lines] == ["localhost"] * 2


@each_version
async def test_a_session_is_good_at_its_own_bind_only(harness: ProxyHarness, version: str) -> None:
    """One begun where no certificate is demanded opens no door where one is."""
    server = await harness.server(greet_and_echo(GREETING))
    certified = {"certificates": [str(harness.pem)]}
    mapping = harness.mapping(server.address, tls=True)
    bind = mapping["frontends"]["f"]["bind"][0]
    demand = {**certified, "client_verify": "required", "client_ca": str(harness.ca.pem)}
    mapping["frontends"]["f"]["bind"] = [bind, {**bind, "name": "C", "tls": demand}]
    proxy = await harness.run_proxy(mapping)
    free, guarded = proxy.frontends["f"].addresses
    context = limited(harness.ca.client_context(), version)
    first = await dial(free, tls=context)
    await talk(first)
    second = await dial(guarded)
    with trio.fail_after(TIMEOUT_S):
        try:
            await resume(second, context, first)
            await second.receive_until_end()
        except trio.BrokenResourceError:
            pass
    second.drop()
    lines = await harness.sessions(2)
    assert (lines[1]["bind"], lines[1]["end"]) == ("C", "handshake-failed")
    assert server.accepted == 1


# Towards servers


def guarded_server(harness: ProxyHarness) -> ssl.SSLContext:
    context = harness.ca.server_context("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(harness.ca.pem)
    return context


@each_version
@pytest.mark.parametrize("split", [False, True], ids=["one-file", "two-files"])
async def test_shown_to_a_server(harness: ProxyHarness, tmp_path: Path, split: bool, version: str) -> None:
    server = await harness.server(greet_and_echo(GREETING), tls=limited(guarded_server(harness), version))
    pem = harness.ca.issue_client("the proxy", folder=tmp_path)
    tls = {"certificate": str(pem)}
    if split:
        text = pem.read_text()
        border = text.index("-----BEGIN CERTIFICATE")
        (tmp_path / "proxy.crt").write_text(text[border:])
        (tmp_path / "secret.pem").write_text(text[:border])
        tls = {"certificate": str(tmp_path / "proxy.crt"), "key": str(tmp_path / "secret.pem")}
    proxy = await harness.proxy(server.address, server_tls=True, backends={"b": {"tls": tls}})
    await talk(await harness.dial(proxy))
    connection = server.connections[0]
    assert connection.tls is not None
    shown: Any = connection.tls.getpeercert()
    assert (("commonName", "the proxy"),) in shown["subject"]
    assert (await harness.session())["end"] == "client-closed"


@each_version
async def test_a_server_that_demands_one_in_vain(harness: ProxyHarness, version: str) -> None:
    """With 1.3 the handshake is over on our side before the server says that it is not content."""
    server = await harness.server(tls=limited(guarded_server(harness), version))
    proxy = await harness.proxy(server.address, server_tls=True)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    await before.wait_until_restored()
    assert line["end"] == ("server-handshake-failed" if version == "1.2" else "server-aborted")
    assert "certificate required" in line["detail"] or "handshake failure" in line["detail"]
