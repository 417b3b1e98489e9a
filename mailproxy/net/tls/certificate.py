"""A certificate with its key, names and dates, and the index that finds certificates by server name.

``cryptography`` is imported late: only a configuration with certificates pays its 30 ms and 10 MB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from attrs import field, frozen

from mailproxy.net.tls.certificate_files import find_key, has_key, read_pem

if TYPE_CHECKING:
    from cryptography import x509

T = TypeVar("T")


Stamp = tuple[int, ...]
"""Changes when a file is replaced or written."""


def file_stamp(file: Path) -> Stamp:
    """Return the stamp of a file. Links are followed.

    Raises:
        OSError: If there is no such file, or it cannot be examined.
    """
    info = file.stat()
    # ctime also changes with permissions and owners: a file that could not be read before may be readable
    # now.
    return info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino, info.st_dev


@frozen
class Certificate:
    """One certificate file with its key.

    The content of the files is kept, so that a new context can be made when the key can no longer be read,
    after the change of user.

    Attributes:
        path: The file.
        key: The file of the key, None if the key is in the certificate's own file.
        names: Its DNS names in lower case, with wildcards.
        key_type: The type of the key, as an object identifier in dotted form.
        not_after: The end of its validity, in UTC.
        not_before: The begin of its validity, in UTC.
        signature_algorithm: In OpenSSL's words (``RSA-SHA256``), empty if OpenSSL has none.
        key_algorithm: In OpenSSL's words (``RSA2048``), empty if OpenSSL has none.
        stamps: The stamp of the file and, if the key has a file of its own, that file's.
        chain_pem: The content of the file.
        key_pem: The content of the key's file, None if the key is in the certificate's own file.
        placeholder: What clients get while ACME has not obtained it: a self-signed certificate, or a closed
            connection. None for a certificate of a file.
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
    placeholder: Literal["self-signed", "refuse"] | None = field(default=None, kw_only=True)


def read_certificate(path: Path, key: Path | None = None) -> Certificate:
    """Read the first certificate of a PEM file, and its key.

    Args:
        path: The file of the certificate.
        key: The file of the key. Without it the key is searched for in ``path``, then in files beside it.

    Raises:
        OSError: If a file cannot be read.
        PemFileError: If a file cannot hold a certificate or key: it is too large, or no regular file.
        ValueError: With the fact, if there is no usable certificate.
    """
    # Taken before reading: a file that is replaced meanwhile must count as changed in the next scan.
    stamps: tuple[Stamp, ...] = (file_stamp(path),)
    data = read_pem(path)
    if key is None and not has_key(data):
        key = find_key(path)
    if key is not None:
        stamps += (file_stamp(key),)
    key_pem = read_pem(key) if key is not None else None
    with _parsing("has no certificate in PEM form", with_reason=False):
        from cryptography import x509

        leaf = x509.load_pem_x509_certificate(data)
    with _parsing("has names that cannot be read"):
        names = _names(leaf)
    with _parsing("has a certificate that cannot be read"):
        return Certificate(
            path,
            key=key,
            names=names,
            # Not ``public_key()``: cryptography may not know the curve.
            key_type=leaf.public_key_algorithm_oid.dotted_string,
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
    """Raise ValueError with ``fact`` for any exception of the block.

    The exceptions of ``cryptography`` have no common base class: some are a ValueError, others a plain
    Exception, and each version adds some.
    """
    try:
        yield
    except MemoryError:  # not the file's fault
        raise
    except Exception as error:  # noqa: BLE001 - translated at this edge, as the docstring says
        raise ValueError(f"{fact}: {error}" if with_reason and str(error) else fact) from None


def is_authority(pem: bytes) -> bool:
    """Whether the first certificate in a PEM text belongs to a CA, and to no server: it has no DNS name."""
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
        is_ca = first.version is x509.Version.v1 and first.issuer == first.subject  # old roots
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return is_ca
    return is_ca and not names.get_values_for_type(x509.DNSName)


def must_staple(pem: bytes) -> bool:
    """Whether the first certificate in a PEM text demands a stapled OCSP response (RFC 7633)."""
    from cryptography import x509

    try:
        with _parsing("has a certificate that cannot be read"):
            feature = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.TLSFeature)
            return x509.TLSFeatureType.status_request in feature.value
    except ValueError:
        return False


_CRL_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def next_update(path: Path) -> datetime | None:
    """Return when the first revocation list of a file will be out of date, in UTC. None if no list says.

    Raises:
        OSError: If the file cannot be read.
        ValueError: With the fact, if it has a list that cannot be parsed.
    """
    data = read_pem(path)
    with _parsing("has a revocation list that cannot be read"):
        from cryptography import x509

        ends = [x509.load_pem_x509_crl(pem).next_update_utc for pem in _CRL_BLOCK.findall(data)]
    return min((end for end in ends if end is not None), default=None)


# OpenSSL's short names.
_SIGNATURES = {
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
_KEY_ALGORITHMS = {"1.2.840.113549.1.1.1": "RSA", "1.2.840.10045.2.1": "EC"}


def _key_algorithm(leaf: x509.Certificate) -> str:
    algorithm = _KEY_ALGORITHMS.get(leaf.public_key_algorithm_oid.dotted_string)
    if algorithm is None:
        return ""
    try:
        with _parsing("unknown key"):
            bits = getattr(leaf.public_key(), "key_size", None)
    except ValueError:  # a curve that cryptography does not know, though OpenSSL may
        return ""
    return f"{algorithm}{bits}" if bits else ""


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
    """The certificates by server name.

    Each entry has one certificate for each key type: the first that matches.

    Attributes:
        default: For clients without SNI, or with an unknown name.
        by_name: By name in lower case, with wildcards.
    """

    default: tuple[Certificate, ...]
    by_name: Mapping[str, tuple[Certificate, ...]]


def find(by_name: Mapping[str, T], name: str | None) -> T | None:
    """Return the value for a server name, else for its first label's wildcard (RFC 6125 section 6.4.3)."""
    if not name:
        return None
    name = name.lower().rstrip(".")
    return by_name.get(name) or by_name.get("*." + name.partition(".")[2])


def index_by_name(certificates: Sequence[Certificate]) -> CertificateIndex:
    """Index certificates by their names.

    The default is the first one, with certificates of other key types that have all of its names.
    """
    names = dict.fromkeys(name for certificate in certificates for name in certificate.names)
    by_name = {
        name: _one_of_each_key_type(certificate for certificate in certificates if name in certificate.names)
        for name in names
    }
    if not certificates:
        return CertificateIndex((), {})
    first = certificates[0]
    same_names = (certificate for certificate in certificates if set(certificate.names) >= set(first.names))
    return CertificateIndex(_one_of_each_key_type([first, *same_names]), by_name)


def _one_of_each_key_type(certificates: Iterable[Certificate]) -> tuple[Certificate, ...]:
    by_type: dict[str, Certificate] = {}
    for certificate in certificates:
        by_type.setdefault(certificate.key_type, certificate)
    return tuple(by_type.values())
