"""A certificate authority that lives as long as a test or a look."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime
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

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this CA, nobody else, and verifies names."""
        return _telling_ends_apart(ssl.create_default_context(cafile=self.pem))

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
