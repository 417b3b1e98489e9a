"""The phases before a server is chosen: the PROXY header, the ClientHello, the TLS handshake.

Their limits count from their beginning, so that no trickle of bytes stretches them; that of the last two is the session's to
set. Each raises ``SessionEndedError`` with the end reason.
"""

from __future__ import annotations

import socket

import trio

from mailproxy.errors import (
    ClientAbortError,
    ClientCertificateError,
    ClientHandshakeError,
    ClientLeftError,
)
from mailproxy.log import end_reasons
from mailproxy.net.peek import peek, peek_nowait
from mailproxy.net.poller import Watch
from mailproxy.net.proxy_header import receive_header
from mailproxy.net.tls.close import Alert, send_alert
from mailproxy.net.tls.handshake import accept_tls
from mailproxy.net.tls.terminator import Terminator
from mailproxy.net.tls.tls_socket import TlsSocket
from mailproxy.protocol.client_hello import (
    ClientHello,
    ClientHelloError,
    NotTlsError,
    parse_client_hello,
)
from mailproxy.protocol.proxy_header import (
    Header,
    HeaderError,
    NotAHeaderError,
    UnhandledProtocolError,
)
from mailproxy.proxy.session.errors import SessionEndedError


async def receive_proxy_header(client: socket.socket, seconds: float) -> Header:
    """Take the PROXY header, nothing behind it."""
    with trio.move_on_after(seconds):
        try:
            return await receive_header(client)
        except NotAHeaderError as error:
            raise SessionEndedError(end_reasons.HEADER_MISSING, error) from None
        except UnhandledProtocolError as error:
            raise SessionEndedError(end_reasons.HEADER_UNHANDLED, error) from None
        except HeaderError as error:
            raise SessionEndedError(end_reasons.HEADER_INVALID, error) from None
        except ClientLeftError as error:
            end = end_reasons.HEADER_TRUNCATED if error.has_sent else end_reasons.HEADER_EMPTY
            raise SessionEndedError(end, error, said_nothing=not error.has_sent) from None
        except ClientAbortError as error:
            said_nothing = not error.has_sent
            raise SessionEndedError(end_reasons.HEADER_ABORTED, error, said_nothing=said_nothing) from None
    raise SessionEndedError(end_reasons.HEADER_TIMEOUT)


def peek_client_hello_nowait(client: socket.socket) -> ClientHello | None:
    """The ClientHello, if it is there already; it is left to whoever makes the handshake."""
    try:
        found = peek_nowait(client, parse_client_hello)
    except ClientHelloError as error:
        raise _invalid_client_hello(client, error) from None
    except ClientAbortError as error:
        raise _client_closed(error) from None
    return found[0] if found is not None else None


async def peek_client_hello(client: socket.socket, watch: Watch) -> ClientHello:
    """Wait for the ClientHello, which is not there yet."""
    try:
        if (
            not watch.pending_events
        ):  # what was told before is told once, and may be a part of it or the client's end
            await watch.readable()
        return (await peek(client, parse_client_hello))[0]
    except ClientHelloError as error:
        raise _invalid_client_hello(client, error) from None
    except ClientAbortError as error:
        raise _client_closed(error) from None


def _invalid_client_hello(client: socket.socket, error: ClientHelloError) -> SessionEndedError:
    if not isinstance(error, NotTlsError):
        send_alert(client, Alert.DECODE_ERROR)
    return SessionEndedError(end_reasons.HANDSHAKE_FAILED, error)


async def tls_handshake(
    client: socket.socket, terminator: Terminator, hello: ClientHello, watch: Watch
) -> TlsSocket:
    """Make the TLS handshake with a client whose hello is there; takes ``client`` over."""
    offer = terminator.select(hello.server_name)
    if offer is None:
        send_alert(client, Alert.UNRECOGNIZED_NAME)
        named = "asks for no name" if hello.server_name is None else "asks for a name that no certificate has"
        raise SessionEndedError(end_reasons.HANDSHAKE_FAILED, f"the client {named}")
    try:
        tls = await accept_tls(client, offer.context, watch)
    except ClientAbortError as error:
        raise _client_closed(error) from None
    except ClientCertificateError as error:
        end = end_reasons.CERTIFICATE_CHAIN_REFUSED if error.in_chain else end_reasons.CERTIFICATE_REFUSED
        raise SessionEndedError(end, error) from None
    except ClientHandshakeError as error:
        raise SessionEndedError(end_reasons.HANDSHAKE_FAILED, error) from None
    tls.certificates = offer.certificates
    return tls


def _client_closed(error: ClientAbortError) -> SessionEndedError:
    said_nothing = not error.has_sent
    if not isinstance(error, ClientLeftError):
        return SessionEndedError(end_reasons.HANDSHAKE_FAILED, error, said_nothing=said_nothing)
    end = end_reasons.HANDSHAKE_EMPTY if said_nothing else end_reasons.HANDSHAKE_LEFT
    return SessionEndedError(end, said_nothing=said_nothing)
