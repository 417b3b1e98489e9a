"""What a server is told about the client: the PROXY header that goes out, made for receivers that exist.

Dovecot ends the connection for an ALPN that is not its own protocol's or an AUTHORITY that is no DNS name; Postfix reads
536 bytes and knows TCP over IPv4 and IPv6 and LOCAL. So the default brings none of what they refuse; more must be asked
for. The order of the extensions is HAProxy's.
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

# A header that is never cut on its way: the payload of the smallest segment that every host takes (PROXY 2), and all
# that Postfix reads.
HEADER_BYTES = 536
# With a certificate in it, which was asked for and does not fit that: as much as nginx reads nowadays.
HEADER_WITH_CERTIFICATE_BYTES = 4096

_FIXED_BYTES, _TLV_HEAD_BYTES, _CHECKSUM_TLV_BYTES, _SSL_HEAD_BYTES = 16, 3, 7, 5
_BLOCK_BYTES = {Protocol.UNSPEC: 0, Protocol.TCP4: 12, Protocol.TCP6: 36}
# Registered with IANA; the other protocols have none.
_ALPN = {"imap": "imap", "pop3": "pop3", "sieve": "managesieve"}
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\Z", re.IGNORECASE | re.ASCII
)
# Of a received header, what is not passed on: it was about that one's bytes.
_OWN_TYPES = {Type.CRC32C, Type.NOOP}
_SSL_TLVS = {"ssl-cipher", "cert-sig", "cert-key", "client-cert"}


class ProxyHeaderBuilder:
    """Makes the headers for one server. ``protocol`` is the backend's."""

    def __init__(self, server: config.Server, protocol: str) -> None:
        kind, chosen = server.send_proxy, set(server.send_proxy_tlvs)
        self._is_v1 = kind == "v1"
        self._chosen = chosen
        self._has_checksum = "crc32c" in chosen
        self._alpn = _ALPN.get(protocol)
        self._with_ssl = kind in ("v2-ssl", "v2-ssl-cn") or bool(chosen & _SSL_TLVS)
        self._with_name = kind == "v2-ssl-cn"
        self._forwards = server.forward_tlvs
        self._has_no_tlvs = kind == "v2" and not chosen and not server.forward_tlvs  # but for an ALPN
        self._max_bytes = HEADER_WITH_CERTIFICATE_BYTES if "client-cert" in chosen else HEADER_BYTES

    def build(self, caller: ClientInfo) -> bytes:
        """The header for this client."""
        addresses = _addresses(caller)
        if self._is_v1:
            return format_v1(_v1(addresses))
        if addresses is None:
            # As HAProxy does: without addresses there is only the proxy's own connection to speak of.
            return format_v2(HeaderV2(command=Command.LOCAL))
        protocol, source, destination = addresses
        if self._has_no_tlvs and caller.tls is None:
            return format_tcp(source, destination)
        tlvs = self._extensions(caller)
        room = self._max_bytes - _FIXED_BYTES - _BLOCK_BYTES[protocol]
        fitting = _fit_to_size(tlvs, room - self._has_checksum * _CHECKSUM_TLV_BYTES)
        if not self._has_checksum:
            return format_tcp(source, destination, format_tlvs(fitting))
        header = HeaderV2(
            command=Command.PROXY, protocol=protocol, source=source, destination=destination, tlvs=fitting
        )
        return format_v2(with_checksum(header))

    def _extensions(self, caller: ClientInfo) -> list[Tlv]:
        tls, chosen = caller.tls, self._chosen
        tlvs = []
        if tls is not None and tls.alpn and (tls.alpn == self._alpn or "alpn" in chosen):
            tlvs.append(Tlv(Type.ALPN, tls.alpn.encode()))
        if "authority" in chosen and (name := caller.authority) and _HOST_NAME.match(name):
            tlvs.append(Tlv(Type.AUTHORITY, name.encode()))
        if "unique-id" in chosen:
            tlvs.append(Tlv(Type.UNIQUE_ID, f"{caller.id:x}".encode()))
        received = [tlv for tlv in caller.tlvs if self._may_forward(tlv)] if self._forwards else []
        if self._with_ssl and (tls is not None or not any(tlv.type == Type.SSL for tlv in received)):
            tlvs.append(format_ssl(self._ssl(caller)))
        if received:
            own = _OWN_TYPES | {tlv.type for tlv in tlvs}
            tlvs += (tlv for tlv in received if tlv.type not in own)
        return tlvs

    def _may_forward(self, tlv: Tlv) -> bool:
        """What is passed on must be as what is said here; an empty ALPN ends Dovecot's login process and all in it."""
        text = tlv.value.decode("utf-8", "replace")
        if tlv.type == Type.ALPN:
            return bool(text) and (text == self._alpn or "alpn" in self._chosen)
        if tlv.type == Type.SSL:
            return _is_well_formed_ssl(tlv.value)
        return tlv.type != Type.AUTHORITY or bool(_HOST_NAME.match(text))

    def _ssl(self, caller: ClientInfo) -> Ssl:
        """What the client's TLS was; all zero where it had none, as HAProxy says it."""
        tls = caller.tls
        if tls is None:
            return Ssl(client=Client(0), verify=0)
        client = Client.SSL
        if tls.has_client_certificate:  # it was verified, or there would be no session
            client |= Client.CERT_SESS if tls.is_resumed else Client.CERT_SESS | Client.CERT_CONN
        values: list[tuple[Type, str | None]] = [(Type.SSL_VERSION, tls.version)]
        if self._with_name:
            values.append((Type.SSL_CN, tls.client_name))
        chosen, ours = self._chosen, tls.certificate
        if "cert-key" in chosen and ours is not None:
            values.append((Type.SSL_KEY_ALG, ours.key_algorithm))
        if "cert-sig" in chosen and ours is not None:
            values.append((Type.SSL_SIG_ALG, ours.signature_algorithm))
        if "ssl-cipher" in chosen:
            values.append((Type.SSL_CIPHER, tls.cipher))
        extensions = [Tlv(kind, value.encode()) for kind, value in values if value]
        if (
            "client-cert" in chosen
            and tls.has_client_certificate
            and (der := client_certificate(caller.sock))
        ):
            extensions.append(Tlv(Type.SSL_CLIENT_CERT, der))
        room = (
            self._max_bytes - _FIXED_BYTES - _BLOCK_BYTES[Protocol.TCP6] - _TLV_HEAD_BYTES - _SSL_HEAD_BYTES
        )
        room -= self._has_checksum * _CHECKSUM_TLV_BYTES
        return Ssl(client=client, verify=0, extensions=_fit_to_size(extensions, room))


def local_header(kind: str, sock: socket.socket) -> bytes:
    """The header of a connection that the proxy makes on its own behalf, ``sock`` being that one.

    LOCAL in version 2; version 1 has no word for it, so there it tells the connection's own addresses (PROXY section 2.1:
    UNKNOWN is for what cannot be told).
    """
    if kind != "v1":
        return format_v2(HeaderV2(command=Command.LOCAL))
    own, peer = sock.getsockname(), sock.getpeername()
    if not isinstance(own, tuple) or not isinstance(peer, tuple):
        return format_v1(_v1(None))
    return format_v1(_v1(_in_one_family(own[:2], peer[:2])))


def _is_well_formed_ssl(value: bytes) -> bool:
    """Is it an SSL extension whose names are as those that are said here? Dovecot ends the connection for a broken one."""
    try:
        extensions = parse_ssl(value).extensions
    except TlvError:
        return False
    # A receiver in C ends a name at a zero byte, which would make another user of it.
    names = (tlv.value for tlv in extensions if tlv.type == Type.SSL_CN)
    return all(name.decode("utf-8", "replace").isprintable() for name in names)


def _addresses(caller: ClientInfo) -> tuple[Protocol, Address, Address] | None:
    """Both addresses in one family: IPv4 if both are, mapped ones included, else IPv6."""
    source, destination = caller.source, caller.destination
    if source is None or destination is None:
        return None
    return _in_one_family(source, destination)


def _in_one_family(source: Address, destination: Address) -> tuple[Protocol, Address, Address]:
    source_host, destination_host = unmap_ipv4(source[0]), unmap_ipv4(destination[0])
    if ":" not in source_host and ":" not in destination_host:
        return Protocol.TCP4, (source_host, source[1]), (destination_host, destination[1])
    # Zones of link-local addresses (RFC 4007) mean something on this machine only.
    hosts = [map_to_ipv6(host.partition("%")[0]) for host in (source_host, destination_host)]
    return Protocol.TCP6, (hosts[0], source[1]), (hosts[1], destination[1])


def _v1(addresses: tuple[Protocol, Address, Address] | None) -> HeaderV1:
    if addresses is None:
        return HeaderV1(protocol="UNKNOWN")
    protocol, source, destination = addresses
    return HeaderV1(
        protocol="TCP4" if protocol is Protocol.TCP4 else "TCP6", source=source, destination=destination
    )


def _fit_to_size(tlvs: Sequence[Tlv], room: int) -> tuple[Tlv, ...]:
    """Those that fit, in their order; one that is too long is left out as a whole, the SSL extension last of all."""
    if sum(map(_size, tlvs)) <= room:
        return tuple(tlvs)
    fitting = set()
    for index in sorted(range(len(tlvs)), key=lambda index: tlvs[index].type != Type.SSL):
        if _size(tlvs[index]) <= room:
            fitting.add(index)
            room -= _size(tlvs[index])
    return tuple(tlv for index, tlv in enumerate(tlvs) if index in fitting)


def _size(tlv: Tlv) -> int:
    return _TLV_HEAD_BYTES + len(tlv.value)
