"""What is known of a client: from its socket, its PROXY header, its ClientHello and its TLS handshake."""

from __future__ import annotations

import socket
from typing import Self

from attrs import define, field

from mailproxy.address import join_host_port
from mailproxy.net.listener import Listener
from mailproxy.net.tls.handshake import TlsInfo
from mailproxy.protocol.client_hello import ClientHello
from mailproxy.protocol.proxy_header import Header, HeaderV2, Tlv

Address = tuple[str, int]


@define(eq=False, weakref_slot=False)
class ClientInfo:
    """A client.

    Attributes:
        listener: The listener that accepted it.
        source: Its address; None for a Unix socket without a PROXY header.
        sock: Its connection, under TLS the one that decrypts.
        id: The id of its session.
        tlvs: The extensions of its PROXY header.
        hello: Its ClientHello.
        authority: The server name in the ClientHello, exactly as sent.
        is_proxy: Its PROXY header names no client, so ``source`` is the proxy in front.
        tls: Version, cipher and certificate of its TLS, once TLS ends here.
    """

    listener: Listener
    source: Address | None
    sock: socket.socket
    id: int = field(default=0, kw_only=True)
    tlvs: tuple[Tlv, ...] = field(default=(), kw_only=True)
    hello: ClientHello | None = field(default=None, kw_only=True)
    authority: str | None = field(default=None, kw_only=True)
    is_proxy: bool = field(default=False, kw_only=True)
    tls: TlsInfo | None = field(default=None, kw_only=True)
    _destination: Address | None = field(default=None, kw_only=True)

    @classmethod
    def accepted(cls, listener: Listener, sock: socket.socket, peer: object) -> Self:
        """Make it of an accepted connection; ``peer`` is its address, no tuple for a Unix socket."""
        return cls(listener, peer[:2] if isinstance(peer, tuple) else None, sock)

    @property
    def name(self) -> str:
        """The address for the log.

        Clients of a Unix socket have none and are named after their bind's number.
        """
        return join_host_port(*self.source) if self.source is not None else f"unix:{self.listener.number}"

    @property
    def host(self) -> str:
        """The address without the port, empty for clients of a Unix socket."""
        return self.source[0] if self.source is not None else ""

    @property
    def destination(self) -> Address | None:
        """The address that it connected to; None for a Unix socket."""
        if self._destination is None and self.source is not None:
            self._destination = self.listener.only_address or self.sock.getsockname()[:2]
        return self._destination

    @property
    def port(self) -> int | None:
        """The port that it connected to; None for a Unix socket."""
        return self.listener.port if self._destination is None else self._destination[1]

    def set_client_hello(self, hello: ClientHello) -> None:
        """Note its ClientHello."""
        self.hello, self.authority = hello, hello.authority

    def apply_proxy_header(self, header: Header) -> None:
        """Take the addresses and extensions of a PROXY header; LOCAL and UNKNOWN leave the real addresses."""
        self.tlvs = header.tlvs if isinstance(header, HeaderV2) else ()
        self.is_proxy = header.endpoints is None
        if header.endpoints is not None:
            self.source, self._destination = header.endpoints
