"""Keys and certificates of every kind: the proxy's, valid and invalid ones of clients, and the revocation list."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Digest = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

NAME = "mail.example.com"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@attrs.frozen
class Issuer:
    """A CA, whose own certificate is signed like the ones that it issues."""

    name: x509.Name
    key: Key
    digest: Digest | None = attrs.field(factory=hashes.SHA256, kw_only=True)
    scheme: padding.PSS | None = attrs.field(default=None, kw_only=True)

    def certificate(
        self, subject: x509.Name, key: Key, *, until: datetime = NOW + DAY, is_ca: bool = False
    ) -> x509.Certificate:
        names = [x509.DNSName(NAME), x509.DNSName("localhost")]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, self.digest, rsa_padding=self.scheme)
        )

    def self_signed(self) -> x509.Certificate:
        return self.certificate(self.name, self.key, is_ca=True)

    def revocation_list(self, *revoked: x509.Certificate) -> x509.CertificateRevocationList:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(NOW - DAY)
            .next_update(NOW + DAY)
        )
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(NOW - DAY).build())
        return builder.sign(self.key, self.digest)


def x509_name(*names: str) -> x509.Name:
    """Return a subject with these common names."""
    organization = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")]
    return x509.Name(organization + [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def write(file: Path, certificate: x509.Certificate, key: Key) -> Path:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
    return file


def ec_key(kind: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(kind or ec.SECP256R1())


@attrs.frozen
class Kind:
    """The key and signature of a self-signed certificate."""

    new_key: Callable[[], Key]
    digest: Digest | None
    scheme: padding.PSS | None = None


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)

# Certificates of a proxy. The usual ones are tested with every client.
USUAL = {
    "rsa": Kind(rsa_key, hashes.SHA256()),
    "ec": Kind(ec_key, hashes.SHA256()),
}
UNUSUAL = {
    "rsa-3072": Kind(lambda: rsa_key(3072), hashes.SHA512()),
    "rsa-pss": Kind(rsa_key, hashes.SHA256(), PSS),
    "p384": Kind(lambda: ec_key(ec.SECP384R1()), hashes.SHA384()),
    "p521": Kind(lambda: ec_key(ec.SECP521R1()), hashes.SHA512()),
    "ed25519": Kind(ed25519.Ed25519PrivateKey.generate, None),
}


@attrs.frozen
class CertificateSet:
    """Files in a folder: the CA of clients, its revocation list, and the certificates by client."""

    folder: Path
    ca: Path
    revoked: Path

    @classmethod
    def new(cls, folder: Path) -> CertificateSet:
        for name, kind in {**USUAL, **UNUSUAL}.items():
            issuer = Issuer(x509_name(NAME), key := kind.new_key(), digest=kind.digest, scheme=kind.scheme)
            write(folder / f"{name}.pem", issuer.self_signed(), key)
        issuer, other = (
            Issuer(x509_name("CA of clients"), ec_key()),
            Issuer(x509_name("CA of others"), ec_key()),
        )
        clients = {
            "alice": (issuer, x509_name("alice@example.com"), NOW + DAY),
            "no-name": (issuer, x509_name(), NOW + DAY),
            "two-names": (issuer, x509_name("alice@example.com", "bob@example.com"), NOW + DAY),
            "beyond-ascii": (issuer, x509_name("Jörg Müller, Größe 5/8 = 日本"), NOW + DAY),
            "expired": (issuer, x509_name("expired"), NOW - DAY),
            "revoked": (issuer, x509_name("revoked"), NOW + DAY),
            "foreign": (other, x509_name("alice@example.com"), NOW + DAY),
        }
        issued = {}
        for name, (signer, subject, until) in clients.items():
            key = ec_key()
            issued[name] = signer.certificate(subject, key, until=until)
            write(folder / f"{name}.pem", issued[name], key)
        chain = (folder / "foreign.pem").read_bytes() + other.self_signed().public_bytes(Encoding.PEM)
        (folder / "foreign-chain.pem").write_bytes(chain)
        result = cls(folder, folder / "ca.pem", folder / "crl.pem")
        result.ca.write_bytes(issuer.self_signed().public_bytes(Encoding.PEM))
        result.revoked.write_bytes(issuer.revocation_list(issued["revoked"]).public_bytes(Encoding.PEM))
        return result

    def path(self, name: str) -> Path:
        """Return the file with certificate and key."""
        return self.folder / f"{name}.pem"
