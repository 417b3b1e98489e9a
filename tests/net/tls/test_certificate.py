"""Certificate files: what is read of them, and which one a client gets for the name that it asks for."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mailproxy.config import FrontendTls
from mailproxy.net.tls.certificate import (
    Certificate,
    file_stamp,
    find,
    index_by_name,
    next_update,
    read_certificate,
)
from mailproxy.net.tls.certificate_files import certificate_files
from mailproxy.net.tls.handshake import accept_tls
from mailproxy.net.tls.terminator import Terminator
from mailproxy.testing import Connection, ThrowAwayCA

EC, RSA = "1.2.840.10045.2.1", "1.2.840.113549.1.1.1"  # RFC 5480 section 2.1.1, RFC 8017 appendix A.1


# Reading.


@pytest.mark.parametrize("what", ["certificate", "revocation list"])
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_damage_anywhere_is_a_fault_of_the_file(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, what: str
) -> None:
    """``cryptography`` raises exceptions of many types; callers know OSError and ValueError."""
    read: Callable[[Path], object]
    if what == "certificate":
        label, file, read = "CERTIFICATE", throw_away_ca.issue("a.example"), read_certificate
    else:
        alice = throw_away_ca.issue_client("alice")
        label, file, read = "X509 CRL", throw_away_ca.revoke(alice, folder=tmp_path), next_update
    body = file.read_text().split(f"-----BEGIN {label}-----")[1].split(f"-----END {label}-----")[0]
    der, damaged, faults = base64.b64decode(body), tmp_path / "damaged.pem", 0
    for offset in range(len(der)):
        for byte in (0x00, 0x05, 0x7F, 0xFF, der[offset] ^ 0x01):
            content = base64.encodebytes(der[:offset] + bytes([byte]) + der[offset + 1 :]).decode()
            damaged.write_text(f"-----BEGIN {label}-----\n{content}-----END {label}-----\n")
            try:
                read(damaged)
            except ValueError:
                faults += 1
    assert faults > len(der)


def test_what_is_read(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    begin, end = (datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) for days in (-1, 10))
    pem = throw_away_ca.issue(
        "IMAP.Example.com", "*.example.org", "192.0.2.1", folder=tmp_path, not_before=begin, not_after=end
    )
    certificate = read_certificate(pem)
    assert certificate.path == pem
    assert certificate.key is None
    assert certificate.names == ("imap.example.com", "*.example.org")
    assert (certificate.not_before, certificate.not_after) == (begin, end)


@pytest.mark.parametrize(
    ("kind", "key", "signature"),
    [("ec", "EC256", "ecdsa-with-SHA256"), ("rsa", "RSA2048", "ecdsa-with-SHA256")],
)
def test_algorithms_have_openssls_words(
    throw_away_ca: ThrowAwayCA, kind: Literal["ec", "rsa"], key: str, signature: str
) -> None:
    certificate = read_certificate(throw_away_ca.issue("localhost", key_type=kind))
    assert (certificate.key_algorithm, certificate.signature_algorithm) == (key, signature)


def test_a_replaced_file_is_another_certificate(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem, key = throw_away_ca.issue("localhost", folder=tmp_path), tmp_path / "imap.key"
    key.write_bytes(b"one")
    before = read_certificate(pem, key)
    assert read_certificate(pem, key) == before
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").rename(key)
    assert read_certificate(pem, key) != before


def test_a_stamp_changes_with_content_rights_and_what_a_link_leads_to(tmp_path: Path) -> None:
    one, link = tmp_path / "one", tmp_path / "link"
    one.write_bytes(b"1")
    (tmp_path / "other").write_bytes(b"1")
    link.symlink_to(one)
    stamps = [file_stamp(one)]
    assert file_stamp(link) == stamps[0]
    link.unlink()
    link.symlink_to(tmp_path / "other")
    stamps.append(file_stamp(link))
    one.write_bytes(b"12")
    stamps.append(file_stamp(one))
    while file_stamp(one) in stamps:  # the kernel's clock for files ticks every few milliseconds
        one.chmod(0o600)
    assert len(set(stamps)) == 3
    with pytest.raises(FileNotFoundError):
        file_stamp(tmp_path / "missing")


def test_the_kind_of_key_tells_certificates_of_one_name_apart(throw_away_ca: ThrowAwayCA) -> None:
    kinds = [
        read_certificate(throw_away_ca.issue("localhost", key_type=kind)).key_type for kind in ("ec", "rsa")
    ]
    assert kinds == [EC, RSA]


def test_the_first_of_a_chain_is_the_one(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(throw_away_ca.issue("leaf.example").read_bytes() + throw_away_ca.pem.read_bytes())
    assert read_certificate(chain).names == ("leaf.example",)


def self_signed(file: Path, subject: list[x509.NameAttribute[str]]) -> Path:
    """A certificate without subject alternative names, as they were made long ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(subject)
    begin = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return file


def test_an_old_certificate_has_only_a_common_name(tmp_path: Path) -> None:
    file = self_signed(
        tmp_path / "old.pem", [x509.NameAttribute(x509.NameOID.COMMON_NAME, "Mail.Example.com")]
    )
    assert read_certificate(file).names == ("mail.example.com",)


def test_a_certificate_may_have_no_name_at_all(tmp_path: Path) -> None:
    file = self_signed(tmp_path / "none.pem", [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example")])
    assert read_certificate(file).names == ()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "has no certificate in PEM form"),
        (b"hello", "has no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "has no certificate in PEM form"),
        (b"x" * (2**20 + 1), "is larger than 1048576 bytes"),
    ],
    ids=["empty", "text", "broken", "huge"],
)
def test_what_is_no_certificate(tmp_path: Path, content: bytes, fact: str) -> None:
    file = tmp_path / "a.pem"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=fact):
        read_certificate(file)


def test_a_key_alone_is_no_certificate(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(throw_away_ca.issue("localhost").read_bytes().partition(b"-----BEGIN CERT")[0])
    with pytest.raises(ValueError, match="has no certificate in PEM form"):
        read_certificate(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_certificate(tmp_path / "missing.pem")


# Folders.


def test_a_folder_stands_for_its_certificates_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("b.pem", "a.crt", "c.cer", "a.key", "README", ".hidden.pem", "d.pem~", "e.pem.bak"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [file.name for file in certificate_files(tmp_path)] == ["a.crt", "b.pem", "c.cer"]


def test_a_file_stands_for_itself_whatever_it_is_called(tmp_path: Path) -> None:
    assert certificate_files(tmp_path / "imap.chain") == [tmp_path / "imap.chain"]


# Choosing.


def made(*names: str, key_type: str = EC) -> Certificate:
    now = datetime.now(UTC)
    return Certificate(
        Path(names[0]), key=None, names=names, key_type=key_type, not_after=now, not_before=now
    )


EXACT, WILD, OTHER = (
    made("imap.example.com"),
    made("*.example.com"),
    made("mail.example.org", "imap.example.org"),
)


@pytest.mark.parametrize(
    ("name", "certificate"),
    [
        ("imap.example.com", EXACT),
        ("IMAP.Example.COM", EXACT),
        ("imap.example.com.", EXACT),
        ("pop.example.com", WILD),
        ("POP.example.com", WILD),
        ("imap.example.org", OTHER),
        ("mail.example.org", OTHER),
        ("*.example.com", WILD),
    ],
)
def test_the_one_for_a_name(name: str, certificate: Certificate) -> None:
    assert find(index_by_name([OTHER, WILD, EXACT]).by_name, name) == (certificate,)


@pytest.mark.parametrize(
    "name",
    [
        # "*." covers exactly one label
        "example.com", "a.b.example.com", "pop.example.org", "", None, "unknown.example", "com", ".example.org", ".",
    ],
)  # fmt: skip
def test_none_for_a_name_that_no_certificate_has(name: str | None) -> None:
    choice = index_by_name([OTHER, WILD, EXACT])
    assert find(choice.by_name, name) is None
    assert choice.default == (OTHER,)


def test_without_certificates_there_is_none_for_any_name() -> None:
    assert find(index_by_name([]).by_name, "imap.example.com") is None
    assert index_by_name([]).default == ()


def test_the_exact_one_wins_wherever_it_stands() -> None:
    for order in ([EXACT, WILD], [WILD, EXACT]):
        assert find(index_by_name(order).by_name, "imap.example.com") == (EXACT,)


def test_the_first_is_the_default() -> None:
    assert index_by_name([WILD, EXACT, OTHER]).default == (WILD,)
    assert index_by_name([OTHER, WILD]).default == (OTHER,)


def test_one_of_each_kind_of_key_stands_side_by_side() -> None:
    ecdsa, rsa = made("imap.example.com"), made("imap.example.com", key_type=RSA)
    newer = made("imap.example.com")
    assert find(index_by_name([rsa, ecdsa, newer]).by_name, "imap.example.com") == (rsa, ecdsa)
    assert index_by_name([rsa, ecdsa, newer]).default == (rsa, ecdsa)


def test_the_default_does_not_mix_names() -> None:
    ecdsa, rsa = made("imap.example.com"), made("pop.example.com", key_type=RSA)
    choice = index_by_name([ecdsa, rsa])
    assert choice.default == (ecdsa,)
    assert find(choice.by_name, "pop.example.com") == (rsa,)


def test_the_default_takes_a_second_key_that_covers_all_its_names() -> None:
    ecdsa = made("imap.example.com", "pop.example.com")
    partly, wholly = (
        made("imap.example.com", key_type=RSA),
        made("pop.example.com", "imap.example.com", "sieve.example.com", key_type=RSA),
    )
    assert index_by_name([ecdsa, partly, wholly]).default == (ecdsa, wholly)


# What a client gets.


async def served(server: Terminator, client: ssl.SSLContext, name: str | None) -> x509.Certificate:
    """The certificate that a client gets when it asks for a name."""
    here, there = socket.socketpair()
    there.setblocking(False)

    offer = server.select(name)
    assert offer is not None

    async def accept() -> None:
        (await accept_tls(there, offer.context)).close()

    async with Connection(trio.SocketStream(trio.socket.from_stdlib_socket(here))) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            await connection.start_tls(client, name)
        assert connection.tls is not None
        der = connection.tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def client_context(ciphers: str | None = None) -> ssl.SSLContext:
    """A client that takes any certificate; with ciphers one of TLS 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if ciphers is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    return context


def terminator(*files: Path) -> Terminator:
    return Terminator(FrontendTls(), [read_certificate(file) for file in files])


def names_of(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


async def test_a_client_gets_the_certificate_for_the_name_that_it_asks_for(
    throw_away_ca: ThrowAwayCA,
) -> None:
    names = ("imap.example.com", "*.example.com", "imap.example.org")
    server = terminator(*(throw_away_ca.issue(name) for name in names))
    for asked, name in [
        ("imap.example.org", "imap.example.org"),
        ("imap.example.com", "imap.example.com"),
        ("pop.example.com", "*.example.com"),
        ("elsewhere.example", "imap.example.com"),
        (None, "imap.example.com"),
    ]:
        certificate = await served(server, client_context(), asked)
        assert names_of(certificate) == [name]


async def test_a_client_that_verifies_is_content(throw_away_ca: ThrowAwayCA) -> None:
    server = terminator(throw_away_ca.issue("first.example"), throw_away_ca.issue("*.second.example"))
    certificate = await served(server, throw_away_ca.client_context(), "imap.second.example")
    assert names_of(certificate) == ["*.second.example"]


@pytest.mark.parametrize("order", [("ec", "rsa"), ("rsa", "ec")])
@pytest.mark.parametrize("name", ["imap.example.com", None])
async def test_a_client_gets_the_kind_of_key_that_it_can_verify(
    throw_away_ca: ThrowAwayCA, order: tuple[str, str], name: str | None
) -> None:
    server = terminator(*(throw_away_ca.issue("imap.example.com", key_type=kind) for kind in order))  # type: ignore[arg-type]  # both are
    for ciphers, kind in (("ECDHE-RSA-AES128-GCM-SHA256", "RSA"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "EC")):
        certificate = await served(server, client_context(ciphers), name)
        assert kind in type(certificate.public_key()).__name__
    certificate = await served(server, client_context(), name)
    assert "EC" in type(certificate.public_key()).__name__  # which clients of today prefer


async def test_a_key_may_stand_in_a_file_of_its_own(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    key, begin, chain = (
        throw_away_ca.issue("imap.example.com").read_bytes().partition(b"-----BEGIN CERTIFICATE")
    )
    (tmp_path / "imap.key").write_bytes(key)
    (tmp_path / "imap.crt").write_bytes(begin + chain)
    certificate = read_certificate(tmp_path / "imap.crt", tmp_path / "imap.key")
    server = Terminator(FrontendTls(), [certificate])
    assert names_of(await served(server, client_context(), None)) == ["imap.example.com"]
