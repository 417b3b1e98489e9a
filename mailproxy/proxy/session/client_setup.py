"""The client's side of a session before it has a server: PROXY header, ClientHello, TLS handshake.

Each function is one phase and raises ``SessionEndedError`` with the end reason. Timeouts count from the start
of a phase, so a client that sends byte by byte cannot stretch them. ClientHello and handshake share one
timeout, which the session sets as a deadline.
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
from mailproxy.log.end_reasons import EndReason
from mailproxy.net.peek import peek, peek_nowait
from mailproxy.net.poller import Watch
from mailproxy.net.proxy_header import receive_header
from mailproxy.net.tls.challenge import challenge_context
from mailproxy.net.tls.close import Alert, drop_unread, send_alert
from mailproxy.net.tls.handshake import accept_tls
from mailproxy.net.tls.kernel import kernel_encrypts
from mailproxy.net.tls.terminator import CertificateSelection, Terminator
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
    """Receive the PROXY header within ``seconds``; the bytes after it stay in the socket buffer.

    Raises:
        SessionEndedError: One of the HEADER_ end reasons.
    """
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
            raise SessionEndedError(end, error, sent_nothing=not error.has_sent) from None
        except ClientAbortError as error:
            sent_nothing = not error.has_sent
            raise SessionEndedError(end_reasons.HEADER_ABORTED, error, sent_nothing=sent_nothing) from None
    raise SessionEndedError(end_reasons.HEADER_TIMEOUT)


def peek_client_hello_nowait(
    client: socket.socket, not_tls: EndReason = end_reasons.HANDSHAKE_FAILED
) -> ClientHello | None:
    """Return the ClientHello, or None if it has not arrived.

    It stays in the socket buffer, where the TLS handshake finds it.

    Args:
        client: The client's connection.
        not_tls: The end reason of a session whose bytes are no TLS.

    Raises:
        SessionEndedError: HANDSHAKE_FAILED, HANDSHAKE_LEFT, HANDSHAKE_EMPTY or ``not_tls``.
    """
    try:
        peeked = peek_nowait(client, parse_client_hello)
    except ClientHelloError as error:
        raise _invalid_client_hello(client, error, not_tls) from None
    except ClientAbortError as error:
        raise _client_closed(error) from None
    return peeked[0] if peeked is not None else None


async def peek_client_hello(
    client: socket.socket, watch: Watch, deadline: float, not_tls: EndReason = end_reasons.HANDSHAKE_FAILED
) -> ClientHello:
    """Wait for a ClientHello that has not arrived yet; otherwise as the function above.

    Raises:
        trio.TooSlowError: After the deadline, which is in trio's clock.
    """
    try:
        # Epoll reports each event once. One that is pending may be a part of the ClientHello, or the client's
        # end.
        if not watch.pending_events:
            await watch.readable(deadline)
            peeked = peek_nowait(client, parse_client_hello)
            if peeked is not None:
                return peeked[0]
        with trio.fail_at(deadline):
            return (await peek(client, parse_client_hello))[0]
    except ClientHelloError as error:
        raise _invalid_client_hello(client, error, not_tls) from None
    except ClientAbortError as error:
        raise _client_closed(error) from None


def _invalid_client_hello(
    client: socket.socket, error: ClientHelloError, not_tls: EndReason
) -> SessionEndedError:
    if isinstance(error, NotTlsError):
        return SessionEndedError(not_tls, error)
    send_alert(client, Alert.DECODE_ERROR)
    return SessionEndedError(end_reasons.HANDSHAKE_FAILED, error)


async def tls_handshake(
    client: socket.socket, terminator: Terminator, hello: ClientHello, watch: Watch, deadline: float
) -> TlsSocket:
    """Make the TLS handshake with a client whose ClientHello has arrived.

    Returns:
        The connection that decrypts. It takes ``client`` over.

    Raises:
        trio.TooSlowError: After the deadline, which is in trio's clock.
        SessionEndedError: An end reason of the handshake; HANDSHAKE_FAILED if no certificate fits the server
            name.
    """
    selection = terminator.select(hello.server_name)
    if selection is None:
        send_alert(client, Alert.UNRECOGNIZED_NAME)
        request = (
            "asks for no name" if hello.server_name is None else "asks for a name that no certificate has"
        )
        raise SessionEndedError(end_reasons.HANDSHAKE_FAILED, f"the client {request}")
    if selection.is_refused:
        drop_unread(client)
        raise SessionEndedError(
            end_reasons.HANDSHAKE_FAILED, "the certificate has not been obtained yet (until_ready = refuse)"
        )
    return await _accept(client, selection, watch, deadline)


async def answer_challenge(
    client: socket.socket, terminator: Terminator, hello: ClientHello, watch: Watch, deadline: float
) -> TlsSocket | None:
    """Answer an authority that validates a name by tls-alpn-01.

    Returns:
        The connection, to be closed. It has taken ``client`` over. None if the name is not this proxy's: the
        client is served like any other.

    Raises:
        trio.TooSlowError: After the deadline, which is in trio's clock.
        SessionEndedError: An end reason of the handshake.
    """
    name = (hello.server_name or "").lower()
    folder = terminator.challenges.get(name) if terminator.challenges is not None else None
    if folder is None:
        return None
    with trio.fail_at(deadline):
        context = await trio.to_thread.run_sync(challenge_context, folder, name)
    if context is None:
        send_alert(client, Alert.UNRECOGNIZED_NAME)
        raise SessionEndedError(end_reasons.HANDSHAKE_FAILED, f"no challenge of {name} is to be answered now")
    return await _accept(client, CertificateSelection(context, ()), watch, deadline)


async def _accept(
    client: socket.socket, selection: CertificateSelection, watch: Watch, deadline: float
) -> TlsSocket:
    try:
        tls = await accept_tls(client, selection.context, watch, deadline)
    except ClientAbortError as error:
        raise _client_closed(error) from None
    except ClientCertificateError as error:
        end = end_reasons.CERTIFICATE_CHAIN_REFUSED if error.in_chain else end_reasons.CERTIFICATE_REFUSED
        raise SessionEndedError(end, error) from None
    except ClientHandshakeError as error:
        raise SessionEndedError(end_reasons.HANDSHAKE_FAILED, error) from None
    tls.certificates = selection.certificates
    if selection.may_use_kernel:
        tls.is_kernel_tls = kernel_encrypts(tls)
    return tls


def _client_closed(error: ClientAbortError) -> SessionEndedError:
    sent_nothing = not error.has_sent
    if not isinstance(error, ClientLeftError):
        return SessionEndedError(end_reasons.HANDSHAKE_FAILED, error, sent_nothing=sent_nothing)
    end = end_reasons.HANDSHAKE_EMPTY if sent_nothing else end_reasons.HANDSHAKE_LEFT
    return SessionEndedError(end, sent_nothing=sent_nothing)
