"""Certificate files: how they are read, and which certificate a client gets for the name that it asks for."""

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


@pytest.mark.parametrize("file_type", ["certificate", "revocation list"])
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_damaged_file_raises_value_error(throw_away_ca: ThrowAwayCA, tmp_path: Path, file_type: str) -> None:
    """``cryptography`` raises exceptions of many types; callers know OSError and ValueError."""
    read: Callable[[Path], object]
    if file_type == "certificate":
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


def test_certificate_facts_are_read(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    start, end = (datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) for days in (-1, 10))
    pem = throw_away_ca.issue(
        "IMAP.Example.com", "*.example.org", "192.0.2.1", folder=tmp_path, not_before=start, not_after=end
    )
    certificate = read_certificate(pem)
    assert certificate.path == pem
    assert certificate.key is None
    assert certificate.names == ("imap.example.com", "*.example.org")
    assert (certificate.not_before, certificate.not_after) == (start, end)


@pytest.mark.parametrize(
    ("key_type", "key", "signature"),
    [("ec", "EC256", "ecdsa-with-SHA256"), ("rsa", "RSA2048", "ecdsa-with-SHA256")],
)
def test_algorithm_names_match_openssl(
    throw_away_ca: ThrowAwayCA, key_type: Literal["ec", "rsa"], key: str, signature: str
) -> None:
    certificate = read_certificate(throw_away_ca.issue("localhost", key_type=key_type))
    assert (certificate.key_algorithm, certificate.signature_algorithm) == (key, signature)


def test_replaced_key_file_changes_the_certificate(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem, key = throw_away_ca.issue("localhost", folder=tmp_path), tmp_path / "imap.key"
    key.write_bytes(b"one")
    before = read_certificate(pem, key)
    assert read_certificate(pem, key) == before
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").rename(key)
    assert read_certificate(pem, key) != before


def test_stamp_changes_with_content_mode_and_link_target(tmp_path: Path) -> None:
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
    # The kernel's file timestamps tick only every few milliseconds.
    while file_stamp(one) in stamps:
        one.chmod(0o600)
    assert len(set(stamps)) == 3
    with pytest.raises(FileNotFoundError):
        file_stamp(tmp_path / "missing")


def test_key_type_is_read(throw_away_ca: ThrowAwayCA) -> None:
    key_types = [
        read_certificate(throw_away_ca.issue("localhost", key_type=key_type)).key_type
        for key_type in ("ec", "rsa")
    ]
    assert key_types == [EC, RSA]


def test_first_certificate_of_a_chain_is_read(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(throw_away_ca.issue("leaf.example").read_bytes() + throw_away_ca.pem.read_bytes())
    assert read_certificate(chain).names == ("leaf.example",)


def self_signed(file: Path, subject: list[x509.NameAttribute[str]]) -> Path:
    """Write a certificate without subject alternative names, as was usual long ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(subject)
    start = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return file


def test_common_name_replaces_missing_alternative_names(tmp_path: Path) -> None:
    file = self_signed(
        tmp_path / "old.pem", [x509.NameAttribute(x509.NameOID.COMMON_NAME, "Mail.Example.com")]
    )
    assert read_certificate(file).names == ("mail.example.com",)


def test_certificate_without_any_name(tmp_path: Path) -> None:
    file = self_signed(tmp_path / "none.pem", [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example")])
    assert read_certificate(file).names == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no certificate in PEM form"),
        (b"hello", "has no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "has no certificate in PEM form"),
        (b"x" * (2**20 + 1), "is larger than 1048576 bytes"),
    ],
    ids=["empty", "text", "broken", "huge"],
)
def test_invalid_certificate_file_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.pem"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_certificate(file)


def test_key_without_certificate_is_rejected(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(throw_away_ca.issue("localhost").read_bytes().partition(b"-----BEGIN CERT")[0])
    with pytest.raises(ValueError, match="has no certificate in PEM form"):
        read_certificate(file)


def test_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_certificate(tmp_path / "missing.pem")


# Folders.


def test_folder_lists_certificates_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("b.pem", "a.crt", "c.cer", "a.key", "README", ".hidden.pem", "d.pem~", "e.pem.bak"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [file.name for file in certificate_files(tmp_path)] == ["a.crt", "b.pem", "c.cer"]


def test_file_is_listed_with_any_suffix(tmp_path: Path) -> None:
    assert certificate_files(tmp_path / "imap.chain") == [tmp_path / "imap.chain"]


# Selection by name.


def make_certificate(*names: str, key_type: str = EC) -> Certificate:
    now = datetime.now(UTC)
    return Certificate(
        Path(names[0]), key=None, names=names, key_type=key_type, not_after=now, not_before=now
    )


EXACT, WILD, OTHER = (
    make_certificate("imap.example.com"),
    make_certificate("*.example.com"),
    make_certificate("mail.example.org", "imap.example.org"),
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
def test_certificate_for_a_name(name: str, certificate: Certificate) -> None:
    assert find(index_by_name([OTHER, WILD, EXACT]).by_name, name) == (certificate,)


@pytest.mark.parametrize(
    "name",
    [
        # "*." covers exactly one label
        "example.com", "a.b.example.com", "pop.example.org", "", None, "unknown.example", "com", ".example.org", ".",
    ],
)  # fmt: skip
def test_unmatched_name_finds_no_certificate(name: str | None) -> None:
    index = index_by_name([OTHER, WILD, EXACT])
    assert find(index.by_name, name) is None
    assert index.default == (OTHER,)


def test_empty_index_finds_no_certificate() -> None:
    assert find(index_by_name([]).by_name, "imap.example.com") is None
    assert index_by_name([]).default == ()


def test_exact_name_wins_in_any_order() -> None:
    for order in ([EXACT, WILD], [WILD, EXACT]):
        assert find(index_by_name(order).by_name, "imap.example.com") == (EXACT,)


def test_first_certificate_is_the_default() -> None:
    assert index_by_name([WILD, EXACT, OTHER]).default == (WILD,)
    assert index_by_name([OTHER, WILD]).default == (OTHER,)


def test_one_certificate_per_key_type_is_used() -> None:
    ecdsa, rsa = make_certificate("imap.example.com"), make_certificate("imap.example.com", key_type=RSA)
    newer = make_certificate("imap.example.com")
    assert find(index_by_name([rsa, ecdsa, newer]).by_name, "imap.example.com") == (rsa, ecdsa)
    assert index_by_name([rsa, ecdsa, newer]).default == (rsa, ecdsa)


def test_default_set_does_not_mix_names() -> None:
    ecdsa, rsa = make_certificate("imap.example.com"), make_certificate("pop.example.com", key_type=RSA)
    index = index_by_name([ecdsa, rsa])
    assert index.default == (ecdsa,)
    assert find(index.by_name, "pop.example.com") == (rsa,)


def test_default_set_adds_covering_certificate() -> None:
    ecdsa = make_certificate("imap.example.com", "pop.example.com")
    partial, covering = (
        make_certificate("imap.example.com", key_type=RSA),
        make_certificate("pop.example.com", "imap.example.com", "sieve.example.com", key_type=RSA),
    )
    assert index_by_name([ecdsa, partial, covering]).default == (ecdsa, covering)


# Handshakes.


async def served_certificate(
    server: Terminator, client: ssl.SSLContext, name: str | None
) -> x509.Certificate:
    """Return the certificate that a client gets when it asks for a name."""
    client_socket, server_socket = socket.socketpair()
    server_socket.setblocking(False)

    offer = server.select(name)
    assert offer is not None

    async def accept() -> None:
        (await accept_tls(server_socket, offer.context)).close()

    async with Connection(trio.SocketStream(trio.socket.from_stdlib_socket(client_socket))) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            await connection.start_tls(client, name)
        assert connection.tls is not None
        der = connection.tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def client_context(ciphers: str | None = None) -> ssl.SSLContext:
    """Return a client context that accepts any certificate; with ``ciphers``, TLS 1.2 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if ciphers is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    return context


def terminator(*files: Path) -> Terminator:
    return Terminator(FrontendTls(), [read_certificate(file) for file in files])


def dns_names(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


async def test_client_gets_certificate_for_requested_name(
    throw_away_ca: ThrowAwayCA,
) -> None:
    names = ("imap.example.com", "*.example.com", "imap.example.org")
    server = terminator(*(throw_away_ca.issue(name) for name in names))
    for requested_name, name in [
        ("imap.example.org", "imap.example.org"),
        ("imap.example.com", "imap.example.com"),
        ("pop.example.com", "*.example.com"),
        ("elsewhere.example", "imap.example.com"),
        (None, "imap.example.com"),
    ]:
        certificate = await served_certificate(server, client_context(), requested_name)
        assert dns_names(certificate) == [name]


async def test_verifying_client_accepts_certificate(throw_away_ca: ThrowAwayCA) -> None:
    server = terminator(throw_away_ca.issue("first.example"), throw_away_ca.issue("*.second.example"))
    certificate = await served_certificate(server, throw_away_ca.client_context(), "imap.second.example")
    assert dns_names(certificate) == ["*.second.example"]


@pytest.mark.parametrize("order", [("ec", "rsa"), ("rsa", "ec")])
@pytest.mark.parametrize("name", ["imap.example.com", None])
async def test_client_gets_supported_key_type(
    throw_away_ca: ThrowAwayCA, order: tuple[str, str], name: str | None
) -> None:
    server = terminator(*(throw_away_ca.issue("imap.example.com", key_type=key_type) for key_type in order))  # type: ignore[arg-type]  # both are
    for ciphers, key_type in (
        ("ECDHE-RSA-AES128-GCM-SHA256", "RSA"),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "EC"),
    ):
        certificate = await served_certificate(server, client_context(ciphers), name)
        assert key_type in type(certificate.public_key()).__name__
    certificate = await served_certificate(server, client_context(), name)
    # Current clients prefer EC.
    assert "EC" in type(certificate.public_key()).__name__


async def test_key_in_a_separate_file(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    key, start, chain = (
        throw_away_ca.issue("imap.example.com").read_bytes().partition(b"-----BEGIN CERTIFICATE")
    )
    (tmp_path / "imap.key").write_bytes(key)
    (tmp_path / "imap.crt").write_bytes(start + chain)
    certificate = read_certificate(tmp_path / "imap.crt", tmp_path / "imap.key")
    server = Terminator(FrontendTls(), [certificate])
    assert dns_names(await served_certificate(server, client_context(), None)) == ["imap.example.com"]
