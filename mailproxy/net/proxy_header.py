"""The PROXY header on the wire: received before all else, or sent before all else."""

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
    """Take the header from the beginning of the connection, and nothing behind it.

    Raises HeaderError, ClientLeftError or ClientAbortError; nothing has been consumed then. The time limit is the
    caller's cancel scope.
    """
    header, length = await peek(sock, parse)
    if isinstance(header, HeaderV2) and header.command is Command.PROXY and header.endpoints is None:
        # PROXY 2.2 leaves it to the receiver: with the sender's own address instead, whatever goes by the client's would
        # be evaded. Postfix and HAProxy refuse it, too.
        raise UnhandledProtocolError(f"0x{header.protocol:02x} is neither TCP over IPv4 nor over IPv6")
    consume(sock, length)
    return header


def send_header(sock: socket.socket, header: bytes) -> None:
    """Send it at once, as PROXY 2 demands: a fresh connection's buffer takes it whole. Raises ServerRefusedError."""
    try:
        sent = sock.send(header)
    except OSError as error:
        raise ServerRefusedError(f"the PROXY header could not be sent: {error_reason(error)}") from None
    if sent < len(header):
        raise ServerRefusedError(f"the socket took {sent} of the PROXY header's {len(header)} bytes")
