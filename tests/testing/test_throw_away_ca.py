"""The throw-away CA: OpenSSL accepts its files, and a missing trustme is explained."""

from __future__ import annotations

import ssl
import stat
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mailproxy.testing import LoopbackServer, ScriptedServer, ThrowAwayCA, dial, server_context

if TYPE_CHECKING:
    from pathlib import Path

    import trio


def certificate(pem: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem.read_bytes())[0]


@pytest.mark.parametrize(
    ("key_type", "public_key_type"), [("ec", ec.EllipticCurvePublicKey), ("rsa", rsa.RSAPublicKey)]
)
def test_issue_writes_private_file_with_key_and_chain(
    tmp_path: Path, key_type: str, public_key_type: type
) -> None:
    pem = ThrowAwayCA(tmp_path).issue("imap.example.com", key_type=key_type)  # type: ignore[arg-type]  # both are
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600
    assert pem.name == f"imap.example.com-{key_type}.pem"
    assert b"PRIVATE KEY" in pem.read_bytes()
    assert isinstance(certificate(pem).public_key(), public_key_type)


def test_issued_names_addresses_and_dates(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(days=10)
    pem = throw_away_ca.issue("*.example.org", "127.0.0.1", "::1", folder=tmp_path, not_after=soon)
    assert pem == tmp_path / "_.example.org-ec.pem"
    issued = certificate(pem)
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["*.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert issued.not_valid_after_utc == soon.replace(microsecond=0)


def test_second_certificate_gets_another_file(tmp_path: Path) -> None:
    ca = ThrowAwayCA(tmp_path)
    assert [ca.issue("localhost").name, ca.issue("localhost").name] == [
        "localhost-ec.pem",
        "localhost-ec-2.pem",
    ]


async def test_client_context_verifies_chain_and_name(
    throw_away_ca: ThrowAwayCA, nursery: trio.Nursery
) -> None:
    server: LoopbackServer = ScriptedServer(tls=server_context(throw_away_ca.issue("imap.example.com")))
    address = await nursery.start(server.serve)
    async with await dial(
        address, tls=throw_away_ca.client_context(), server_name="imap.example.com"
    ) as client:
        assert await client.receive_line() == b"* OK ready\r\n"
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        await dial(address, tls=throw_away_ca.client_context(), server_name="other.example.com")
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        await dial(address, tls=ssl.create_default_context(), server_name="imap.example.com")


async def test_client_certificate_has_its_common_name(
    throw_away_ca: ThrowAwayCA, nursery: trio.Nursery, tmp_path: Path
) -> None:
    pem = throw_away_ca.issue_client("alice@example.com", folder=tmp_path)
    assert pem == tmp_path / "client-alice@example.com.pem"
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600
    (name,) = certificate(pem).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert name.value == "alice@example.com"
    context = throw_away_ca.server_context("localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as contexts of Python 3.13 do
    context.load_verify_locations(throw_away_ca.pem)
    address = await nursery.start(ScriptedServer(tls=context).serve)
    async with await dial(address, tls=throw_away_ca.client_context(pem)) as client:
        assert await client.receive_line() == b"* OK ready\r\n"


def test_crl_has_revoked_certificates_and_valid_signature(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    client, server = throw_away_ca.issue_client("one"), throw_away_ca.issue("localhost")
    files = [throw_away_ca.revoke(*revoked, folder=tmp_path) for revoked in ((), (client,), (client, server))]
    assert [file.name for file in files] == ["crl.pem", "crl-2.pem", "crl-3.pem"]
    key = certificate(throw_away_ca.pem).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    for file, revoked in zip(files, ((), (client,), (client, server)), strict=True):
        crl = x509.load_pem_x509_crl(file.read_bytes())
        assert crl.is_signature_valid(key)
        assert {entry.serial_number for entry in crl} == {certificate(pem).serial_number for pem in revoked}


def test_missing_trustme_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ImportError, match=r"mailproxy\[demo\].*mailproxy\[testing\]"):
        ThrowAwayCA(tmp_path)
