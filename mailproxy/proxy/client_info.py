"""Who is calling: what is known of a client by the socket, by a PROXY header, by its ClientHello and by its TLS."""

from __future__ import annotations

import socket

from attrs import define, field

from mailproxy.address import join_host_port
from mailproxy.net.listener import Listener
from mailproxy.net.tls.handshake import TlsInfo
from mailproxy.protocol.client_hello import ClientHello
from mailproxy.protocol.proxy_header import Header, HeaderV2, Tlv

Address = tuple[str, int]


@define(eq=False)
class ClientInfo:
    """A client. ``source`` is its address, None where it came over a Unix socket and no header told another one;
    ``sock`` is its connection, under TLS the one that speaks it; ``id`` is the session's; ``authority`` is the
    server name that its TLS asks for, to the letter; ``tlvs`` are the extensions of the header that it came with.
    ``is_proxy``: its header names no client, so that the address is that of the proxy in front.
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

    @property
    def name(self) -> str:
        """For the log; clients of a Unix socket have no address and are called after their bind's number."""
        return join_host_port(*self.source) if self.source is not None else f"unix:{self.listener.number}"

    @property
    def host(self) -> str:
        """Its address without the port, empty for clients of a Unix socket."""
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
        """Take over what its ClientHello says."""
        self.hello, self.authority = hello, hello.authority

    def apply_proxy_header(self, header: Header) -> None:
        """Take over what a PROXY header says; LOCAL and UNKNOWN leave the real addresses."""
        self.tlvs = header.tlvs if isinstance(header, HeaderV2) else ()
        self.is_proxy = header.endpoints is None
        if header.endpoints is not None:
            self.source, self._destination = header.endpoints
