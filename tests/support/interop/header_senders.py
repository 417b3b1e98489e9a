"""mailproxy as a sender of PROXY headers to a real server: a frontend for each variant, clients of every kind."""

from __future__ import annotations

import imaplib
import smtplib
import socket
import ssl
from typing import TYPE_CHECKING

import attrs
import trustme

from tests.support.interop.entry_paths import HOST6, free_ports
from tests.support.interop.scripted_session import HOST
from tests.support.programs.program import TIMEOUT_S, Mailproxy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

NAME = "mail.example"
# 253 bytes, the maximum length.
LONGEST_NAME = ".".join([*(letter * 63 for letter in "abc"), "d" * 53, "example"])
MODES = ("forward", "tls")
OUTER_PROXIES = "127.8.0.0/16"  # clients from these addresses send a PROXY header first

Address = tuple[str, int]


@attrs.frozen
class ClientCertificates:
    """A CA, the certificate of all servers and the proxy, and the certificates of clients."""

    folder: Path
    ca: Path
    servers: trustme.LeafCert
    pem: Path
    _authority: trustme.CA

    @classmethod
    def new(cls, folder: Path) -> ClientCertificates:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        servers = authority.issue_cert("localhost", HOST, NAME, LONGEST_NAME, key_type=trustme.KeyType.RSA)
        servers.private_key_and_cert_chain_pem.write_to_path(folder / "servers.pem")
        return cls(folder, folder / "ca.pem", servers, folder / "servers.pem", authority)

    def path(self, name: str) -> Path:
        """Return a file with key and certificate of the client with this common name."""
        file = self.folder / f"of-{name.encode().hex()[:32]}.pem"
        leaf = self._authority.issue_cert("client@mail.example", common_name=name)
        leaf.private_key_and_cert_chain_pem.write_to_path(file)
        return file


@attrs.frozen
class SendProxyVariant:
    """A server, and the keys of its backend."""

    server: Address
    backend: str


@attrs.frozen(kw_only=True)
class Client:
    """A client that connects from `host` to an address of the same family. A proxy sends a `header` first."""

    host: str
    header: bytes = b""
    tls: bool = False
    certificate: Path | None = None
    server_name: str = NAME
    alpn: Sequence[str] = ()


class HeaderSender(Mailproxy):
    """A mailproxy that has a clear and a TLS bind for each variant, on both address families.

    Its TLS asks for certificates and accepts an ALPN protocol besides IMAP.
    """

    def __init__(
        self, variants: Mapping[str, SendProxyVariant], certificates: ClientCertificates, folder: Path
    ) -> None:
        self._certificates = certificates
        self._ports = free_ports(f"{variant}-{mode}" for variant in variants for mode in MODES)
        lines = ["[log]", 'to = "stdout"']
        for name, variant in variants.items():
            # No checks, because receivers log them, and not all of them speak IMAP.
            lines += [*self._frontend(name), f"[backends.{name}]", variant.backend, 'check = "none"']
            lines.append(f'servers = ["{variant.server[0]}:{variant.server[1]}"]')
        super().__init__("\n".join(lines) + "\n", folder, [(HOST, port) for port in self._ports.values()])

    def _frontend(self, name: str) -> list[str]:
        binds = [
            f'{{ address = "{host}:{self._ports[f"{name}-{mode}"]}", mode = "{mode}",'
            f' accept_proxy = ["{OUTER_PROXIES}"], proxy_optional = true }},'
            for host in (f"[{HOST6}]", HOST)
            for mode in MODES
        ]
        tls = (
            f'tls = {{ certificates = ["{self._certificates.pem}"], client_ca = "{self._certificates.ca}",'
            ' client_verify = "optional", alpn = ["imap", "h2"] }'
        )
        return [
            f"[frontends.{name}]",
            'protocol = "imap"',
            f'backend = "{name}"',
            tls,
            "bind = [",
            *binds,
            "]",
        ]

    def connect(self, variant: str, client: Client) -> socket.socket:
        """Return a connection to the proxy, after the TLS handshake if there is one."""
        host = HOST6 if ":" in client.host else HOST
        port = self._ports[f"{variant}-{MODES[client.tls]}"]
        connection = socket.create_connection((host, port), TIMEOUT_S, source_address=(client.host, 0))
        connection.sendall(client.header)
        if not client.tls:
            return connection
        context = ssl.create_default_context(cafile=self._certificates.ca)
        if client.alpn:
            context.set_alpn_protocols(list(client.alpn))
        if client.certificate:
            context.load_cert_chain(client.certificate)
        return context.wrap_socket(connection, server_hostname=client.server_name)


class Smtp(smtplib.SMTP):
    """Python's SMTP client on an existing connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__(NAME, 25, "client.example", TIMEOUT_S)

    def _get_socket(self, *_: object) -> socket.socket:
        return self._connection


class Imap(imaplib.IMAP4):
    """Python's IMAP client on an existing connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__()

    def _create_socket(self, _: float | None) -> socket.socket:
        return self._connection
