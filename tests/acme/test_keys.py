"""Keys, requests and the checks of what an authority has issued."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from cryptography import x509

from mailproxy.acme.client import describe, seconds_to_wait
from mailproxy.acme.errors import shown
from mailproxy.acme.keys import (
    NotIssuedError,
    PrivateKey,
    is_of_type,
    key_from_pem,
    key_to_pem,
    make_challenge_certificate,
    make_csr,
    make_key,
    read_issued,
    renewal_id,
    spki_of,
    verify_issued,
)
from mailproxy.acme.tlsa import Tlsa
from mailproxy.config.model import KeyType
from mailproxy.net.tls.certificate import must_staple
from mailproxy.testing import ThrowAwayCA

NAME = "imap.example.com"


@pytest.fixture
def issued(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> bytes:
    return throw_away_ca.issue(NAME, folder=tmp_path).read_bytes()


def chain_and_key(pem: bytes) -> tuple[bytes, PrivateKey]:
    """Split a file of key and chain."""
    blocks = re.findall(rb"-----BEGIN [^-]+-----.+?-----END [^-]+-----\n", pem, re.DOTALL)
    (key_pem,) = (block for block in blocks if b"KEY" in block)
    key = key_from_pem(key_pem)
    assert key is not None
    return b"".join(block for block in blocks if b"CERTIFICATE" in block), key


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
def test_key_has_its_type_and_survives_pem(key_type: KeyType) -> None:
    key = make_key(key_type)
    again = key_from_pem(key_to_pem(key))
    assert again is not None
    assert is_of_type(again, key_type)
    assert not is_of_type(again, "rsa-4096")
    assert spki_of(again) == spki_of(key)


def test_request_has_all_names_and_no_subject() -> None:
    csr = x509.load_der_x509_csr(make_csr(make_key("ecdsa-p256"), [NAME, "*.example.org"]))
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME, "*.example.org"]
    assert not list(csr.subject)
    assert csr.is_signature_valid


def test_issued_certificate_is_stored_with_its_key(issued: bytes) -> None:
    chain, key = chain_and_key(issued)
    stored = read_issued(verify_issued(chain, key, [NAME]).pem)
    assert stored is not None
    assert stored.names == (NAME,)
    assert spki_of(stored.key) == spki_of(key)


def test_other_key_is_rejected(issued: bytes) -> None:
    chain, _ = chain_and_key(issued)
    with pytest.raises(NotIssuedError, match="another key"):
        verify_issued(chain, make_key("ecdsa-p256"), [NAME])


def test_other_names_are_rejected(issued: bytes) -> None:
    chain, key = chain_and_key(issued)
    with pytest.raises(NotIssuedError, match=r"other names: imap\.example\.com"):
        verify_issued(chain, key, [NAME, "smtp.example.com"])


def test_chain_of_strangers_is_rejected(issued: bytes, tmp_path: Path) -> None:
    chain, key = chain_and_key(issued)
    (tmp_path / "other").mkdir()
    stranger = ThrowAwayCA(tmp_path / "other").pem.read_bytes()
    with pytest.raises(NotIssuedError, match="chain"):
        verify_issued(chain + stranger, key, [NAME])


@pytest.mark.parametrize(
    "nonsense", [b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_nonsense_is_rejected(nonsense: bytes) -> None:
    with pytest.raises(NotIssuedError, match="no certificate"):
        verify_issued(nonsense, make_key("ecdsa-p256"), [NAME])


@pytest.mark.parametrize("pem", [None, b"", b"nonsense"])
def test_damaged_file_holds_no_certificate(pem: bytes | None) -> None:
    assert read_issued(pem) is None


def test_file_with_other_key_holds_no_certificate(issued: bytes) -> None:
    chain, _ = chain_and_key(issued)
    assert read_issued(chain + key_to_pem(make_key("ecdsa-p256"))) is None


def test_challenge_certificate_has_the_digest() -> None:
    """RFC 8737 section 3: one name, and a critical extension with the digest of the key authorization."""
    certificate = x509.load_pem_x509_certificate(make_challenge_certificate(NAME, "token.thumbprint"))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == b"\x04\x20" + hashlib.sha256(b"token.thumbprint").digest()


# The example of RFC 9773 section 4.1.
EXAMPLE = b"""-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----
"""


def test_renewal_identifier_is_that_of_the_example() -> None:
    certificate = x509.load_pem_x509_certificate(EXAMPLE)
    assert renewal_id(certificate) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0), (" 5 ", 5.0), ("99999999999999", 604800.0), (None, None), ("soon", None), ("-5", None),
        ("Fri, 15 Jan 2027 08:00:10 GMT", 10.0), ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_date(header: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(header, 1_800_000_000.0) == seconds


def test_problem_is_described_with_subproblems() -> None:
    problem = {
        "detail": "no\nway",
        "subproblems": [{"identifier": {"value": "a.example"}, "detail": "bad"}, 5],
    }
    assert describe(problem) == "no way; a.example: bad"


def test_foreign_text_is_printable_and_bounded() -> None:
    assert shown("a\x1b[31m\n" + "b" * 500, 20) == "a?[31m bbbbbbbbbbbbb…"


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_record_matches_its_certificate_alone(issued: bytes, selector: int, matching: int) -> None:
    chain = x509.load_pem_x509_certificates(chain_and_key(issued)[0])
    probe = Tlsa(usage=3, selector=selector, matching=matching, data=b"")
    data = probe._select(chain[0])
    assert data is not None
    assert Tlsa(usage=3, selector=selector, matching=matching, data=data).matches(chain)
    assert not probe.matches(chain)
    assert not Tlsa(usage=9, selector=selector, matching=matching, data=data).matches(chain)


def test_ordinary_certificate_demands_no_stapling(issued: bytes) -> None:
    assert not must_staple(issued)
