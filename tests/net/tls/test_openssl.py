"""OpenSSL's functions that ``ssl`` lacks: called where that is safe, and left out elsewhere."""

from __future__ import annotations

import ctypes
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest

from mailproxy.net.tls import openssl
from mailproxy.net.tls.close import send_close_notify, send_record
from mailproxy.net.tls.openssl import can_clear_auto_retry, clear_auto_retry, disable_auto_chain, ssl_pointer
from mailproxy.net.tls.tls_socket import TlsSocket, ssl_object
from mailproxy.testing import ThrowAwayCA

AUTO_RETRY = 4
RECORD_BYTES = 24  # of an alert in TLS 1.3 (RFC 8446 section 5.2)


@pytest.fixture(autouse=True)
def cleared_cache() -> Iterator[None]:
    openssl._load_library.cache_clear()
    yield
    openssl._load_library.cache_clear()


def mode(connection: object) -> int:
    value: int = openssl._functions().SSL_ctrl(ssl_pointer(connection), 33, 0, None)
    return value


def test_auto_retry_is_cleared_with_shared_openssl() -> None:
    import _ssl

    if getattr(_ssl, "__file__", None) is None:
        pytest.skip("this Python has OpenSSL built in")
    assert can_clear_auto_retry()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with TlsSocket.wrap(ours, context) as tls:
            assert not mode(ssl_object(tls)) & AUTO_RETRY


def test_missing_symbol_disables_clearing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statically linked OpenSSL exports no symbols."""

    def missing() -> None:
        raise AttributeError("SSL_ctrl")

    monkeypatch.setattr(openssl, "_functions", missing)
    assert not can_clear_auto_retry()
    clear_auto_retry(object())
    disable_auto_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.parametrize("shift", [-ctypes.sizeof(ctypes.c_void_p), ctypes.sizeof(ctypes.c_void_p)])
def test_unexpected_struct_layout_disables_clearing(monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    """If struct fields are elsewhere, OpenSSL must not be called with the values at the known offsets."""
    called: list[tuple[object, ...]] = []

    def control(*arguments: object) -> int:
        called.append(arguments)
        return 0

    for name in ("_SOCKET_OFFSET", "_SSL_OFFSET", "_CONTEXT_OFFSET"):
        monkeypatch.setattr(openssl, name, getattr(openssl, name) + shift)
    monkeypatch.setattr(openssl, "_functions", lambda: SimpleNamespace(SSL_ctrl=control))
    assert not can_clear_auto_retry()
    assert called == []


def test_other_objects_are_ignored() -> None:
    """Connections of other types are never inspected."""
    clear_auto_retry(object())
    clear_auto_retry(None)


# close_notify


@pytest.fixture(params=["OpenSSL called", "OpenSSL built in"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether this interpreter can call OpenSSL."""
    kind: str = request.param
    if kind == "OpenSSL called" and not can_clear_auto_retry():
        pytest.skip("this Python has OpenSSL built in")
    if kind == "OpenSSL built in":
        monkeypatch.setattr(openssl, "_load_library", lambda: None)
    return kind


@pytest.fixture
def pair(throw_away_ca: ThrowAwayCA) -> Iterator[tuple[TlsSocket, ssl.SSLSocket]]:
    """A server's and a client's end of a TLS connection over TCP, after the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client_side = socket.create_connection(listener.getsockname())
        server_side, _ = listener.accept()
    server_side.setblocking(False)
    client_side.setblocking(False)
    server_context, client_context = throw_away_ca.server_context("localhost"), throw_away_ca.client_context()
    tls = TlsSocket.wrap(server_side, server_context)
    client = client_context.wrap_socket(
        client_side, server_hostname="localhost", do_handshake_on_connect=False
    )
    pending = [client.do_handshake, ssl_object(tls).do_handshake]
    while pending:
        for handshake in tuple(pending):
            with suppress(ssl.SSLWantReadError):
                handshake()
                pending.remove(handshake)
    with tls, client:
        yield tls, client


Pair = tuple[TlsSocket, ssl.SSLSocket]


def read_until_end(client: ssl.SSLSocket) -> bytes:
    """Read what the other side has sent up to its close_notify."""
    client.setblocking(True)
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def test_close_notify_is_sent_and_nothing_is_read(kind: str, pair: Pair) -> None:
    tls, client = pair
    client.send(b"still to be read")
    assert send_close_notify(tls) == b""
    assert read_until_end(client) == b""
    assert ssl_object(tls).read(100) == b"still to be read"


def test_close_notify_that_does_not_fit_is_returned(kind: str, pair: Pair) -> None:
    tls, client = pair
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += socket.socket.send(tls, bytes(65536))
    record = send_close_notify(tls)
    assert len(record) == RECORD_BYTES
    assert send_record(tls, record) == record, "the buffer is still full"
    received = b""
    while len(received) < filled:
        received += socket.socket.recv(client, 65536)
    assert send_record(tls, record) == b""
    assert socket.socket.recv(client, 100) == record


def test_close_notify_to_a_reset_connection_raises(kind: str, pair: Pair) -> None:
    tls, client = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        send_close_notify(tls)


def test_close_notify_before_the_handshake_is_refused(kind: str, throw_away_ca: ThrowAwayCA) -> None:
    """The error of OpenSSL does not stay in its queue, where the next connection's call would find it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, TlsSocket.wrap(ours, throw_away_ca.server_context("localhost")) as tls:
        with pytest.raises(ssl.SSLError, match="shutdown while in init"):
            send_close_notify(tls)
        with pytest.raises(ssl.SSLWantReadError):
            ssl_object(tls).do_handshake()
