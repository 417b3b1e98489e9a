"""A certificate authority that lives as long as a test or a look."""

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
    """Issues certificates into files under ``folder``, which belongs to the caller and holds ``ca.pem`` afterwards.

    Raises ImportError if trustme is not installed, saying which extra has it.
    """

    def __init__(self, folder: Path) -> None:
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
        """Return the path of a new PEM file, mode 0600, with key and chain, for host names, wildcards or IP addresses.

        The file is named after the first name and the key type. A second one of that name does not replace the
        first: it gets a number, as a renewed certificate would sit beside the old.
        """
        certificate = self._ca.issue_cert(
            *names, key_type=self._keys[key_type], not_before=not_before, not_after=not_after
        )
        stem = f"{names[0].replace('*', '_').replace(':', '_').replace('/', '_')}-{key_type}"
        return _write_new(folder or self.folder, stem, certificate.private_key_and_cert_chain_pem.bytes())

    def issue_client(
        self, name: str, *, folder: Path | None = None, not_after: datetime | None = None
    ) -> Path:
        """Return the path of a new PEM file with key and chain for a client that is called so: its common name.

        Its alternative name is the same where that is an address of mail, else one of nobody.
        Files are named and numbered as those of ``issue``.
        """
        # Without any alternative name that extension would be empty, which strict verifiers refuse (RFC 5280 section
        # 4.2.1.6), Python's own since 3.13 among them.
        alternative = name if name.isascii() and "@" in name else "client.invalid"
        certificate = self._ca.issue_cert(alternative, common_name=name, not_after=not_after)
        stem = f"client-{name.replace('/', '_')}"
        return _write_new(folder or self.folder, stem, certificate.private_key_and_cert_chain_pem.bytes())

    def revoke(self, *certificates: Path, folder: Path | None = None) -> Path:
        """Return the path of a new revocation list, PEM, with the first certificate of each of these files; or of none."""
        from cryptography import x509  # as late as trustme: only who needs a CA pays for it
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
        """Return a context that trusts this CA, nobody else, and verifies names; it shows ``certificate`` if asked."""
        context = ssl.create_default_context(cafile=self.pem)
        if certificate is not None:
            context.load_cert_chain(certificate)
        return _telling_ends_apart(context)

    def server_context(self, *names: str, key_type: KeyType = "ec") -> ssl.SSLContext:
        """Return a server's context with a new certificate for ``names``."""
        return server_context(self.issue(*names, key_type=key_type))


def server_context(pem: Path) -> ssl.SSLContext:
    """Return a server's context with the key and chain of ``pem``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return _telling_ends_apart(context)


def _telling_ends_apart(context: ssl.SSLContext) -> ssl.SSLContext:
    # Early CPython 3.11 (Debian 12's) sets this: an end without close_notify would pass for one with it.
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
