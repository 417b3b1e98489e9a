"""All errors of mailproxy, in one tree by whose fault they are.

A message states the fact and the value. Errors of sockets and TLS are translated into this tree in ``net``,
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen


class MailproxyError(Exception):
    """The root of the tree."""


@frozen
class Fault:
    """One thing that is wrong in a configuration.

    Attributes:
        path: The path of the key in the file, such as ``frontends.imap.bind[0].mode``. Empty for the file as
            a whole. A ``ConfigPath`` becomes its text.
        fact: What is wrong, and what to write instead.
        line: The line of the key, from 1. None without a text or without such a key.
        column: Where the key begins in its line, in characters, from 1.
        name: The name of the server or bind that the path counts, if it has one.
    """

    path: str = field(converter=str)
    fact: str
    line: int | None = field(default=None, eq=False, kw_only=True)
    column: int | None = field(default=None, eq=False, kw_only=True)
    name: str = field(default="", eq=False, kw_only=True)

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name and not self.fact.startswith(self.name) else ""
        return f"{self.path}{name}: {self.fact}" if self.path else self.fact

    def location(self, source: str) -> str:
        """Return the prefix ``FILE:LINE:COLUMN: ``, as far as known. Empty without a file."""
        if not source:
            return ""
        return f"{source}: " if self.line is None else f"{source}:{self.line}:{self.column}: "


class ConfigError(MailproxyError):
    """The configuration is faulty.

    Attributes:
        faults: Every fault, in the order of the file as far as known.
        source: The path of the file, empty without one.
    """

    def __init__(self, faults: Iterable[Fault], source: str = "") -> None:
        self.faults = tuple(faults)
        self.source = source
        super().__init__(self.faults, source)

    def __str__(self) -> str:
        return "\n".join(f"{fault.location(self.source)}{fault}" for fault in self.faults)


class ClientError(MailproxyError):
    """The client broke the rules or left."""


class ClientAbortError(ClientError):
    """The connection of the client was reset or failed.

    Attributes:
        has_sent: Whether the client had sent a byte before.
    """

    def __init__(self, message: str, *, has_sent: bool = True) -> None:
        super().__init__(message)
        self.has_sent = has_sent


class ClientLeftError(ClientAbortError):
    """The client closed in an orderly way before it had sent what must come first."""


class ClientHandshakeError(ClientError):
    """The TLS handshake with the client failed. The message has OpenSSL's reason."""


class ClientCertificateError(ClientHandshakeError):
    """The certificate of the client is not accepted.

    Attributes:
        in_chain: Whether a certificate above it is the cause.
    """

    def __init__(self, message: str, *, in_chain: bool) -> None:
        super().__init__(message)
        self.in_chain = in_chain


class ServerError(MailproxyError):
    """A server cannot be reached, broke the rules or left."""


class ServerRefusedError(ServerError):
    """The server refused the connection, is unreachable, or its host name has no address.

    Attributes:
        reason: Why, without the address that the message has.
        is_local: Whether this machine refused before anything was sent: it has no route or no free local
            port.
        is_client_fault: Whether the client's own address cannot be used towards this server. Then the error
            says nothing about the server.
    """

    def __init__(
        self, message: str, reason: str = "", *, is_local: bool = False, is_client_fault: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.is_local = is_local
        self.is_client_fault = is_client_fault


class ServerHandshakeError(ServerError):
    """The TLS handshake with the server failed, or its certificate is not accepted.

    The message has OpenSSL's reason.
    """


class ProxyError(MailproxyError):
    """The proxy itself cannot go on: it is out of descriptors or memory."""
