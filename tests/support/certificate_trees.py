"""Certificate files as certbot, acme.sh, lego, dehydrated and cert-manager write and renew them."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import trustme
from attrs import define, field

NAME = "imap.example.com"


@define
class CertificateTree:
    """A folder that one tool writes to. Each call of `issue` writes as the tool does at a renewal."""

    root: Path
    ca: trustme.CA = field(factory=lambda: trustme.CA().create_child_ca())
    issued: int = 0
    name: str = NAME
    environment: dict[str, str] = field(factory=dict)
    not_after: datetime | None = None
    served: ClassVar[str]

    def __attrs_post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.issue()

    @property
    def folder(self) -> Path:
        """Return the folder with the files of one certificate."""
        return self.root

    @property
    def certificate(self) -> Path:
        """Return the file with the full chain."""
        return self.folder / self.served

    def issue(self, name: str = NAME) -> None:
        """Issue the first certificate or a renewed one."""
        self.issued += 1
        self.name = name
        new = self.ca.issue_cert(name, not_after=self.not_after)
        leaf, *above = (pem.bytes() for pem in new.cert_chain_pems)
        self.write(new.private_key_pem.bytes(), leaf, b"".join(above))

    def write(self, key: bytes, leaf: bytes, chain: bytes) -> None:
        raise NotImplementedError


def _link(path: Path, target: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.symlink_to(target)
    new.rename(path)


def _write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    """Write a file as a tool does that replaces it in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.chmod(mode)
    return new.rename(path)


class Certbot(CertificateTree):
    """``archive/NAME/*N.pem``, and links to the newest in ``live/NAME``."""

    served = "fullchain.pem"

    @property
    def folder(self) -> Path:
        return self.root / "live" / NAME

    def write(self, key: bytes, leaf: bytes, chain: bytes) -> None:
        live = self.root / "live" / self.name
        live.mkdir(parents=True, exist_ok=True)
        _write(self.root / "live" / "README", b"This directory contains your keys and certificates.\n")
        _write(live / "README", b"This directory contains your keys and certificates.\n")
        files = {"cert": leaf, "privkey": key, "chain": chain, "fullchain": leaf + chain}
        for kind, content in files.items():
            mode = 0o600 if kind == "privkey" else 0o644
            _write(self.root / "archive" / self.name / f"{kind}{self.issued}.pem", content, mode)
            _link(live / f"{kind}.pem", f"../../archive/{self.name}/{kind}{self.issued}.pem")
        self.environment = {"RENEWED_LINEAGE": str(live), "RENEWED_DOMAINS": self.name}


class AcmeSh(CertificateTree):
    """``~/.acme.sh/NAME_ecc``."""

    served = "fullchain.cer"

    @property
    def folder(self) -> Path:
        return self.root / f"{NAME}_ecc"

    def write(self, key: bytes, leaf: bytes, chain: bytes) -> None:
        folder = self.root / f"{self.name}_ecc"
        _write(self.root / "account.conf", b"")
        _write(folder / f"{self.name}.conf", b"Le_Domain=''\n")
        _write(folder / f"{self.name}.csr", b"-----BEGIN CERTIFICATE REQUEST-----\n")
        _write(folder / f"{self.name}.key", key, 0o600)
        _write(folder / f"{self.name}.cer", leaf)
        _write(folder / "ca.cer", chain)
        _write(folder / "fullchain.cer", leaf + chain)
        self.environment = {
            "Le_Domain": self.name,
            "CERT_PATH": str(folder / f"{self.name}.cer"),
            "CERT_KEY_PATH": str(folder / f"{self.name}.key"),
            "CA_CERT_PATH": str(folder / "ca.cer"),
            "CERT_FULLCHAIN_PATH": str(folder / "fullchain.cer"),
        }


class Lego(CertificateTree):
    """``.lego/certificates``, for all names."""

    served = f"{NAME}.crt"

    def write(self, key: bytes, leaf: bytes, chain: bytes) -> None:
        _write(self.root / f"{self.name}.crt", leaf + chain, 0o600)
        _write(self.root / f"{self.name}.issuer.crt", chain, 0o600)
        _write(self.root / f"{self.name}.json", b"{}", 0o600)
        _write(self.root / f"{self.name}.key", key, 0o600)
        self.environment = {
            "LEGO_CERT_DOMAIN": self.name,
            "LEGO_CERT_PATH": str(self.root / f"{self.name}.crt"),
            "LEGO_CERT_KEY_PATH": str(self.root / f"{self.name}.key"),
        }


class Lego5(Lego):
    """Lego with the variable names that version 5 gives to hooks."""

    def write(self, key: bytes, leaf: bytes, chain: bytes) -> None:
        super().write(key, leaf, chain)
        self.environment = {
            "LEGO_HOOK_CERT_NAME": self.name,
            "LEGO_HOOK_CERT_PATH": str(self.root / f"{self.name}.crt"),
            "LEGO_HOOK_CERT_KEY_PATH": str(self.root / f"{self.name}.key"),
        }


class Dehydrated(CertificateTree):
    """``certs/NAME``, with the files of all renewals and links to the newest."""

    served = "fullchain.pem"

    @property
    def folder(self) -> Path:
        return self.root / NAME

    def write(self, key: bytes, leaf: bytes, chain: bytes) -> None:
        folder, time = self.root / self.name, 1764000000 + self.issued
        files = {"cert": leaf, "privkey": key, "chain": chain, "fullchain": leaf + chain}
        _write(folder / f"cert-{time}.csr", b"-----BEGIN CERTIFICATE REQUEST-----\n", 0o600)
        for kind, content in files.items():
            _write(folder / f"{kind}-{time}.pem", content, 0o600)
            _link(folder / f"{kind}.pem", f"{kind}-{time}.pem")
        _link(folder / "cert.csr", f"cert-{time}.csr")


class CertManager(CertificateTree):
    """A secret as Kubernetes mounts it: links through ``..data``, which is replaced by a link to a new folder."""

    served = "tls.crt"

    def write(self, key: bytes, leaf: bytes, chain: bytes) -> None:
        folder = self.root / f"..2026_11_29_15_00_{self.issued:02}.123"
        for file, content in {"tls.crt": leaf + chain, "tls.key": key, "ca.crt": chain}.items():
            _write(folder / file, content)
        _link(self.root / "..data", folder.name)
        for file in ("tls.crt", "tls.key", "ca.crt"):
            if not (self.root / file).is_symlink():
                _link(self.root / file, f"..data/{file}")
        for old in self.root.glob("..2026*"):
            if old != folder:
                shutil.rmtree(old)


TREES: list[type[CertificateTree]] = [Certbot, AcmeSh, Lego, Dehydrated, CertManager]
