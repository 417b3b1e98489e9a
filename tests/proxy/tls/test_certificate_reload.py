"""Reload of certificates, CAs and revocation lists that are replaced on disk while the proxy runs."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import mailproxy
from mailproxy.certificates.reloader import CertificateReloader, ReloadResult
from mailproxy.testing import Connection, ScriptedServer, ThrowAwayCA, dial, greet_and_echo
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot
from tests.support.timeouts import wait_until

GREETING = b"* OK ready\r\n"
SHORT_INTERVAL: dict[str, Any] = {"process": {"certificate_interval": "50ms"}}
LONG_INTERVAL: dict[str, Any] = {"process": {"certificate_interval": "1h"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return folder


async def connect_greeted(
    harness: ProxyHarness, proxy: mailproxy.Proxy, name: str | None = "localhost"
) -> Connection:
    """Connect a client with a new handshake and receive the greeting."""
    context = harness.ca.client_context()
    context.check_hostname = False
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, server_name=name)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    return client


async def served_certificate(
    harness: ProxyHarness, proxy: mailproxy.Proxy, name: str | None = "localhost"
) -> tuple[str, str]:
    """Return name and serial number of the certificate that a new handshake gets."""
    client = await connect_greeted(harness, proxy, name)
    subject_and_serial = peer_certificate(client)
    client.drop()
    return subject_and_serial


def peer_certificate(client: Connection) -> tuple[str, str]:
    assert client.tls is not None
    fields: Any = client.tls.getpeercert()
    return str(fields["subjectAltName"][0][1]), str(fields["serialNumber"])


async def assert_alive(client: Connection) -> None:
    with trio.fail_after(TIMEOUT_S):
        await client.send(b"still here\r\n")
        assert await client.receive_line() == b"still here\r\n"


async def start_proxy(
    harness: ProxyHarness, *certificates: Path, options: dict[str, Any] = SHORT_INTERVAL, **tls: Any
) -> tuple[mailproxy.Proxy, ScriptedServer]:
    server = await harness.server(greet_and_echo(GREETING))
    paths = [str(path) for path in certificates]
    proxy = await harness.proxy(
        server.address, tls=True, frontends={"f": {"tls": {"certificates": paths, **tls}}}, **options
    )
    return proxy, server


@contextmanager
def counted_scans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """Give a list that grows with each scan of the files."""
    scans: list[None] = []
    original_scan = CertificateReloader.scan

    def counting_scan(self: CertificateReloader, *, force: bool = False) -> ReloadResult | None:
        try:
            return original_scan(self, force=force)
        finally:
            scans.append(None)

    with monkeypatch.context() as patch:
        patch.setattr(CertificateReloader, "scan", counting_scan)
        yield scans


async def wait_for_scans(scans: list[None], count: int = 3) -> None:
    """Wait for ``count`` more scans."""
    expected = len(scans) + count
    with trio.fail_after(TIMEOUT_S):
        while len(scans) < expected:  # noqa: ASYNC110 - another thread scans
            await trio.sleep(0.005)


async def test_new_handshakes_get_new_certificate(harness: ProxyHarness, folder: Path) -> None:
    """Open sessions continue."""
    file = harness.ca.issue("localhost", folder=folder)
    proxy, _ = await start_proxy(harness, file)
    client = await connect_greeted(harness, proxy)
    harness.ca.issue("localhost", folder=folder).rename(file)
    (event,) = await harness.events("certificates-renewed")
    assert event["files"] == [str(file)]
    renewed = await served_certificate(harness, proxy)
    assert renewed[0] == "localhost"
    assert renewed != peer_certificate(client)
    await assert_alive(client)
    await client.close()
    assert {line["end"] for line in await harness.sessions(2)} == {"client-closed"}


async def test_renew_certificates_scans_at_once(harness: ProxyHarness, folder: Path) -> None:
    file = harness.ca.issue("localhost", folder=folder)
    proxy, _ = await start_proxy(harness, file, options=LONG_INTERVAL)
    before = await served_certificate(harness, proxy)
    harness.ca.issue("localhost", folder=folder).rename(file)
    assert await served_certificate(harness, proxy) == before
    proxy.renew_certificates()
    await harness.events("certificates-renewed")
    assert await served_certificate(harness, proxy) != before


async def test_renew_certificates_without_changes_logs_nothing(
    harness: ProxyHarness, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, _ = await start_proxy(harness, harness.ca.issue("localhost", folder=folder), options=LONG_INTERVAL)
    before = await served_certificate(harness, proxy)
    with counted_scans(monkeypatch) as scans:
        for _ in range(3):
            proxy.renew_certificates()
            await wait_for_scans(scans, 1)
    assert await served_certificate(harness, proxy) == before
    await trio.testing.wait_all_tasks_blocked()
    assert not [line for line in harness.lines() if line["event"].startswith("certificate")]


async def test_renew_certificates_without_tls(harness: ProxyHarness) -> None:
    """Also a proxy without certificates may be asked to reload."""
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, **SHORT_INTERVAL)
    proxy.renew_certificates()
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    client.drop()


async def test_new_file_in_folder_adds_name(harness: ProxyHarness, tmp_path: Path, folder: Path) -> None:
    harness.ca.issue("localhost", folder=folder).rename(folder / "0.pem")
    proxy, _ = await start_proxy(harness, folder)
    default = await served_certificate(harness, proxy, "imap.example.com")
    assert default[0] == "localhost"
    new = harness.ca.issue("imap.example.com", folder=tmp_path)
    new.rename(folder / "1.pem")
    await harness.events("certificates-renewed")
    assert (await served_certificate(harness, proxy, "imap.example.com"))[0] == "imap.example.com"
    assert await served_certificate(harness, proxy) == default
    (folder / "1.pem").unlink()
    await harness.events("certificates-renewed", 2)
    assert await served_certificate(harness, proxy, "imap.example.com") == default


@pytest.mark.parametrize("fault", ["nonsense", "empty", "other-key", "gone"])
async def test_broken_file_is_rejected_and_logged_once(
    harness: ProxyHarness, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file = harness.ca.issue("localhost", folder=folder)
    good = file.read_text()
    with counted_scans(monkeypatch) as scans:
        proxy, _ = await start_proxy(harness, file)
        before = await served_certificate(harness, proxy)
        other = harness.ca.issue("localhost", folder=folder).read_text()
        key_end = good.index("-----BEGIN CERTIFICATE")
        texts = {"nonsense": "nonsense", "empty": "", "other-key": other[: other.index("-----BEGIN CERT")] + good[key_end:]}  # fmt: skip
        if fault == "gone":
            file.unlink()
        else:
            replace(file, texts[fault])
        (event,) = await harness.events("certificates-kept")
        assert event["path"] == "frontends.f.tls.certificates[0]"
        assert str(file) in event["fact"]
        assert event["level"] == "error"
        await wait_for_scans(scans)
        await harness.events("certificates-kept", 1)
        assert await served_certificate(harness, proxy) == before
        replace(file, other)
        await harness.events("certificates-renewed")
        assert await served_certificate(harness, proxy) != before
        await harness.events("certificates-kept", 1)


def replace(file: Path, text: str) -> None:
    """Replace a file atomically, as careful tools do."""
    new = file.with_name(".new")
    new.write_text(text)
    new.rename(file)


async def test_broken_file_does_not_block_other_files(harness: ProxyHarness, folder: Path) -> None:
    for number, name in enumerate(["localhost", "imap.example.com"]):
        harness.ca.issue(name, folder=folder).rename(folder / f"{number}.pem")
    proxy, _ = await start_proxy(harness, folder)
    before = {
        name: await served_certificate(harness, proxy, name) for name in ("localhost", "imap.example.com")
    }
    replace(folder / "0.pem", "nonsense")
    await harness.events("certificates-kept")
    replace(folder / "1.pem", harness.ca.issue("imap.example.com").read_text())
    with trio.fail_after(TIMEOUT_S):
        while await served_certificate(harness, proxy, "imap.example.com") == before["imap.example.com"]:  # noqa: ASYNC110 - each asks
            await trio.sleep(0.02)
    assert await served_certificate(harness, proxy) == before["localhost"]
    await wait_until(lambda: any(str(folder / "1.pem") in line.get("files", ()) for line in harness.lines()))
    # A reload of the other file does not log the broken one again.
    await harness.events("certificates-kept", 1)


async def test_certificate_and_key_in_two_files(harness: ProxyHarness, folder: Path) -> None:
    """They are replaced one after the other. In between they do not match, and the old pair stays in use."""
    first, second = (harness.ca.issue("localhost").read_text() for _ in range(2))
    key_end = first.index("-----BEGIN CERTIFICATE"), second.index("-----BEGIN CERTIFICATE")
    file, key = folder / "a.crt", folder / "a.key"
    file.write_text(first[key_end[0] :])
    key.write_text(first[: key_end[0]])
    proxy, _ = await start_proxy(harness, file)
    before = await served_certificate(harness, proxy)
    replace(file, second[key_end[1] :])
    (event,) = await harness.events("certificates-kept")
    assert "does not belong to the certificate" in event["fact"]
    assert await served_certificate(harness, proxy) == before
    replace(key, second[: key_end[1]])
    await harness.events("certificates-renewed")
    assert await served_certificate(harness, proxy) != before


async def test_handshake_in_progress_survives_reload(harness: ProxyHarness, folder: Path) -> None:
    """The handshake began with the old certificate and completes."""
    file = harness.ca.issue("localhost", folder=folder)
    proxy, _ = await start_proxy(harness, file)
    client = await harness.dial(proxy)
    context = harness.ca.client_context()
    tls = context.wrap_bio(client._incoming, client._outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    client_hello = client._outgoing.read()
    await client.stream.send_all(client_hello[:100])
    harness.ca.issue("localhost", folder=folder).rename(file)
    await harness.events("certificates-renewed")
    await client.stream.send_all(client_hello[100:])
    with trio.fail_after(TIMEOUT_S):
        await client._handshake(tls)
        assert await client.receive_line() == GREETING
    client.drop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_sessions_survive_reload_of_other_certificates(
    harness: ProxyHarness, tmp_path: Path, folder: Path, version: ssl.TLSVersion
) -> None:
    """An unchanged certificate keeps its tickets. A replaced one only needs a full handshake."""
    harness.ca.issue("localhost", folder=folder).rename(folder / "0.pem")
    proxy, _ = await start_proxy(harness, folder)
    context = harness.ca.client_context()
    context.maximum_version = version

    async def connect_and_close(previous: Connection | None) -> Connection:
        client = await harness.dial(proxy)
        session = previous.tls.session if previous is not None and previous.tls is not None else None
        await client._handshake(
            context.wrap_bio(client._incoming, client._outgoing, server_hostname="localhost", session=session)
        )
        with trio.fail_after(TIMEOUT_S):
            assert await client.receive_line() == GREETING
        client.drop()
        return client

    first = await connect_and_close(None)
    harness.ca.issue("imap.example.com", folder=tmp_path).rename(folder / "1.pem")
    await harness.events("certificates-renewed")
    second = await connect_and_close(first)
    assert second.tls is not None
    assert second.tls.session_reused
    replace(folder / "0.pem", harness.ca.issue("localhost").read_text())
    await harness.events("certificates-renewed", 2)
    third = await connect_and_close(second)
    assert third.tls is not None
    assert not third.tls.session_reused


# Verification of clients


async def is_accepted(harness: ProxyHarness, proxy: mailproxy.Proxy, client_certificate: Path) -> bool:
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        try:
            await client.start_tls(harness.ca.client_context(client_certificate))
            greeting = await client.receive_line()
        except trio.BrokenResourceError:
            greeting = b""
    client.drop()
    return greeting == GREETING


async def test_client_certificate_revoked_while_running(
    harness: ProxyHarness, tmp_path: Path, folder: Path
) -> None:
    """A TLS session from before the revocation is not accepted either."""
    alice = harness.ca.issue_client("alice", folder=tmp_path)
    crl = harness.ca.revoke(folder=tmp_path)
    proxy, _ = await start_proxy(
        harness,
        harness.ca.issue("localhost", folder=folder),
        client_verify="required", client_ca=str(harness.ca.pem), client_crl=str(crl),
    )  # fmt: skip
    context = harness.ca.client_context(alice)
    client = await dial(proxy.frontends["f"].addresses[0], tls=context)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    harness.ca.revoke(alice, folder=tmp_path).rename(crl)
    await harness.events("certificates-renewed")
    assert not await is_accepted(harness, proxy, alice)
    resuming = await harness.dial(proxy)
    assert client.tls is not None
    with trio.fail_after(TIMEOUT_S):
        await resuming._handshake(
            context.wrap_bio(
                resuming._incoming,
                resuming._outgoing,
                server_hostname="localhost",
                session=client.tls.session,
            )
        )
        assert await resuming.receive_until_end() == b""
    resuming.drop()
    assert {line["detail"] for line in await harness.sessions(2)} == {"certificate revoked"}
    await assert_alive(client)
    client.drop()


@pytest.mark.parametrize("key", ["client_ca", "client_crl"])
async def test_broken_ca_is_rejected(harness: ProxyHarness, tmp_path: Path, folder: Path, key: str) -> None:
    alice = harness.ca.issue_client("alice", folder=tmp_path)
    files: dict[str, Path] = {
        "client_ca": tmp_path / "clients.pem",
        "client_crl": harness.ca.revoke(folder=tmp_path),
    }
    files["client_ca"].write_bytes(harness.ca.pem.read_bytes())
    proxy, _ = await start_proxy(
        harness,
        harness.ca.issue("localhost", folder=folder),
        client_verify="required", client_ca=str(files["client_ca"]), client_crl=str(files["client_crl"]),
    )  # fmt: skip
    assert await is_accepted(harness, proxy, alice)
    replace(files[key], "nonsense")
    (event,) = await harness.events("certificates-kept")
    assert event["path"] == f"frontends.f.tls.{key}"
    assert await is_accepted(harness, proxy, alice)


async def test_replaced_client_ca(harness: ProxyHarness, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ThrowAwayCA(tmp_path / "other")
    alice, bob = harness.ca.issue_client("alice", folder=tmp_path), other.issue_client("bob")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(harness.ca.pem.read_bytes())
    proxy, _ = await start_proxy(
        harness,
        harness.ca.issue("localhost", folder=folder),
        client_verify="required", client_ca=str(clients),
    )  # fmt: skip
    assert [await is_accepted(harness, proxy, alice), await is_accepted(harness, proxy, bob)] == [True, False]
    replace(clients, other.pem.read_text())
    await harness.events("certificates-renewed")
    assert [await is_accepted(harness, proxy, alice), await is_accepted(harness, proxy, bob)] == [False, True]


# Towards servers


async def test_replaced_server_ca(harness: ProxyHarness, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ThrowAwayCA(tmp_path / "other")
    ca = tmp_path / "servers.pem"
    ca.write_bytes(harness.ca.pem.read_bytes())
    server = await harness.server(greet_and_echo(GREETING), tls=other.server_context("127.0.0.1"))
    proxy = await harness.proxy(server.address, backends={"b": {"tls": {"ca": str(ca)}}}, **SHORT_INTERVAL)
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    assert (await harness.session())["end"] == "server-handshake-failed"
    replace(ca, other.pem.read_text())
    await harness.events("certificates-renewed")
    open_client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await open_client.receive_line() == GREETING
    replace(ca, "nonsense")
    (event,) = await harness.events("certificates-kept")
    assert event["path"] == "backends.b.tls.ca"
    await assert_alive(open_client)
    open_client.drop()
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    client.drop()


async def test_replaced_client_certificate_towards_servers(harness: ProxyHarness, tmp_path: Path) -> None:
    context = harness.ca.server_context("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(harness.ca.pem)
    server = await harness.server(greet_and_echo(GREETING), tls=context)
    proxy_certificate = harness.ca.issue_client("old", folder=tmp_path)
    proxy = await harness.proxy(
        server.address,
        server_tls=True,
        backends={"b": {"tls": {"certificate": str(proxy_certificate)}}},
        **SHORT_INTERVAL,
    )

    async def received_common_name() -> str:
        client = await harness.dial(proxy)
        with trio.fail_after(TIMEOUT_S):
            assert await client.receive_line() == GREETING
        client.drop()
        tls = server.connections[-1].tls
        assert tls is not None
        fields: Any = tls.getpeercert()
        return next(str(value) for names in fields["subject"] for key, value in names if key == "commonName")

    assert await received_common_name() == "old"
    replace(proxy_certificate, harness.ca.issue_client("new", folder=tmp_path).read_text())
    await harness.events("certificates-renewed")
    assert await received_common_name() == "new"


# Dates


@pytest.mark.parametrize(
    ("days", "expected"), [(5, "expires in 4 days"), (-1, "is not in date"), (13.9, "expires in 13 days")]
)
async def test_expiring_certificate_is_logged_at_start(
    harness: ProxyHarness, folder: Path, days: float, expected: str
) -> None:
    file = harness.ca.issue("localhost", folder=folder, not_after=datetime.now(UTC) + timedelta(days=days))
    valid = harness.ca.issue(
        "imap.example.com", folder=folder, not_after=datetime.now(UTC) + timedelta(days=15)
    )
    await start_proxy(harness, valid, file)
    (event,) = await harness.events("certificate-expires")
    assert (event["path"], event["level"]) == ("frontends.f.tls.certificates[1]", "warning")
    assert expected in event["fact"]
    assert str(file) in event["fact"]


async def test_expiring_client_certificate_towards_servers_is_logged(
    harness: ProxyHarness, folder: Path
) -> None:
    in_two_days = datetime.now(UTC) + timedelta(days=2)
    proxy_certificate = harness.ca.issue_client("the proxy", folder=folder, not_after=in_two_days)
    server = await harness.server()
    await harness.proxy(
        server.address, server_tls=True, backends={"b": {"tls": {"certificate": str(proxy_certificate)}}}
    )
    (event,) = await harness.events("certificate-expires")
    assert event["path"] == "backends.b.tls.certificate"


# Resources


async def test_many_reloads_leave_no_resources(harness: ProxyHarness, folder: Path) -> None:
    file = harness.ca.issue("localhost", folder=folder)
    proxy, _ = await start_proxy(harness, file)
    await served_certificate(harness, proxy)
    before = ResourceSnapshot.now()
    certificates = set()
    for count in range(1, 6):
        replace(file, harness.ca.issue("localhost").read_text())
        await harness.events("certificates-renewed", count)
        certificates.add(await served_certificate(harness, proxy))
    assert len(certificates) == 5
    await before.wait_until_restored()


async def test_stop_during_scan(harness: ProxyHarness, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop waits for the scan: a scan is short, and a thread cannot be cancelled."""
    proxy, _ = await start_proxy(harness, harness.ca.issue("localhost", folder=folder))
    with counted_scans(monkeypatch) as scans:
        for _ in range(5):
            proxy.renew_certificates()
        await wait_for_scans(scans, 1)
        proxy.renew_certificates()
        with trio.fail_after(TIMEOUT_S):
            await proxy.drain(0)
    lines: list[Line] = harness.lines()
    assert lines[-1]["event"] == "stopped"
