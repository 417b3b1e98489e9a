"""The PROXY header that a server gets about the client, made so that Dovecot and Postfix accept it.

Dovecot closes the connection for an ALPN that is not its own protocol's, and for an AUTHORITY that is not a
DNS name. Postfix reads 536 bytes, and understands TCP over IPv4 and IPv6 and LOCAL. So the default has
nothing that they reject. What goes beyond has to be configured. The order of the extensions (TLVs) is
HAProxy's.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

from mailproxy import config
from mailproxy.address import map_to_ipv6, unmap_ipv4
from mailproxy.net.tls.tls_socket import client_certificate
from mailproxy.protocol.proxy_header import (
    Client,
    Command,
    HeaderV1,
    HeaderV2,
    Protocol,
    Ssl,
    Tlv,
    TlvError,
    Type,
    format_ssl,
    format_tcp,
    format_tlvs,
    format_v1,
    format_v2,
    parse_ssl,
    with_checksum,
)
from mailproxy.proxy.client_info import Address, ClientInfo

# The largest header. It fits the smallest segment that every host accepts, so it arrives in one piece (PROXY
# section 2), and it is what Postfix reads.
HEADER_BYTES = 536
# The largest header with a client certificate, which does not fit into 536 bytes: what current versions of
# nginx read.
HEADER_WITH_CERTIFICATE_BYTES = 4096

_FIXED_BYTES, _TLV_HEAD_BYTES, _CHECKSUM_TLV_BYTES, _SSL_HEAD_BYTES = 16, 3, 7, 5
_BLOCK_BYTES = {Protocol.UNSPEC: 0, Protocol.TCP4: 12, Protocol.TCP6: 36}
# As registered with IANA. The other protocols have none.
_ALPN = {"imap": "imap", "pop3": "pop3", "sieve": "managesieve"}
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\Z", re.IGNORECASE | re.ASCII
)
# Extensions of a received header that are not forwarded, because they are about the bytes of that header.
_OWN_TYPES = {Type.CRC32C, Type.NOOP}
_SSL_TLVS = {"ssl-cipher", "cert-sig", "cert-key", "client-cert"}


class ProxyHeaderBuilder:
    """Makes the PROXY headers for one server."""

    def __init__(self, server: config.Server, protocol: str) -> None:
        """Read which headers the server gets.

        Args:
            server: The server's table in the configuration.
            protocol: The backend's protocol, whose ALPN the server accepts.
        """
        kind, configured = server.send_proxy, set(server.send_proxy_tlvs)
        self._is_v1 = kind == "v1"
        self._configured = configured
        self._has_checksum = "crc32c" in configured
        self._alpn = _ALPN.get(protocol)
        self._with_ssl = kind in ("v2-ssl", "v2-ssl-cn") or bool(configured & _SSL_TLVS)
        self._with_name = kind == "v2-ssl-cn"
        self._forwards = server.forward_tlvs
        # Apart from an ALPN, which only a client with TLS has.
        self._has_no_tlvs = kind == "v2" and not configured and not server.forward_tlvs
        self._max_bytes = HEADER_WITH_CERTIFICATE_BYTES if "client-cert" in configured else HEADER_BYTES

    def build(self, client_info: ClientInfo) -> bytes:
        """Return the header for this client."""
        addresses = _addresses(client_info)
        if self._is_v1:
            return format_v1(_v1(addresses))
        if addresses is None:
            # As HAProxy does: without the client's addresses, only the proxy's own connection can be
            # described.
            return format_v2(HeaderV2(command=Command.LOCAL))
        protocol, source, destination = addresses
        if self._has_no_tlvs and client_info.tls is None:
            return format_tcp(source, destination)
        tlvs = self._extensions(client_info)
        max_bytes = self._max_bytes - _FIXED_BYTES - _BLOCK_BYTES[protocol]
        fitting = _fit_to_size(tlvs, max_bytes - self._has_checksum * _CHECKSUM_TLV_BYTES)
        if not self._has_checksum:
            return format_tcp(source, destination, format_tlvs(fitting))
        header = HeaderV2(
            command=Command.PROXY, protocol=protocol, source=source, destination=destination, tlvs=fitting
        )
        return format_v2(with_checksum(header))

    def _extensions(self, client_info: ClientInfo) -> list[Tlv]:
        tls, configured = client_info.tls, self._configured
        tlvs = []
        if tls is not None and tls.alpn and (tls.alpn == self._alpn or "alpn" in configured):
            tlvs.append(Tlv(Type.ALPN, tls.alpn.encode()))
        if "authority" in configured and (name := client_info.authority) and _HOST_NAME.match(name):
            tlvs.append(Tlv(Type.AUTHORITY, name.encode()))
        if "unique-id" in configured:
            tlvs.append(Tlv(Type.UNIQUE_ID, f"{client_info.id:x}".encode()))
        received = [tlv for tlv in client_info.tlvs if self._may_forward(tlv)] if self._forwards else []
        if self._with_ssl and (tls is not None or not any(tlv.type == Type.SSL for tlv in received)):
            tlvs.append(format_ssl(self._ssl(client_info)))
        if received:
            own = _OWN_TYPES | {tlv.type for tlv in tlvs}
            tlvs += (tlv for tlv in received if tlv.type not in own)
        return tlvs

    def _may_forward(self, tlv: Tlv) -> bool:
        """Whether a received extension is as well-formed as those that are made here.

        An empty ALPN makes Dovecot's login process exit, with all its connections.
        """
        text = tlv.value.decode("utf-8", "replace")
        if tlv.type == Type.ALPN:
            return bool(text) and (text == self._alpn or "alpn" in self._configured)
        if tlv.type == Type.SSL:
            return _is_well_formed_ssl(tlv.value)
        return tlv.type != Type.AUTHORITY or bool(_HOST_NAME.match(text))

    def _ssl(self, client_info: ClientInfo) -> Ssl:
        """Return the SSL extension about the client's TLS, all zero if it had none, as HAProxy sends it."""
        tls = client_info.tls
        if tls is None:
            return Ssl(client=Client(0), verify=0)
        client = Client.SSL
        if tls.has_client_certificate:  # it was verified, or the handshake would have failed
            client |= Client.CERT_SESS if tls.is_resumed else Client.CERT_SESS | Client.CERT_CONN
        values: list[tuple[Type, str | None]] = [(Type.SSL_VERSION, tls.version)]
        if self._with_name:
            values.append((Type.SSL_CN, tls.client_name))
        configured, certificate = self._configured, tls.certificate
        if "cert-key" in configured and certificate is not None:
            values.append((Type.SSL_KEY_ALG, certificate.key_algorithm))
        if "cert-sig" in configured and certificate is not None:
            values.append((Type.SSL_SIG_ALG, certificate.signature_algorithm))
        if "ssl-cipher" in configured:
            values.append((Type.SSL_CIPHER, tls.cipher))
        extensions = [Tlv(kind, value.encode()) for kind, value in values if value]
        if (
            "client-cert" in configured
            and tls.has_client_certificate
            and (der := client_certificate(client_info.sock))
        ):
            extensions.append(Tlv(Type.SSL_CLIENT_CERT, der))
        max_bytes = (
            self._max_bytes - _FIXED_BYTES - _BLOCK_BYTES[Protocol.TCP6] - _TLV_HEAD_BYTES - _SSL_HEAD_BYTES
        )
        max_bytes -= self._has_checksum * _CHECKSUM_TLV_BYTES
        return Ssl(client=client, verify=0, extensions=_fit_to_size(extensions, max_bytes))


def local_header(kind: str, sock: socket.socket) -> bytes:
    """Return the header of a connection that the proxy makes for itself, such as a health check.

    It is LOCAL in version 2. Version 1 has no such word, so the header has the connection's own addresses
    (PROXY section 2.1: UNKNOWN is for addresses that cannot be given).

    Args:
        kind: The server's ``send_proxy``.
        sock: The connection.
    """
    if kind != "v1":
        return format_v2(HeaderV2(command=Command.LOCAL))
    own, peer = sock.getsockname(), sock.getpeername()
    if not isinstance(own, tuple) or not isinstance(peer, tuple):
        return format_v1(_v1(None))
    return format_v1(_v1(_in_one_family(own[:2], peer[:2])))


def _is_well_formed_ssl(value: bytes) -> bool:
    """Whether this is a well-formed SSL extension with printable names.

    Dovecot closes the connection for a broken one.
    """
    try:
        extensions = parse_ssl(value).extensions
    except TlvError:
        return False
    # A receiver in C ends a name at a zero byte, so that it would be the name of another user.
    names = (tlv.value for tlv in extensions if tlv.type == Type.SSL_CN)
    return all(name.decode("utf-8", "replace").isprintable() for name in names)


def _addresses(client_info: ClientInfo) -> tuple[Protocol, Address, Address] | None:
    """Return both addresses in one family: IPv4 if both are IPv4 or mapped, else IPv6.

    None if one is missing.
    """
    source, destination = client_info.source, client_info.destination
    if source is None or destination is None:
        return None
    return _in_one_family(source, destination)


def _in_one_family(source: Address, destination: Address) -> tuple[Protocol, Address, Address]:
    source_host, destination_host = unmap_ipv4(source[0]), unmap_ipv4(destination[0])
    if ":" not in source_host and ":" not in destination_host:
        return Protocol.TCP4, (source_host, source[1]), (destination_host, destination[1])
    # Zones of link-local addresses (RFC 4007) have a meaning on this machine only.
    hosts = [map_to_ipv6(host.partition("%")[0]) for host in (source_host, destination_host)]
    return Protocol.TCP6, (hosts[0], source[1]), (hosts[1], destination[1])


def _v1(addresses: tuple[Protocol, Address, Address] | None) -> HeaderV1:
    if addresses is None:
        return HeaderV1(protocol="UNKNOWN")
    protocol, source, destination = addresses
    return HeaderV1(
        protocol="TCP4" if protocol is Protocol.TCP4 else "TCP6", source=source, destination=destination
    )


def _fit_to_size(tlvs: Sequence[Tlv], max_bytes: int) -> tuple[Tlv, ...]:
    """Return the extensions that fit, in their order.

    None is cut: one that is too long is left out. The SSL extension is tried first, so it is the last to be
    left out.
    """
    if sum(map(_size, tlvs)) <= max_bytes:
        return tuple(tlvs)
    fitting = set()
    for index in sorted(range(len(tlvs)), key=lambda index: tlvs[index].type != Type.SSL):
        if _size(tlvs[index]) <= max_bytes:
            fitting.add(index)
            max_bytes -= _size(tlvs[index])
    return tuple(tlv for index, tlv in enumerate(tlvs) if index in fitting)


def _size(tlv: Tlv) -> int:
    return _TLV_HEAD_BYTES + len(tlv.value)
