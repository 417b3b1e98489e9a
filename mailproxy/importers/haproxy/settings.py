"""What the global section sets for every proxy, and the sections that proxies name."""

from __future__ import annotations

from attrs import define, field, frozen

from mailproxy.importers.draft import Scalar
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.reader import Section
from mailproxy.importers.place import Word


@frozen
class Stored:
    """A certificate of a ``crt-store`` section.

    Attributes:
        certificate: Its file.
        key: The file of its key; empty if that is in the certificate's file.
        authority: The ``acme`` section that issues it; empty for none.
        domains: The names that it is issued for.
    """

    certificate: str
    key: str
    authority: str
    domains: tuple[str, ...]


@define
class Settings:
    """Settings of the global section.

    Attributes:
        ca_base: The folder of CA files; empty for none.
        crt_base: The folder of certificates; empty for none.
        bind_tls: Keys of TLS towards clients, with their lines.
        bind_options: The words of ``ssl-default-bind-options``.
        server_tls: Keys of TLS towards servers, with their lines.
        server_options: The words of ``ssl-default-server-options``.
        verifies_servers: Whether the certificates of servers are verified by default.
        log: The lines of log targets.
        log_tag: The line of the log's tag.
        spread_checks: The line with the share of jitter.
        resolve_intervals: The time after which the names of a resolvers section are asked again.
        stored: The certificates of crt-store sections, as ``crt`` names them.
        authorities: The acme sections by name.
    """

    ca_base: str = ""
    crt_base: str = ""
    bind_tls: dict[str, tuple[Scalar, Line]] = field(factory=dict)
    bind_options: list[Word] = field(factory=list)
    server_tls: dict[str, tuple[Scalar, Line]] = field(factory=dict)
    server_options: list[Word] = field(factory=list)
    verifies_servers: bool = True
    log: list[Line] = field(factory=list)
    log_tag: Line | None = None
    spread_checks: Line | None = None
    resolve_intervals: dict[str, tuple[str, Line]] = field(factory=dict)
    stored: dict[str, Stored] = field(factory=dict)
    authorities: dict[str, Section] = field(factory=dict)
