"""Client certificates: acceptance, log, PROXY header, and the certificate towards servers."""

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


def limit_version(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def verify_options(harness: ProxyHarness, verify: str, **tls: Any) -> dict[str, Any]:
    """Return options of a harness's proxy that verify clients in this way."""
    ca = {} if verify == "none" else {"client_ca": str(harness.ca.pem)}
    return {"frontends": {"f": {"tls": {"client_verify": verify, **ca, **tls}}}}


async def talk_and_close(client: Connection) -> None:
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
        await client.send(b"a1 NOOP\r\n")
        assert await client.receive_line() == b"a1 NOOP\r\n"
    await client.close()


async def resume(client: Connection, context: ssl.SSLContext, previous: Connection) -> None:
    """Make a handshake that resumes the TLS session of an earlier connection."""
    assert previous.tls is not None
    await client._handshake(
        context.wrap_bio(
            client._incoming, client._outgoing, server_hostname="localhost", session=previous.tls.session
        )
    )


# Acceptance


@each_version
@pytest.mark.parametrize("has_certificate", [False, True], ids=["without", "with"])
@pytest.mark.parametrize("verify", ["none", "optional", "required"])
async def test_verify_modes(harness: ProxyHarness, verify: str, has_certificate: bool, version: str) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, tls=True, **verify_options(harness, verify))
    resources_before = ResourceSnapshot.now()
    context = limit_version(
        harness.ca.client_context(harness.ca.issue_client("alice") if has_certificate else None), version
    )
    if verify == "required" and not has_certificate:
        line = await log_of_refused_client(harness, proxy, context, end_reasons.HANDSHAKE_FAILED)
        assert line["detail"] == "peer did not return a certificate"
        assert server.accepted == 0
    else:
        await talk_and_close(await dial(proxy.frontends["f"].addresses[0], tls=context))
        line = await harness.session()
        assert line["end"] == "client-closed"
        assert line["client_cn"] == ("alice" if has_certificate and verify != "none" else None)
        assert line["tls_version"] == f"TLSv{version}"
    await resources_before.wait_until_restored()


async def log_of_refused_client(
    harness: ProxyHarness, proxy: mailproxy.Proxy, context: ssl.SSLContext, end: EndReason
) -> Line:
    """Connect a client whose handshake fails; return its log line."""
    client = await dial(proxy.frontends["f"].addresses[0])
    with trio.fail_after(TIMEOUT_S):
        try:
            await client.start_tls(context)
        except trio.BrokenResourceError:
            assert context.maximum_version is ssl.TLSVersion.TLSv1_2
        else:  # with 1.3 a client is done before its certificate is verified
            assert await client.receive_until_end() == b""
    assert client.end == "tls", "the connection ends with an alert"
    client.drop()
    line = await harness.session()
    assert (line["end"], line["by"], line["phase"]) == (end.name, "client", "handshake")
    return line


@each_version
@pytest.mark.parametrize("verify", ["optional", "required"])
@pytest.mark.parametrize(
    ("certificate_kind", "end", "expected_detail"),
    [
        ("unknown CA", end_reasons.CERTIFICATE_REFUSED, "unable to get local issuer certificate"),
        ("unknown CA with root", end_reasons.CERTIFICATE_CHAIN_REFUSED, "certificate in certificate chain"),
        ("expired", end_reasons.CERTIFICATE_REFUSED, "certificate has expired"),
        ("revoked", end_reasons.CERTIFICATE_REFUSED, "certificate revoked"),
    ],
)
async def test_invalid_certificate_is_refused(
    harness: ProxyHarness,
    tmp_path: Path,
    *,
    certificate_kind: str,
    end: EndReason,
    expected_detail: str,
    verify: str,
    version: str,
) -> None:
    """An invalid certificate ends the handshake also where certificates are optional."""
    ca = harness.ca
    if certificate_kind.startswith("unknown CA"):
        (tmp_path / "other").mkdir()
        other = ThrowAwayCA(tmp_path / "other")
        certificate = other.issue_client("alice")
        if certificate_kind == "unknown CA with root":
            certificate.write_bytes(certificate.read_bytes() + other.pem.read_bytes())
    else:
        past = datetime.now(UTC) - timedelta(days=1) if certificate_kind == "expired" else None
        certificate = ca.issue_client("alice", folder=tmp_path, not_after=past)
    crl = ca.revoke(*([certificate] if certificate_kind == "revoked" else []), folder=tmp_path)
    server = await harness.server()
    proxy = await harness.proxy(
        server.address, tls=True, **verify_options(harness, verify, client_crl=str(crl))
    )
    resources_before = ResourceSnapshot.now()
    line = await log_of_refused_client(
        harness, proxy, limit_version(ca.client_context(certificate), version), end
    )
    assert expected_detail in line["detail"]
    assert line["client_cn"] is None
    assert server.accepted == 0
    await resources_before.wait_until_restored()


@each_version
async def test_revocation_list_accepts_other_certificates(
    harness: ProxyHarness, tmp_path: Path, version: str
) -> None:
    good, bad = (harness.ca.issue_client(name, folder=tmp_path) for name in ("alice", "mallory"))
    server = await harness.server(greet_and_echo(GREETING))
    crl = harness.ca.revoke(bad, folder=tmp_path)
    proxy = await harness.proxy(
        server.address, tls=True, **verify_options(harness, "required", client_crl=str(crl))
    )
    await talk_and_close(
        await dial(
            proxy.frontends["f"].addresses[0], tls=limit_version(harness.ca.client_context(good), version)
        )
    )
    assert (await harness.session())["client_cn"] == "alice"


SERVER_NAMES = ["localhost", "imap.example.com", "a.example.org", "elsewhere.example", None]


@pytest.fixture(scope="module")
def certificates(throw_away_ca: ThrowAwayCA, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Certificates for several names, with two key types for the default."""
    folder = tmp_path_factory.mktemp("certificates")
    names = ["localhost", "imap.example.com", "*.example.org"]
    return [
        *(str(throw_away_ca.issue(name, folder=folder)) for name in names),
        str(throw_away_ca.issue("localhost", folder=folder, key_type="rsa")),
    ]


@pytest.mark.parametrize(("version", "has_route"), [("1.2", True), ("1.3", True), ("1.3", False)])
@pytest.mark.parametrize("name", SERVER_NAMES)
async def test_verification_with_each_server_name(
    harness: ProxyHarness,
    tmp_path: Path,
    certificates: list[str],
    *,
    name: str | None,
    has_route: bool,
    version: str,
) -> None:
    """The server name selects the certificate. The verification of clients stays the same."""
    server = await harness.server(greet_and_echo(GREETING))
    changes = verify_options(harness, "required", certificates=certificates)
    if has_route:  # the ClientHello is peeked at before the handshake
        changes["frontends"]["f"]["routes"] = [{"sni": ["imap.example.com"], "backend": "b"}]
    proxy = await harness.proxy(server.address, tls=True, **changes)
    context = limit_version(
        harness.ca.client_context(harness.ca.issue_client("alice", folder=tmp_path)), version
    )
    context.check_hostname = False
    address = proxy.frontends["f"].addresses[0]
    client = await dial(address, tls=context, server_name=name)
    assert client.tls is not None
    received: Any = client.tls.getpeercert()
    served_by = {"imap.example.com": "imap.example.com", "a.example.org": "*.example.org"}
    assert received["subjectAltName"] == (("DNS", served_by.get(name or "", "localhost")),)
    await talk_and_close(client)
    line = await harness.session()
    assert (line["client_cn"], line["sni"]) == ("alice", name)

    without_certificate = limit_version(harness.ca.client_context(), version)
    without_certificate.check_hostname = False
    client = await dial(address)
    with trio.fail_after(TIMEOUT_S):
        try:
            await client.start_tls(without_certificate, name)
            await client.receive_until_end()
        except trio.BrokenResourceError:
            pass
    client.drop()
    assert (await harness.sessions(2))[1]["detail"] == "peer did not return a certificate"
    assert server.accepted == 1


# Log and PROXY header


async def test_client_name_in_text_log(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    log = tmp_path / "text.log"
    proxy = await harness.proxy(
        server.address,
        tls=True,
        log={"format": "text", "to": str(log)},
        **verify_options(harness, "required"),
    )
    context = harness.ca.client_context(harness.ca.issue_client("alice"))
    await talk_and_close(await dial(proxy.frontends["f"].addresses[0], tls=context))
    assert " for localhost as alice client-closed " in await harness.wait_for_line(log, "client-closed")


@pytest.mark.parametrize("name", ["al\nice", "alice\x1b[31m", "alice\0.example.com", "al\u2028ice"])
async def test_unprintable_name_is_ignored(harness: ProxyHarness, tmp_path: Path, name: str) -> None:
    """A name signed by a CA cannot add a log line, write to a terminal, or hide a user behind a zero byte."""
    server = HeaderRecorder(greet_and_echo(GREETING))
    await harness.nursery.start(server.serve)
    proxy = await harness.proxy(
        server.address,
        tls=True,
        **verify_options(harness, "required"),
        backends={"b": {"send_proxy": "v2-ssl-cn"}},
    )
    file = tmp_path / "odd.pem"
    file.write_bytes(harness.ca._ca.issue_cert(common_name=name).private_key_and_cert_chain_pem.bytes())
    await talk_and_close(await dial(proxy.frontends["f"].addresses[0], tls=harness.ca.client_context(file)))
    line = await harness.session()
    assert (line["end"], line["client_cn"]) == ("client-closed", None)
    assert server.ssl.client == Client.SSL | Client.CERT_CONN | Client.CERT_SESS
    assert server.ssl.value_of(Type.SSL_CN) is None


async def test_certificate_without_common_name(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, tls=True, **verify_options(harness, "required"))
    nameless = harness.ca.issue("alice.example.com", folder=tmp_path)  # it has only a subjectAltName
    await talk_and_close(
        await dial(proxy.frontends["f"].addresses[0], tls=harness.ca.client_context(nameless))
    )
    line = await harness.session()
    assert (line["end"], line["client_cn"]) == ("client-closed", None)


@each_version
@pytest.mark.parametrize("has_certificate", [False, True], ids=["without", "with"])
async def test_proxy_header_carries_client_certificate(
    harness: ProxyHarness, has_certificate: bool, version: str
) -> None:
    """Both with a new TLS session and with a resumed one, which showed the certificate before (PROXY 2.2.6)."""
    server = HeaderRecorder(greet_and_echo(GREETING))
    await harness.nursery.start(server.serve)
    changes = verify_options(harness, "optional")
    proxy = await harness.proxy(
        server.address,
        tls=True,
        **changes,
        backends={"b": {"send_proxy": "v2-ssl-cn", "send_proxy_tlvs": ["client-cert"]}},
    )
    address = proxy.frontends["f"].addresses[0]
    context = limit_version(
        harness.ca.client_context(harness.ca.issue_client("alice") if has_certificate else None), version
    )
    first = await dial(address, tls=context)
    await talk_and_close(first)
    name, certificate_flags = (
        (b"alice", Client.CERT_CONN | Client.CERT_SESS) if has_certificate else (None, Client(0))
    )
    assert (server.ssl.client, server.ssl.verify) == (Client.SSL | certificate_flags, 0)
    assert server.ssl.value_of(Type.SSL_CN) == name
    certificate = server.ssl.value_of(Type.SSL_CLIENT_CERT)
    assert (certificate is not None) == has_certificate

    resuming = await dial(address)
    await resume(resuming, context, first)
    assert resuming.tls is not None
    assert resuming.tls.session_reused
    await talk_and_close(resuming)
    expected_flags = Client.CERT_SESS if has_certificate else Client(0)
    assert (server.ssl.client, server.ssl.verify) == (Client.SSL | expected_flags, 0)
    assert server.ssl.value_of(Type.SSL_CN) == name
    assert server.ssl.value_of(Type.SSL_CLIENT_CERT) == certificate
    lines = await harness.sessions(2)
    assert [line["client_cn"] for line in lines] == ["alice" if has_certificate else None] * 2
    assert [line["sni"] for line in lines] == ["localhost"] * 2


@each_version
async def test_tls_session_is_valid_at_own_bind_only(harness: ProxyHarness, version: str) -> None:
    """A TLS session of a bind that verifies no clients is not accepted at a bind that does."""
    server = await harness.server(greet_and_echo(GREETING))
    certificates = {"certificates": [str(harness.pem)]}
    mapping = harness.mapping(server.address, tls=True)
    bind = mapping["frontends"]["f"]["bind"][0]
    verifying_tls = {**certificates, "client_verify": "required", "client_ca": str(harness.ca.pem)}
    mapping["frontends"]["f"]["bind"] = [bind, {**bind, "name": "C", "tls": verifying_tls}]
    proxy = await harness.run_proxy(mapping)
    open_address, verifying_address = proxy.frontends["f"].addresses
    context = limit_version(harness.ca.client_context(), version)
    first = await dial(open_address, tls=context)
    await talk_and_close(first)
    resuming = await dial(verifying_address)
    with trio.fail_after(TIMEOUT_S):
        try:
            await resume(resuming, context, first)
            await resuming.receive_until_end()
        except trio.BrokenResourceError:
            pass
    resuming.drop()
    lines = await harness.sessions(2)
    assert (lines[1]["bind"], lines[1]["end"]) == ("C", "handshake-failed")
    assert server.accepted == 1


# Towards servers


def verifying_context(harness: ProxyHarness) -> ssl.SSLContext:
    context = harness.ca.server_context("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(harness.ca.pem)
    return context


@each_version
@pytest.mark.parametrize("is_split", [False, True], ids=["one-file", "two-files"])
async def test_certificate_towards_server(
    harness: ProxyHarness, tmp_path: Path, is_split: bool, version: str
) -> None:
    server = await harness.server(
        greet_and_echo(GREETING), tls=limit_version(verifying_context(harness), version)
    )
    pem = harness.ca.issue_client("the proxy", folder=tmp_path)
    tls = {"certificate": str(pem)}
    if is_split:
        text = pem.read_text()
        key_end = text.index("-----BEGIN CERTIFICATE")
        (tmp_path / "proxy.crt").write_text(text[key_end:])
        (tmp_path / "secret.pem").write_text(text[:key_end])
        tls = {"certificate": str(tmp_path / "proxy.crt"), "key": str(tmp_path / "secret.pem")}
    proxy = await harness.proxy(server.address, server_tls=True, backends={"b": {"tls": tls}})
    await talk_and_close(await harness.dial(proxy))
    connection = server.connections[0]
    assert connection.tls is not None
    received: Any = connection.tls.getpeercert()
    assert (("commonName", "the proxy"),) in received["subject"]
    assert (await harness.session())["end"] == "client-closed"


@each_version
async def test_missing_certificate_towards_server(harness: ProxyHarness, version: str) -> None:
    """With 1.3 the proxy's side of the handshake is done before the server refuses."""
    server = await harness.server(tls=limit_version(verifying_context(harness), version))
    proxy = await harness.proxy(server.address, server_tls=True)
    resources_before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    await resources_before.wait_until_restored()
    assert line["end"] == ("server-handshake-failed" if version == "1.2" else "server-aborted")
    assert "certificate required" in line["detail"] or "handshake failure" in line["detail"]
