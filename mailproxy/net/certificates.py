"""Certificate files: which names they are for, which kind of key, until when; and which to use for a server name.

``cryptography`` is loaded only by a configuration that has certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from cryptography import x509

_SUFFIXES = {".pem", ".crt", ".cer"}
_FILE_MAX = 2**20  # bytes; a chain with its key takes a few thousand


@frozen
class Certificate:
    """One certificate file. ``names`` are lower-case DNS names, wildcards included; ``not_after`` is in UTC."""

    path: Path
    key: Path | None = field(kw_only=True)
    names: tuple[str, ...] = field(kw_only=True)
    key_type: str = field(kw_only=True)
    not_after: datetime = field(kw_only=True)
    not_before: datetime = field(kw_only=True)


def read_certificate(path: Path, key: Path | None = None) -> Certificate:
    """Read the first certificate of a PEM file.

    Raises OSError if it cannot be read, ValueError with the fact if there is no certificate in it.
    """
    from cryptography import x509  # takes 30 ms and 10 MB, which a forwarding proxy need not pay

    with path.open("rb") as file:
        data = file.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise ValueError(f"is larger than {_FILE_MAX} bytes")
    try:
        leaf = x509.load_pem_x509_certificate(data)
    except ValueError:
        raise ValueError("has no certificate in PEM form") from None
    try:
        names = _names(leaf)
    except (ValueError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension) as error:
        raise ValueError(f"has names that cannot be read: {error}") from None
    return Certificate(
        path,
        key=key,
        names=names,
        key_type=leaf.public_key_algorithm_oid.dotted_string,  # the key itself may be of a curve unknown to cryptography
        not_after=leaf.not_valid_after_utc,
        not_before=leaf.not_valid_before_utc,
    )


def certificate_files(place: Path) -> list[Path]:
    """The file itself, or the certificate files of a folder in alphabetical order. Raises OSError."""
    if not place.is_dir():
        return [place]
    return sorted(
        file for file in place.iterdir() if file.suffix in _SUFFIXES and not file.name.startswith(".")
    )


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
class Choice:
    """Which certificates serve which server name: side by side one for each kind of key, the first that fits."""

    default: tuple[Certificate, ...]
    by_name: Mapping[str, tuple[Certificate, ...]]

    def for_name(self, name: str | None) -> tuple[Certificate, ...]:
        """Exact name, else the wildcard that covers its first label (RFC 6125 section 6.4.3), else the default."""
        if not name:
            return self.default
        name = name.lower().rstrip(".")
        exact = self.by_name.get(name)
        return exact or self.by_name.get("*." + name.partition(".")[2], self.default)


def choose(certificates: Sequence[Certificate]) -> Choice:
    """Sort certificates by the names that they are for; the first one's set is the default."""
    names = dict.fromkeys(name for certificate in certificates for name in certificate.names)
    by_name = {
        name: _one_of_each_key(certificate for certificate in certificates if name in certificate.names)
        for name in names
    }
    first = certificates[0]
    alike = (certificate for certificate in certificates if set(certificate.names) >= set(first.names))
    return Choice(_one_of_each_key([first, *alike]), by_name)


def _one_of_each_key(certificates: Iterable[Certificate]) -> tuple[Certificate, ...]:
    by_type: dict[str, Certificate] = {}
    for certificate in certificates:
        by_type.setdefault(certificate.key_type, certificate)
    return tuple(by_type.values())
