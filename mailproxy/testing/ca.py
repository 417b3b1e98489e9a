"""A certificate authority for tests and demonstrations."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

KeyType = Literal["ec", "rsa"]

_MISSING = (
    "the throw-away CA needs trustme, which is not installed: "
    "pip install 'mailproxy[demo]', or 'mailproxy[testing]' for tests"
)


class ThrowAwayCA:
    """A certificate authority (CA) that issues certificates into PEM files.

    Its private key is in memory only. The files stay until the caller removes the folder.

    Attributes:
        folder: Where files go unless a method is given another folder.
        pem: The CA's own certificate, ``ca.pem`` in ``folder``.
    """

    def __init__(self, folder: Path) -> None:
        """Make a new CA and write its certificate.

        Args:
            folder: An existing folder.

        Raises:
            ImportError: Trustme is not installed. The message names the extra that has it.
        """
        try:
            import trustme
        except ImportError as missing:
            raise ImportError(_MISSING, name="trustme") from missing
        self.folder = folder
        self._ca: trustme.CA = trustme.CA()
        self._keys = {"ec": trustme.KeyType.ECDSA, "rsa": trustme.KeyType.RSA}
        self.pem = folder / "ca.pem"
        self.pem.write_bytes(self._ca.cert_pem.bytes())

    def __repr__(self) -> str:
        return f"<ThrowAwayCA {self.pem}>"

    def issue(
        self,
        *names: str,
        key_type: KeyType = "ec",
        folder: Path | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Path:
        """Issue a server certificate.

        The file is named after the first name and the key type. A second file of that name does not replace the first but
        gets a number, like a renewed certificate beside the old one.

        Args:
            names: Host names, wildcards or IP addresses, at least one.
            key_type: The type of the key.
            folder: Where the file goes, by default the folder of the CA.
            not_before: The begin of the validity, by default trustme's.
            not_after: The end of the validity, by default trustme's.

        Returns:
            The path of the new PEM file with key and chain, mode 0600.
        """
        certificate = self._ca.issue_cert(
            *names, key_type=self._keys[key_type], not_before=not_before, not_after=not_after
        )
        stem = f"{names[0].replace('*', '_').replace(':', '_').replace('/', '_')}-{key_type}"
        return _write_new(folder or self.folder, stem, certificate.private_key_and_cert_chain_pem.bytes())

    def issue_client(
        self, name: str, *, folder: Path | None = None, not_after: datetime | None = None
    ) -> Path:
        """Issue a client certificate.

        Files are named ``client-NAME.pem``, and numbered like those of ``issue``.

        Args:
            name: The common name. It is the subject alternative name, too, if it is a mail address.
            folder: Where the file goes, by default the folder of the CA.
            not_after: The end of the validity, by default trustme's.

        Returns:
            The path of the new PEM file with key and chain, mode 0600.
        """
        # Without an alternative name the extension would be empty. Strict verifiers reject that (RFC 5280 section 4.2.1.6),
        # among them Python's since 3.13.
        alternative = name if name.isascii() and "@" in name else "client.invalid"
        certificate = self._ca.issue_cert(alternative, common_name=name, not_after=not_after)
        stem = f"client-{name.replace('/', '_')}"
        return _write_new(folder or self.folder, stem, certificate.private_key_and_cert_chain_pem.bytes())

    def revoke(self, *certificates: Path, folder: Path | None = None) -> Path:
        """Write a certificate revocation list (CRL), valid for 30 days.

        Args:
            certificates: PEM files. The first certificate of each is revoked. Without any the list is empty.
            folder: Where the file goes, by default the folder of the CA.

        Returns:
            The path of the new PEM file.
        """
        from cryptography import x509  # imported here, like trustme, because it is slow to load
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

        key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)  # noqa: S101 - trustme's default
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(x509.load_pem_x509_certificate(self.pem.read_bytes()).subject)
            .last_update(now - timedelta(days=1))
            .next_update(now + timedelta(days=30))
        )
        for file in certificates:
            serial = x509.load_pem_x509_certificate(file.read_bytes()).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            )
        crl = builder.sign(key, hashes.SHA256())
        return _write_new(folder or self.folder, "crl", crl.public_bytes(serialization.Encoding.PEM))

    def client_context(self, certificate: Path | None = None) -> ssl.SSLContext:
        """Return a client's TLS context that trusts only this CA and verifies host names.

        Args:
            certificate: A PEM file with key and chain, which a server that asks for a client certificate gets.
        """
        context = ssl.create_default_context(cafile=self.pem)
        if certificate is not None:
            context.load_cert_chain(certificate)
        return _detect_unclean_eof(context)

    def server_context(self, *names: str, key_type: KeyType = "ec") -> ssl.SSLContext:
        """Return a server's TLS context with a new certificate for these names."""
        return server_context(self.issue(*names, key_type=key_type))


def server_context(pem: Path) -> ssl.SSLContext:
    """Return a server's TLS context with the key and chain of a PEM file."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return _detect_unclean_eof(context)


def _detect_unclean_eof(context: ssl.SSLContext) -> ssl.SSLContext:
    # Early versions of CPython 3.11 (Debian 12 has one) set this option: an end without close_notify would look like one
    # with it.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def _write_new(folder: Path, stem: str, content: bytes) -> Path:
    number = 1
    while True:
        path = folder / (f"{stem}.pem" if number == 1 else f"{stem}-{number}.pem")
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            number += 1
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            return path
