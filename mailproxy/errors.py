"""Everything that can go wrong, in one tree by whose fault it is.

Messages state fact and value. Faults of sockets and TLS are translated into this tree in ``net`` and nowhere else.
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
        path: The key's place in the file, such as ``frontends.imap.bind[0].mode``; empty for the file as a whole.
        fact: What is wrong, and what to write instead.
        line: The line of the key, from 1; None where there is no text or no such key.
        column: Where the key begins in its line, in characters, from 1.
        name: The name of the server or bind that the path counts, if it has one.
    """

    path: str
    fact: str
    line: int | None = field(default=None, eq=False, kw_only=True)
    column: int | None = field(default=None, eq=False, kw_only=True)
    name: str = field(default="", eq=False, kw_only=True)

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name and not self.fact.startswith(self.name) else ""
        return f"{self.path}{name}: {self.fact}" if self.path else self.fact

    def place(self, source: str) -> str:
        """``FILE:LINE:COLUMN: `` as far as known, to stand before the fault; empty without a file."""
        if not source:
            return ""
        return f"{source}: " if self.line is None else f"{source}:{self.line}:{self.column}: "


class ConfigError(MailproxyError):
    """The configuration is faulty. ``faults`` has every fault, in the order of the file where that is known."""

    def __init__(self, faults: Iterable[Fault], source: str = "") -> None:
        self.faults = tuple(faults)
        self.source = source
        super().__init__(self.faults, source)

    def __str__(self) -> str:
        return "\n".join(f"{fault.place(self.source)}{fault}" for fault in self.faults)


class ClientError(MailproxyError):
    """The client broke the rules or left."""


class ClientAbortError(ClientError):
    """The client's connection was reset or failed. ``said_something``: whether it had sent a byte before."""

    def __init__(self, message: str, *, said_something: bool = True) -> None:
        super().__init__(message)
        self.said_something = said_something


class ClientLeftError(ClientAbortError):
    """The client closed in an orderly way before it had said what it must say first."""


class ClientHandshakeError(ClientError):
    """The client's TLS handshake failed; the message has OpenSSL's reason."""


class ClientCertificateError(ClientHandshakeError):
    """The client's certificate is not accepted; ``in_chain``: because of one of those above it."""

    def __init__(self, message: str, *, in_chain: bool) -> None:
        super().__init__(message)
        self.in_chain = in_chain


class ServerError(MailproxyError):
    """A server could not be reached, broke the rules or left."""


class ServerRefusedError(ServerError):
    """The server refused the connection, is unreachable, or its name has no address; ``reason``: why, without the address.

    ``is_local``: this machine refused before anything was sent, for want of a route or of a free local port.
    ``is_clients``: the client's own address cannot be used towards this server, which says nothing of the server.
    """

    def __init__(
        self, message: str, reason: str = "", *, is_local: bool = False, is_clients: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.is_local = is_local
        self.is_clients = is_clients


class ServerHandshakeError(ServerError):
    """The TLS handshake with the server failed, or its certificate did; the message has OpenSSL's reason."""


class ProxyError(MailproxyError):
    """The proxy itself could not go on: out of descriptors or memory."""
