"""The PROXY header on the wire: the first bytes that are received from a client, or sent to a server."""

from __future__ import annotations

import socket

from mailproxy.errors import ServerRefusedError
from mailproxy.net.peek import consume, peek
from mailproxy.net.tls.errors import error_reason
from mailproxy.protocol.proxy_header import (
    Command,
    Header,
    HeaderV2,
    UnhandledProtocolError,
    parse,
)


async def receive_header(sock: socket.socket) -> Header:
    """Read the header at the beginning of the connection, and nothing behind it.

    Raises:
        HeaderError: The header is missing or invalid, or for a protocol other than TCP.
        ClientLeftError: The client closed first.
        ClientAbortError: The client's connection failed.

    Cancellation:
        The timeout is the caller's cancel scope. After an error or a cancellation nothing has been consumed.
    """
    header, length = await peek(sock, parse)
    if isinstance(header, HeaderV2) and header.command is Command.PROXY and header.endpoints is None:
        # PROXY protocol 2.2 leaves this to the receiver. With the sender's own address in place of the
        # client's, such clients would bypass every rule based on addresses. Postfix and HAProxy refuse it,
        # too.
        raise UnhandledProtocolError(f"0x{header.protocol:02x} is neither TCP over IPv4 nor over IPv6")
    consume(sock, length)
    return header


def send_header(sock: socket.socket, header: bytes) -> None:
    """Send a header in one piece, as the PROXY protocol, section 2, demands.

    A new connection's buffer holds all of it.

    Raises:
        ServerRefusedError: The socket did not take it.
    """
    try:
        sent = sock.send(header)
    except OSError as error:
        raise ServerRefusedError(f"the PROXY header could not be sent: {error_reason(error)}") from None
    if sent < len(header):
        raise ServerRefusedError(f"the socket took {sent} of the PROXY header's {len(header)} bytes")
