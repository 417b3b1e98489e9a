"""Private keys and signing requests, and the checks of what an authority has issued for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

from mailproxy.config.model import KeyType

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CURVES: Mapping[str, ec.EllipticCurve] = {"ecdsa-p256": ec.SECP256R1(), "ecdsa-p384": ec.SECP384R1()}
_BITS: Mapping[str, int] = {"rsa-2048": 2048, "rsa-3072": 3072, "rsa-4096": 4096}
_ACME_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737 section 6.1
_CERTIFICATES_MAX = 10  # in a chain


class NotIssuedError(ValueError):
    """What an authority has sent is not the certificate that was ordered. The message says why."""


@frozen(kw_only=True)
class Issued:
    """A certificate with its key, as it is stored.

    Attributes:
        pem: The content of the file: certificate, chain and key.
        leaf: The certificate itself.
        key: Its private key.
    """

    pem: bytes
    leaf: x509.Certificate
    key: PrivateKey

    @property
    def names(self) -> tuple[str, ...]:
        """Its DNS names in lower case."""
        return names_of(self.leaf)

    @property
    def lifetime(self) -> timedelta:
        """From the begin to the end of its validity."""
        return self.leaf.not_valid_after_utc - self.leaf.not_valid_before_utc


def make_key(key_type: KeyType) -> PrivateKey:
    """Return a new private key. An RSA key takes up to some seconds."""
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type])
    return rsa.generate_private_key(public_exponent=65537, key_size=_BITS[key_type])


def key_to_pem(key: PrivateKey) -> bytes:
    """Return a private key in PEM form, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(pem: bytes | str) -> PrivateKey | None:
    """Return the private key of a PEM text; None if it has none that can be used."""
    try:
        key = serialization.load_pem_private_key(pem.encode() if isinstance(pem, str) else pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)) else None


def is_of_type(key: PrivateKey, key_type: KeyType) -> bool:
    """Whether a key has the configured type."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key_type in _CURVES and key.curve.name == _CURVES[key_type].name
    return key.key_size == _BITS.get(key_type)


def spki_of(key: PrivateKey) -> bytes:
    """Return the public key of a private key, as the SubjectPublicKeyInfo of a certificate."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def spki_of_certificate(certificate: x509.Certificate) -> bytes:
    """Return the public key of a certificate."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def make_csr(key: PrivateKey, names: Sequence[str]) -> bytes:
    """Return a certificate signing request in DER form."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = request.add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
    )
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names of a certificate in lower case."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


def verify_issued(chain_pem: bytes, key: PrivateKey, names: Sequence[str]) -> Issued:
    """Return an issued certificate with its key, ready to be stored.

    Dates are not compared with the clock, which may be wrong here.

    Args:
        chain_pem: What the authority has sent.
        key: The key of the request.
        names: The names that were ordered.

    Raises:
        NotIssuedError: If it is something else.
    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError:
        raise NotIssuedError("the authority has sent no certificate") from None
    if len(chain) > _CERTIFICATES_MAX:
        raise NotIssuedError(f"the authority has sent a chain of {len(chain)} certificates")
    leaf = chain[0]
    try:
        has_key = spki_of_certificate(leaf) == spki_of(key)
        has_names = set(names) <= set(names_of(leaf))
        for certificate, issuer in pairwise(chain):
            certificate.verify_directly_issued_by(issuer)
    except Exception as error:  # noqa: BLE001 - cryptography's exceptions have no common base class
        raise NotIssuedError(f"the authority has sent a chain that cannot be used: {error!r}") from None
    if not has_key:
        raise NotIssuedError("the authority has sent a certificate of another key")
    if not has_names:
        raise NotIssuedError(
            f"the authority has sent a certificate for other names: {', '.join(names_of(leaf))}"
        )
    if leaf.not_valid_after_utc <= leaf.not_valid_before_utc:
        raise NotIssuedError("the authority has sent a certificate that is never valid")
    text = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    return Issued(pem=text + key_to_pem(key), leaf=leaf, key=key)


def read_issued(pem: bytes | None) -> Issued | None:
    """Return the certificate and key of a stored file; None if there is none that can be used."""
    if pem is None:
        return None
    try:
        leaf = x509.load_pem_x509_certificate(pem)
        names_of(leaf)
    except Exception:  # noqa: BLE001 - as above
        return None
    key = key_from_pem(pem[pem.find(b"-----BEGIN PRIVATE KEY") :])
    if key is None or spki_of(key) != spki_of_certificate(leaf):
        return None
    return Issued(pem=pem, leaf=leaf, key=key)


def has_issuer(chain_pem: bytes, common_name: str) -> bool:
    """Whether a certificate of a chain was issued by an issuer with this common name."""
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        return any(
            attribute.value == common_name
            for certificate in chain
            for attribute in certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        )
    except Exception:  # noqa: BLE001 - as above; such a chain is not chosen
        return False


def renewal_id(certificate: x509.Certificate) -> str | None:
    """Return the identifier of a certificate for renewal information (RFC 9773 section 4.1).

    None if the certificate has no authority key identifier.
    """
    from josepy.b64 import b64encode

    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    identifier = extension.value.key_identifier
    if identifier is None:
        return None
    serial = certificate.serial_number
    serial_bytes = serial.to_bytes(serial.bit_length() // 8 + 1, "big")  # with room for the sign bit
    return f"{b64encode(identifier).decode()}.{b64encode(serial_bytes).decode()}"


def make_challenge_certificate(name: str, key_authorization: str) -> bytes:
    """Return certificate and key with which a bind answers tls-alpn-01 (RFC 8737 section 3), in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    digest = hashlib.sha256(key_authorization.encode()).digest()
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        # An OCTET STRING of 32 bytes.
        .add_extension(x509.UnrecognizedExtension(_ACME_IDENTIFIER, b"\x04\x20" + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key_to_pem(key)
