"""Certificate files: which names they are for, which kind of key, until when; and which to use for a server name.

``cryptography`` is loaded only by a configuration that has certificates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attrs import field, frozen

from mailproxy.net.tls.certificate_files import find_key, has_key, read_pem

if TYPE_CHECKING:
    from cryptography import x509

T = TypeVar("T")


Stamp = tuple[int, ...]
"""What changes when a file is replaced or written."""


def stamp_of(file: Path) -> Stamp:
    """Of the file that a link leads to. Raises OSError."""
    found = file.stat()
    # the second time changes with rights and owners, too: what could not be read before perhaps can be now
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


@frozen
class Certificate:
    """One certificate file. ``names`` are lower-case DNS names, wildcards included; ``not_after`` is in UTC.

    ``signature_algorithm`` and ``key_algorithm`` are in OpenSSL's words (``RSA-SHA256``, ``RSA2048``), empty for those
    that it has no word for. ``stamps`` are those of the file and of the key's; ``chain_pem`` and ``key_pem`` what stood in
    them, so that a context can be made anew when the key cannot be read any more.
    """

    path: Path
    key: Path | None = field(kw_only=True)
    names: tuple[str, ...] = field(kw_only=True)
    key_type: str = field(kw_only=True)
    not_after: datetime = field(kw_only=True)
    not_before: datetime = field(kw_only=True)
    signature_algorithm: str = field(default="", kw_only=True)
    key_algorithm: str = field(default="", kw_only=True)
    stamps: tuple[Stamp, ...] = field(default=(), kw_only=True)
    chain_pem: bytes = field(default=b"", kw_only=True, repr=False, eq=False)
    key_pem: bytes | None = field(default=None, kw_only=True, repr=False, eq=False)


def read_certificate(path: Path, key: Path | None = None) -> Certificate:
    """Read the first certificate of a PEM file. Its key is in ``key``, else in the same file, else in one beside it.

    Raises OSError if one of them cannot be read, PemFileError if it is no fit file, ValueError with the fact if there is no
    certificate in it.
    """
    # before reading: a file that is replaced meanwhile must look changed the next time
    stamps: tuple[Stamp, ...] = (stamp_of(path),)
    data = read_pem(path)
    if key is None and not has_key(data):
        key = find_key(path)
    if key is not None:
        stamps += (stamp_of(key),)
    key_pem = read_pem(key) if key is not None else None
    with _parsing("has no certificate in PEM form", with_reason=False):
        from cryptography import x509  # takes 30 ms and 10 MB, which a forwarding proxy need not pay

        leaf = x509.load_pem_x509_certificate(data)
    with _parsing("has names that cannot be read"):
        names = _names(leaf)
    with _parsing("has a certificate that cannot be read"):
        return Certificate(
            path,
            key=key,
            names=names,
            key_type=leaf.public_key_algorithm_oid.dotted_string,  # its curve may be unknown to cryptography
            not_after=leaf.not_valid_after_utc,
            not_before=leaf.not_valid_before_utc,
            signature_algorithm=_SIGNATURES.get(leaf.signature_algorithm_oid.dotted_string, ""),
            key_algorithm=_key_algorithm(leaf),
            stamps=stamps,
            chain_pem=data,
            key_pem=key_pem,
        )


@contextmanager
def _parsing(fact: str, *, with_reason: bool = True) -> Iterator[None]:
    """Raise ValueError with ``fact`` for each exception of the block.

    The exceptions of ``cryptography`` have no base class in common: some are a ValueError, others a plain Exception, and
    each version adds some.
    """
    try:
        yield
    except MemoryError:  # not the file's fault
        raise
    except Exception as error:  # noqa: BLE001 - translated at this edge, as the docstring says
        raise ValueError(f"{fact}: {error}" if with_reason and str(error) else fact) from None


def is_authority(pem: bytes) -> bool:
    """Is the first certificate that of a CA, and of no server: without a DNS name?"""
    from cryptography import x509

    try:
        with _parsing("has a certificate that cannot be read"):
            first = x509.load_pem_x509_certificate(pem)
            extensions = first.extensions
    except ValueError:
        return False
    try:
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = first.version is x509.Version.v1 and first.issuer == first.subject  # as roots once were
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return is_ca
    return is_ca and not names.get_values_for_type(x509.DNSName)


_CRL_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def next_update(path: Path) -> datetime | None:
    """When the first of the file's revocation lists is out of date, in UTC; None if none says. Raises OSError, ValueError."""
    data = read_pem(path)
    with _parsing("has a revocation list that cannot be read"):
        from cryptography import x509

        ends = [x509.load_pem_x509_crl(pem).next_update_utc for pem in _CRL_BLOCK.findall(data)]
    return min((end for end in ends if end is not None), default=None)


_SIGNATURES = {  # OpenSSL's short names
    "1.2.840.113549.1.1.5": "RSA-SHA1",
    "1.2.840.113549.1.1.14": "RSA-SHA224",
    "1.2.840.113549.1.1.11": "RSA-SHA256",
    "1.2.840.113549.1.1.12": "RSA-SHA384",
    "1.2.840.113549.1.1.13": "RSA-SHA512",
    "1.2.840.113549.1.1.10": "RSASSA-PSS",
    "1.2.840.10045.4.1": "ecdsa-with-SHA1",
    "1.2.840.10045.4.3.1": "ecdsa-with-SHA224",
    "1.2.840.10045.4.3.2": "ecdsa-with-SHA256",
    "1.2.840.10045.4.3.3": "ecdsa-with-SHA384",
    "1.2.840.10045.4.3.4": "ecdsa-with-SHA512",
    "1.3.101.112": "ED25519",
    "1.3.101.113": "ED448",
}
_KEYS = {"1.2.840.113549.1.1.1": "RSA", "1.2.840.10045.2.1": "EC"}


def _key_algorithm(leaf: x509.Certificate) -> str:
    word = _KEYS.get(leaf.public_key_algorithm_oid.dotted_string)
    if word is None:
        return ""
    try:
        with _parsing("unknown key"):
            bits = getattr(leaf.public_key(), "key_size", None)
    except ValueError:  # a curve that cryptography does not know, and OpenSSL perhaps does
        return ""
    return f"{word}{bits}" if bits else ""


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if not names:  # old certificates have only a common name
        names = [str(a.value) for a in leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return tuple(name.lower() for name in names)


@frozen
class CertificateIndex:
    """Which certificates serve which server name: side by side one for each kind of key, the first that fits."""

    default: tuple[Certificate, ...]
    by_name: Mapping[str, tuple[Certificate, ...]]


def find(by_name: Mapping[str, T], name: str | None) -> T | None:
    """What is for the exact name, else for the wildcard that covers its first label (RFC 6125 section 6.4.3)."""
    if not name:
        return None
    name = name.lower().rstrip(".")
    return by_name.get(name) or by_name.get("*." + name.partition(".")[2])


def index_by_name(certificates: Sequence[Certificate]) -> CertificateIndex:
    """Sort certificates by the names that they are for; the first one's set is the default."""
    names = dict.fromkeys(name for certificate in certificates for name in certificate.names)
    by_name = {
        name: _one_of_each_key(certificate for certificate in certificates if name in certificate.names)
        for name in names
    }
    if not certificates:
        return CertificateIndex((), {})
    first = certificates[0]
    alike = (certificate for certificate in certificates if set(certificate.names) >= set(first.names))
    return CertificateIndex(_one_of_each_key([first, *alike]), by_name)


def _one_of_each_key(certificates: Iterable[Certificate]) -> tuple[Certificate, ...]:
    by_type: dict[str, Certificate] = {}
    for certificate in certificates:
        by_type.setdefault(certificate.key_type, certificate)
    return tuple(by_type.values())
