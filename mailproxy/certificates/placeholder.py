"""What a bind has before its first certificate by ACME: a self-signed certificate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailproxy.net.tls.certificate import Certificate

_DAYS = 3650  # it is replaced long before, and a warning about its end would mislead
_COMMON_NAME_MAX = 64  # characters (RFC 5280 appendix A.1)


def make_placeholder(file: Path, names: Sequence[str], *, is_refused: bool) -> Certificate:
    """Make a self-signed certificate for names whose certificate is not there yet.

    Args:
        file: Where the certificate will be.
        names: Its DNS names.
        is_refused: Whether clients are closed instead of getting it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    end = begin + timedelta(days=_DAYS)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:_COMMON_NAME_MAX])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(
        file,
        key=None,
        names=tuple(names),
        key_type=certificate.public_key_algorithm_oid.dotted_string,
        not_after=end,
        not_before=begin,
        key_algorithm="EC256",
        chain_pem=certificate.public_bytes(serialization.Encoding.PEM) + key_pem,
        placeholder="refuse" if is_refused else "self-signed",
    )
