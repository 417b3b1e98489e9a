"""mailproxy introduces its clients to a real server: a frontend for each kind of header, clients of every kind."""

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
LONGEST_NAME = ".".join(
    [*(letter * 63 for letter in "abc"), "d" * 53, "example"]
)  # 253 bytes, as long as may be
MODES = ("forward", "tls")
OUTER_PROXIES = "127.8.0.0/16"  # who connects from there sends a PROXY header first

Address = tuple[str, int]


@attrs.frozen
class ClientCertificates:
    """A CA, the certificate of all servers, the proxy among them, and those of its clients."""

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
        """Key and certificate of whoever has this common name."""
        file = self.folder / f"of-{name.encode().hex()[:32]}.pem"
        leaf = self._authority.issue_cert("client@mail.example", common_name=name)
        leaf.private_key_and_cert_chain_pem.write_to_path(file)
        return file


@attrs.frozen
class SendProxyVariant:
    """A server, and what the backend says of it."""

    server: Address
    backend: str


@attrs.frozen(kw_only=True)
class Client:
    """Who connects: from ``host``, to an address of its family. Proxies are clients that begin with a ``header``."""

    host: str
    header: bytes = b""
    tls: bool = False
    shows: Path | None = None
    asks_for: str = NAME
    alpn: Sequence[str] = ()


class HeaderSender(Mailproxy):
    """Each way has a clear and a TLS bind, on both families. TLS asks for certificates and knows ALPN of more than mail."""

    def __init__(
        self, ways: Mapping[str, SendProxyVariant], papers: ClientCertificates, folder: Path
    ) -> None:
        self._papers = papers
        self._ports = free_ports(f"{way}-{mode}" for way in ways for mode in MODES)
        lines = ["[log]", 'to = "stdout"']
        for name, way in ways.items():
            # receivers hear of sessions alone; and not all of them speak IMAP
            lines += [*self._frontend(name), f"[backends.{name}]", way.backend, 'check = "none"']
            lines.append(f'servers = ["{way.server[0]}:{way.server[1]}"]')
        super().__init__("\n".join(lines) + "\n", folder, [(HOST, port) for port in self._ports.values()])

    def _frontend(self, name: str) -> list[str]:
        binds = [
            f'{{ address = "{host}:{self._ports[f"{name}-{mode}"]}", mode = "{mode}",'
            f' accept_proxy = ["{OUTER_PROXIES}"], proxy_optional = true }},'
            for host in (f"[{HOST6}]", HOST)
            for mode in MODES
        ]
        tls = (
            f'tls = {{ certificates = ["{self._papers.pem}"], client_ca = "{self._papers.ca}",'
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

    def connect(self, way: str, client: Client) -> socket.socket:
        """Connected to the proxy, its TLS handshake made."""
        host = HOST6 if ":" in client.host else HOST
        port = self._ports[f"{way}-{MODES[client.tls]}"]
        connection = socket.create_connection((host, port), TIMEOUT_S, source_address=(client.host, 0))
        connection.sendall(client.header)
        if not client.tls:
            return connection
        context = ssl.create_default_context(cafile=self._papers.ca)
        if client.alpn:
            context.set_alpn_protocols(list(client.alpn))
        if client.shows:
            context.load_cert_chain(client.shows)
        return context.wrap_socket(connection, server_hostname=client.asks_for)


class Smtp(smtplib.SMTP):
    """Python's own client on a connection that there is."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__(NAME, 25, "client.example", TIMEOUT_S)

    def _get_socket(self, *_: object) -> socket.socket:
        return self._connection


class Imap(imaplib.IMAP4):
    """Python's own client on a connection that there is."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__()

    def _create_socket(self, _: float | None) -> socket.socket:
        return self._connection
