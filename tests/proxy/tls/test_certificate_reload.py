"""Certificates, CAs and revocation lists that are replaced on disk while the proxy runs."""

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
from tests.support.patience import wait_until
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot

GREETING = b"* OK ready\r\n"
OFTEN: dict[str, Any] = {"process": {"certificate_interval": "50ms"}}
NOW_AND_THEN: dict[str, Any] = {"process": {"certificate_interval": "1h"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return folder


async def greeted(
    harness: ProxyHarness, proxy: mailproxy.Proxy, name: str | None = "localhost"
) -> Connection:
    """A client with a new handshake that has heard the greeting."""
    context = harness.ca.client_context()
    context.check_hostname = False
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, server_name=name)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    return client


async def served(
    harness: ProxyHarness, proxy: mailproxy.Proxy, name: str | None = "localhost"
) -> tuple[str, str]:
    """Name and serial number of the certificate that a new handshake gets."""
    client = await greeted(harness, proxy, name)
    shown = certificate(client)
    client.drop()
    return shown


def certificate(client: Connection) -> tuple[str, str]:
    assert client.tls is not None
    shown: Any = client.tls.getpeercert()
    return str(shown["subjectAltName"][0][1]), str(shown["serialNumber"])


async def assert_alive(client: Connection) -> None:
    with trio.fail_after(TIMEOUT_S):
        await client.send(b"still here\r\n")
        assert await client.receive_line() == b"still here\r\n"


async def frontend(
    harness: ProxyHarness, *certificates: Path, how: dict[str, Any] = OFTEN, **tls: Any
) -> tuple[mailproxy.Proxy, ScriptedServer]:
    server = await harness.server(greet_and_echo(GREETING))
    places = [str(place) for place in certificates]
    proxy = await harness.proxy(
        server.address, tls=True, frontends={"f": {"tls": {"certificates": places, **tls}}}, **how
    )
    return proxy, server


@contextmanager
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """Grows with every look at the files."""
    seen: list[None] = []
    look = CertificateReloader.scan

    def counted(self: CertificateReloader, *, force: bool = False) -> ReloadResult | None:
        try:
            return look(self, force=force)
        finally:
            seen.append(None)

    with monkeypatch.context() as patch:
        patch.setattr(CertificateReloader, "scan", counted)
        yield seen


async def more(seen: list[None], count: int = 3) -> None:
    """Wait for so many more looks."""
    wanted = len(seen) + count
    with trio.fail_after(TIMEOUT_S):
        while len(seen) < wanted:  # noqa: ASYNC110 - another thread looks
            await trio.sleep(0.005)


async def test_new_handshakes_get_the_new_one_and_open_sessions_live_on(
    harness: ProxyHarness, folder: Path
) -> None:
    file = harness.ca.issue("localhost", folder=folder)
    proxy, _ = await frontend(harness, file)
    present = await greeted(harness, proxy)
    harness.ca.issue("localhost", folder=folder).rename(file)
    (event,) = await harness.events("certificates-renewed")
    assert event["files"] == [str(file)]
    after = await served(harness, proxy)
    assert after[0] == "localhost"
    assert after != certificate(present)
    await assert_alive(present)
    await present.close()
    assert {line["end"] for line in await harness.sessions(2)} == {"client-closed"}


async def test_told_to_look(harness: ProxyHarness, folder: Path) -> None:
    file = harness.ca.issue("localhost", folder=folder)
    proxy, _ = await frontend(harness, file, how=NOW_AND_THEN)
    before = await served(harness, proxy)
    harness.ca.issue("localhost", folder=folder).rename(file)
    assert await served(harness, proxy) == before
    proxy.renew_certificates()
    await harness.events("certificates-renewed")
    assert await served(harness, proxy) != before


async def test_told_to_look_where_nothing_has_changed(
    harness: ProxyHarness, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, _ = await frontend(harness, harness.ca.issue("localhost", folder=folder), how=NOW_AND_THEN)
    before = await served(harness, proxy)
    with looks(monkeypatch) as seen:
        for _ in range(3):
            proxy.renew_certificates()
            await more(seen, 1)
    assert await served(harness, proxy) == before
    await trio.testing.wait_all_tasks_blocked()
    assert not [line for line in harness.lines() if line["event"].startswith("certificate")]


async def test_nothing_to_look_at(harness: ProxyHarness) -> None:
    """A proxy without TLS of its own may be told as well."""
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, **OFTEN)
    proxy.renew_certificates()
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    client.drop()


async def test_a_new_file_in_the_folder_is_a_new_name(
    harness: ProxyHarness, tmp_path: Path, folder: Path
) -> None:
    harness.ca.issue("localhost", folder=folder).rename(folder / "0.pem")
    proxy, _ = await frontend(harness, folder)
    default = await served(harness, proxy, "imap.example.com")
    assert default[0] == "localhost"
    new = harness.ca.issue("imap.example.com", folder=tmp_path)
    new.rename(folder / "1.pem")
    await harness.events("certificates-renewed")
    assert (await served(harness, proxy, "imap.example.com"))[0] == "imap.example.com"
    assert await served(harness, proxy) == default
    (folder / "1.pem").unlink()
    await harness.events("certificates-renewed", 2)
    assert await served(harness, proxy, "imap.example.com") == default


@pytest.mark.parametrize("fault", ["nonsense", "empty", "other-key", "gone"])
async def test_a_broken_file_keeps_the_old_and_says_so_once(
    harness: ProxyHarness, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file = harness.ca.issue("localhost", folder=folder)
    good = file.read_text()
    with looks(monkeypatch) as seen:
        proxy, _ = await frontend(harness, file)
        before = await served(harness, proxy)
        other = harness.ca.issue("localhost", folder=folder).read_text()
        border = good.index("-----BEGIN CERTIFICATE")
        texts = {"nonsense": "nonsense", "empty": "", "other-key": other[: other.index("-----BEGIN CERT")] + good[border:]}  # fmt: skip
        if fault == "gone":
            file.unlink()
        else:
            replace(file, texts[fault])
        (event,) = await harness.events("certificates-kept")
        assert event["path"] == "frontends.f.tls.certificates[0]"
        assert str(file) in event["fact"]
        assert event["level"] == "error"
        await more(seen)
        await harness.events("certificates-kept", 1)
        assert await served(harness, proxy) == before
        replace(file, other)
        await harness.events("certificates-renewed")
        assert await served(harness, proxy) != before
        await harness.events("certificates-kept", 1)


def replace(file: Path, text: str) -> None:
    """As tools do that know what they are doing: at once."""
    new = file.with_name(".new")
    new.write_text(text)
    new.rename(file)


async def test_one_broken_file_keeps_no_other_back(harness: ProxyHarness, folder: Path) -> None:
    for number, name in enumerate(["localhost", "imap.example.com"]):
        harness.ca.issue(name, folder=folder).rename(folder / f"{number}.pem")
    proxy, _ = await frontend(harness, folder)
    before = {name: await served(harness, proxy, name) for name in ("localhost", "imap.example.com")}
    replace(folder / "0.pem", "nonsense")
    await harness.events("certificates-kept")
    replace(folder / "1.pem", harness.ca.issue("imap.example.com").read_text())
    with trio.fail_after(TIMEOUT_S):
        while await served(harness, proxy, "imap.example.com") == before["imap.example.com"]:  # noqa: ASYNC110 - each asks
            await trio.sleep(0.02)
    assert await served(harness, proxy) == before["localhost"]
    await wait_until(lambda: any(str(folder / "1.pem") in line.get("files", ()) for line in harness.lines()))
    await harness.events("certificates-kept", 1)  # not said again with the other one


async def test_certificate_and_key_in_two_files(harness: ProxyHarness, folder: Path) -> None:
    """Replaced one after the other: in between they do not belong together, and the old pair stays."""
    first, second = (harness.ca.issue("localhost").read_text() for _ in range(2))
    border = first.index("-----BEGIN CERTIFICATE"), second.index("-----BEGIN CERTIFICATE")
    file, key = folder / "a.crt", folder / "a.key"
    file.write_text(first[border[0] :])
    key.write_text(first[: border[0]])
    proxy, _ = await frontend(harness, file)
    before = await served(harness, proxy)
    replace(file, second[border[1] :])
    (event,) = await harness.events("certificates-kept")
    assert "does not belong to the certificate" in event["fact"]
    assert await served(harness, proxy) == before
    replace(key, second[: border[1]])
    await harness.events("certificates-renewed")
    assert await served(harness, proxy) != before


async def test_a_handshake_under_way(harness: ProxyHarness, folder: Path) -> None:
    """It began with the old one and comes to its end."""
    file = harness.ca.issue("localhost", folder=folder)
    proxy, _ = await frontend(harness, file)
    client = await harness.dial(proxy)
    context = harness.ca.client_context()
    tls = context.wrap_bio(client._incoming, client._outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    said = client._outgoing.read()
    await client.stream.send_all(said[:100])
    harness.ca.issue("localhost", folder=folder).rename(file)
    await harness.events("certificates-renewed")
    await client.stream.send_all(said[100:])
    with trio.fail_after(TIMEOUT_S):
        await client._handshake(tls)
        assert await client.receive_line() == GREETING
    client.drop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_sessions_outlive_the_renewal_of_others(
    harness: ProxyHarness, tmp_path: Path, folder: Path, version: ssl.TLSVersion
) -> None:
    """A certificate that stays as it is keeps its tickets; one that is replaced asks for a new handshake, no more."""
    harness.ca.issue("localhost", folder=folder).rename(folder / "0.pem")
    proxy, _ = await frontend(harness, folder)
    context = harness.ca.client_context()
    context.maximum_version = version

    async def visit(last: Connection | None) -> Connection:
        client = await harness.dial(proxy)
        session = last.tls.session if last is not None and last.tls is not None else None
        await client._handshake(
            context.wrap_bio(client._incoming, client._outgoing, server_hostname="localhost", session=session)
        )
        with trio.fail_after(TIMEOUT_S):
            assert await client.receive_line() == GREETING
        client.drop()
        return client

    first = await visit(None)
    harness.ca.issue("imap.example.com", folder=tmp_path).rename(folder / "1.pem")
    await harness.events("certificates-renewed")
    second = await visit(first)
    assert second.tls is not None
    assert second.tls.session_reused
    replace(folder / "0.pem", harness.ca.issue("localhost").read_text())
    await harness.events("certificates-renewed", 2)
    third = await visit(second)
    assert third.tls is not None
    assert not third.tls.session_reused


# What clients are verified by


async def let_in(harness: ProxyHarness, proxy: mailproxy.Proxy, shown: Path) -> bool:
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        try:
            await client.start_tls(harness.ca.client_context(shown))
            got = await client.receive_line()
        except trio.BrokenResourceError:
            got = b""
    client.drop()
    return got == GREETING


async def test_revoked_meanwhile(harness: ProxyHarness, tmp_path: Path, folder: Path) -> None:
    """Nor does a TLS session of before open the door again."""
    alice = harness.ca.issue_client("alice", folder=tmp_path)
    crl = harness.ca.revoke(folder=tmp_path)
    proxy, _ = await frontend(
        harness,
        harness.ca.issue("localhost", folder=folder),
        client_verify="required", client_ca=str(harness.ca.pem), client_crl=str(crl),
    )  # fmt: skip
    context = harness.ca.client_context(alice)
    present = await dial(proxy.frontends["f"].addresses[0], tls=context)
    with trio.fail_after(TIMEOUT_S):
        assert await present.receive_line() == GREETING
    harness.ca.revoke(alice, folder=tmp_path).rename(crl)
    await harness.events("certificates-renewed")
    assert not await let_in(harness, proxy, alice)
    again = await harness.dial(proxy)
    assert present.tls is not None
    with trio.fail_after(TIMEOUT_S):
        await again._handshake(
            context.wrap_bio(
                again._incoming, again._outgoing, server_hostname="localhost", session=present.tls.session
            )
        )
        assert await again.receive_until_end() == b""
    again.drop()
    assert {line["detail"] for line in await harness.sessions(2)} == {"certificate revoked"}
    await assert_alive(present)
    present.drop()


@pytest.mark.parametrize("key", ["client_ca", "client_crl"])
async def test_a_broken_ca_keeps_the_old(
    harness: ProxyHarness, tmp_path: Path, folder: Path, key: str
) -> None:
    alice = harness.ca.issue_client("alice", folder=tmp_path)
    files: dict[str, Path] = {
        "client_ca": tmp_path / "clients.pem",
        "client_crl": harness.ca.revoke(folder=tmp_path),
    }
    files["client_ca"].write_bytes(harness.ca.pem.read_bytes())
    proxy, _ = await frontend(
        harness,
        harness.ca.issue("localhost", folder=folder),
        client_verify="required", client_ca=str(files["client_ca"]), client_crl=str(files["client_crl"]),
    )  # fmt: skip
    assert await let_in(harness, proxy, alice)
    replace(files[key], "nonsense")
    (event,) = await harness.events("certificates-kept")
    assert event["path"] == f"frontends.f.tls.{key}"
    assert await let_in(harness, proxy, alice)


async def test_another_ca(harness: ProxyHarness, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ThrowAwayCA(tmp_path / "other")
    alice, bob = harness.ca.issue_client("alice", folder=tmp_path), other.issue_client("bob")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(harness.ca.pem.read_bytes())
    proxy, _ = await frontend(
        harness,
        harness.ca.issue("localhost", folder=folder),
        client_verify="required", client_ca=str(clients),
    )  # fmt: skip
    assert [await let_in(harness, proxy, alice), await let_in(harness, proxy, bob)] == [True, False]
    replace(clients, other.pem.read_text())
    await harness.events("certificates-renewed")
    assert [await let_in(harness, proxy, alice), await let_in(harness, proxy, bob)] == [False, True]


# Towards servers


async def test_the_ca_of_servers(harness: ProxyHarness, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ThrowAwayCA(tmp_path / "other")
    ca = tmp_path / "servers.pem"
    ca.write_bytes(harness.ca.pem.read_bytes())
    server = await harness.server(greet_and_echo(GREETING), tls=other.server_context("127.0.0.1"))
    proxy = await harness.proxy(server.address, backends={"b": {"tls": {"ca": str(ca)}}}, **OFTEN)
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    assert (await harness.session())["end"] == "server-handshake-failed"
    replace(ca, other.pem.read_text())
    await harness.events("certificates-renewed")
    present = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await present.receive_line() == GREETING
    replace(ca, "nonsense")
    (event,) = await harness.events("certificates-kept")
    assert event["path"] == "backends.b.tls.ca"
    await assert_alive(present)
    present.drop()
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    client.drop()


async def test_what_is_shown_to_servers(harness: ProxyHarness, tmp_path: Path) -> None:
    context = harness.ca.server_context("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(harness.ca.pem)
    server = await harness.server(greet_and_echo(GREETING), tls=context)
    ours = harness.ca.issue_client("old", folder=tmp_path)
    proxy = await harness.proxy(
        server.address, server_tls=True, backends={"b": {"tls": {"certificate": str(ours)}}}, **OFTEN
    )

    async def shown() -> str:
        client = await harness.dial(proxy)
        with trio.fail_after(TIMEOUT_S):
            assert await client.receive_line() == GREETING
        client.drop()
        tls = server.connections[-1].tls
        assert tls is not None
        said: Any = tls.getpeercert()
        return next(str(value) for part in said["subject"] for key, value in part if key == "commonName")

    assert await shown() == "old"
    replace(ours, harness.ca.issue_client("new", folder=tmp_path).read_text())
    await harness.events("certificates-renewed")
    assert await shown() == "new"


# Dates


@pytest.mark.parametrize(
    ("days", "words"), [(5, "expires in 4 days"), (-1, "is not in date"), (13.9, "expires in 13 days")]
)
async def test_what_expires_is_said_at_the_start(
    harness: ProxyHarness, folder: Path, days: float, words: str
) -> None:
    file = harness.ca.issue("localhost", folder=folder, not_after=datetime.now(UTC) + timedelta(days=days))
    fine = harness.ca.issue(
        "imap.example.com", folder=folder, not_after=datetime.now(UTC) + timedelta(days=15)
    )
    await frontend(harness, fine, file)
    (event,) = await harness.events("certificate-expires")
    assert (event["path"], event["level"]) == ("frontends.f.tls.certificates[1]", "warning")
    assert words in event["fact"]
    assert str(file) in event["fact"]


async def test_expiring_is_said_of_those_shown_to_servers(harness: ProxyHarness, folder: Path) -> None:
    soon = datetime.now(UTC) + timedelta(days=2)
    ours = harness.ca.issue_client("the proxy", folder=folder, not_after=soon)
    server = await harness.server()
    await harness.proxy(server.address, server_tls=True, backends={"b": {"tls": {"certificate": str(ours)}}})
    (event,) = await harness.events("certificate-expires")
    assert event["path"] == "backends.b.tls.certificate"


# Nothing stays behind


async def test_many_renewals_leave_nothing_behind(harness: ProxyHarness, folder: Path) -> None:
    file = harness.ca.issue("localhost", folder=folder)
    proxy, _ = await frontend(harness, file)
    await served(harness, proxy)
    before = ResourceSnapshot.now()
    seen = set()
    for count in range(1, 6):
        replace(file, harness.ca.issue("localhost").read_text())
        await harness.events("certificates-renewed", count)
        seen.add(await served(harness, proxy))
    assert len(seen) == 5
    await before.wait_until_restored()


async def test_stopped_while_it_looks(
    harness: ProxyHarness, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look is waited for: it is short, and a thread cannot be cancelled."""
    proxy, _ = await frontend(harness, harness.ca.issue("localhost", folder=folder))
    with looks(monkeypatch) as seen:
        for _ in range(5):
            proxy.renew_certificates()
        await more(seen, 1)
        proxy.renew_certificates()
        with trio.fail_after(TIMEOUT_S):
            await proxy.drain(0)
    lines: list[Line] = harness.lines()
    assert lines[-1]["event"] == "stopped"
