"""The dialogue with a server before a session is joined to it: STARTTLS, and the greeting that is swallowed.

The parser is ``protocol/opening/``. Sessions whose client gets the server's own greeting need none of this.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from mailproxy.address import unmap_ipv4
from mailproxy.errors import ClientAbortError, ServerHandshakeError, ServerRefusedError
from mailproxy.log import end_reasons
from mailproxy.net.poller import AnyPoller
from mailproxy.net.simple_io import receive_at, send_all_at, send_to_client, send_to_server
from mailproxy.net.tls.errors import error_reason
from mailproxy.protocol.gate.gate import Gate
from mailproxy.protocol.opening.identity import Identity
from mailproxy.protocol.opening.opening import Opening
from mailproxy.protocol.opening.registry import OPENINGS
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.session.errors import SessionEndedError
from mailproxy.proxy.session.negotiation import Greeted, host_name


def make_opening(
    server: BackendServer, protocol: str, client_info: ClientInfo, greeted: Greeted | None
) -> Opening | None:
    """Return the opening of a session with a server, None if it needs none.

    Args:
        server: The server.
        protocol: The protocol that it speaks.
        client_info: The client.
        greeted: What the client has sent, if the proxy has greeted it.
    """
    if greeted is None and not server.opens:
        return None
    if greeted is not None and greeted.is_over_tls and protocol == "sieve" and not server.opens:
        return None  # the server's greeting is what the client waits for: the capabilities over TLS
    return OPENINGS[protocol](
        starttls=server.starts_tls,
        identity=_identity(server, client_info),
        hello=greeted.hello if greeted is not None else b"",
        name=host_name(),
    )


def _identity(server: BackendServer, client_info: ClientInfo) -> Identity | None:
    """Return the client's identity for the server, None for none."""
    source, destination = client_info.source, client_info.destination
    if server.config.identity not in ("xclient", "id") or source is None:
        return None
    return Identity(
        address=(unmap_ipv4(source[0].partition("%")[0]), source[1]),
        destination=None
        if destination is None
        else (unmap_ipv4(destination[0].partition("%")[0]), destination[1]),
        session=f"{client_info.id:x}",
    )


async def open_session(
    sock: socket.socket,
    opening: Opening,
    poller: AnyPoller,
    start_tls: Callable[[socket.socket], Awaitable[socket.socket]],
) -> socket.socket:
    """Talk with a server until the session can be joined.

    Args:
        sock: A connection to it, which the poller has.
        opening: The dialogue.
        poller: The poller.
        start_tls: Makes the TLS handshake. It takes the socket over, and closes it if it fails.

    Returns:
        The connection, with TLS if the opening has upgraded it.

    Raises:
        ServerHandshakeError: The server does not upgrade the connection.
        ServerRefusedError: The server does not go along, or its connection failed.

    Closes:
        ``sock``, on any error and when cancelled.
    """
    watch = poller.watch(sock.fileno())
    try:
        while not opening.is_over:
            if opening.wants_tls:
                taken, sock = sock, None  # type: ignore[assignment]  # start_tls closes it
                sock = await start_tls(taken)
                data = opening.tls_started()
            else:
                data = opening.receive(await receive_at(sock, watch))
            await send_all_at(sock, watch, data)
    except OSError as error:
        _close(sock, poller)
        raise ServerRefusedError(error_reason(error)) from None
    except BaseException:
        if sock is not None:
            _close(sock, poller)
        raise
    if opening.failure:
        _close(sock, poller)
        kind = ServerHandshakeError if opening.starttls_wanted else ServerRefusedError
        raise kind(opening.failure)
    return sock


def join(
    client: socket.socket, server: socket.socket, greeting: bytes, greeted: Greeted | None, gate: Gate | None
) -> int:
    """Send each side what it has not had: the client a greeting, the server the client's first bytes.

    Args:
        client: The client's connection.
        server: The server's.
        greeting: What the client still waits for, empty for nothing.
        greeted: What the client has sent, if the proxy has greeted it.
        gate: The gate that these bytes pass, None for none.

    Returns:
        The number of the client's bytes.

    Raises:
        SessionEndedError: CLIENT_LEFT or SERVER_REFUSED.
    """
    unread = greeted.unread if greeted is not None else b""
    try:
        if greeting:
            send_to_client(client, greeting)
        if unread:
            send_to_server(server, unread if gate is None else gate.from_client(unread))
    except ClientAbortError as error:
        raise SessionEndedError(end_reasons.CLIENT_LEFT, error) from None
    except ServerRefusedError as error:
        raise SessionEndedError(end_reasons.SERVER_REFUSED, error) from None
    return len(unread)


def _close(sock: socket.socket, poller: AnyPoller) -> None:
    poller.forget(sock.fileno())
    sock.close()
