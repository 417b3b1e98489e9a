"""TLSA records (RFC 6698, and RFC 7672 for mail): what to publish, and whether what is published matches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from mailproxy.acme.authority import read_next_key
from mailproxy.acme.keys import spki_of, spki_of_certificate
from mailproxy.address import TcpAddress
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config, Frontend
from mailproxy.config.acme_plan import AcmePlan, terminates
from mailproxy.config.path import ConfigPath, frontend_path
from mailproxy.net.tls.certificate import Certificate

_CA_USAGES = (0, 2)  # PKIX-TA and DANE-TA: a certificate above the server's
_USAGES = (0, 1, 2, 3)


@frozen(kw_only=True)
class Tlsa:
    """The data of a TLSA record.

    Attributes:
        usage: Which certificate of the chain it is about.
        selector: 0 for the whole certificate, 1 for its public key.
        matching: 0 for all of that, 1 for its SHA-256, 2 for its SHA-512.
        data: What must be equal.
    """

    usage: int
    selector: int
    matching: int
    data: bytes

    def matches(self, chain: Iterable[x509.Certificate]) -> bool:
        """Whether a chain, which begins with the server's certificate, matches the record."""
        above = self.usage in _CA_USAGES
        candidates = [each for index, each in enumerate(chain) if above or index == 0]
        return self.usage in _USAGES and any(self._select(each) == self.data for each in candidates)

    def _select(self, certificate: x509.Certificate) -> bytes | None:
        if self.selector not in (0, 1):
            return None
        selected = (
            spki_of_certificate(certificate)
            if self.selector
            else certificate.public_bytes(serialization.Encoding.DER)
        )
        match self.matching:
            case 0:
                return selected
            case 1:
                return hashlib.sha256(selected).digest()
            case 2:
                return hashlib.sha512(selected).digest()
        return None


@frozen(kw_only=True)
class Service:
    """A certificate that clients get for a name at a port.

    Attributes:
        path: The ``tls`` table of the frontend.
        name: The name.
        port: The port.
        certificate: The certificate.
    """

    path: ConfigPath
    name: str
    port: int
    certificate: Certificate


def services(config: Config, store: CertificateStore) -> Iterator[Service]:
    """Yield each certificate in use with each of its names and ports. Wildcards have no TLSA record."""
    for frontend in config.frontends.values():
        for port, certificates in _ports(config, frontend, store).items():
            for certificate in certificates:
                for name in certificate.names:
                    if not name.startswith("*."):
                        path = frontend_path(frontend.name) / "tls"
                        yield Service(path=path, name=name, port=port, certificate=certificate)


def _ports(config: Config, frontend: Frontend, store: CertificateStore) -> dict[int, list[Certificate]]:
    plan = AcmePlan(config)
    ports: dict[int, list[Certificate]] = {}
    for bind in frontend.bind:
        address, tls = bind.address, bind.tls
        if not isinstance(address, TcpAddress) or not address.port or tls is None:
            continue
        if not terminates(frontend, bind):
            continue
        files = {each.certificate for each in tls.certificates}
        files |= {managed.file for group in plan.groups_of(tls) for managed in group}
        found = ports.setdefault(address.port, [])
        for (file, _), (_, certificate) in store.certificates.items():
            if (file in files or files & set(file.parents)) and certificate not in found:
                found.append(certificate)
    return ports


def record_lines(config: Config, store: CertificateStore, names: tuple[str, ...]) -> Iterator[str]:
    """Yield the records to publish, as lines of a zone file: of the keys in use, and of those that are next.

    Args:
        config: The configuration.
        store: Its TLS files.
        names: The names that are wanted; all of them if there is none.
    """
    managed = {each.file: each for each in AcmePlan(config).certificates}
    for service in services(config, store):
        if names and service.name not in names:
            continue
        leaf = x509.load_pem_x509_certificate(service.certificate.chain_pem)
        end = f"{service.certificate.not_after:%Y-%m-%d}"
        yield _line(service, spki_of_certificate(leaf), f"in use, until {end}")
        wanted = managed.get(service.certificate.path)
        next_key = read_next_key(wanted) if wanted is not None and wanted.acme.next_key else None
        if next_key is not None:
            yield _line(service, spki_of(next_key), "the next certificate's")


def _line(service: Service, spki: bytes, comment: str) -> str:
    digest = hashlib.sha256(spki).hexdigest()
    return f"_{service.port}._tcp.{service.name}. IN TLSA 3 1 1 {digest} ; {comment}"


def chain_of(certificate: Certificate) -> list[x509.Certificate]:
    """Return the chain of a certificate's file, which begins with itself."""
    return x509.load_pem_x509_certificates(certificate.chain_pem)
