"""OpenSSL's auto-retry mode: it is cleared on every connection, or the log says that it cannot be."""

from __future__ import annotations

import ctypes
import socket
import ssl
from collections.abc import Iterator

import pytest

from mailproxy.net.tls import auto_retry
from mailproxy.net.tls.auto_retry import can_clear_auto_retry, clear_auto_retry, ssl_pointer
from mailproxy.net.tls.tls_socket import TlsSocket, ssl_object

AUTO_RETRY = 4


@pytest.fixture(autouse=True)
def cleared_cache() -> Iterator[None]:
    auto_retry._load_clear_function.cache_clear()
    yield
    auto_retry._load_clear_function.cache_clear()


def mode(connection: object) -> int:
    return auto_retry._ssl_ctrl()(ssl_pointer(connection), 33, 0, None)


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

    monkeypatch.setattr(auto_retry, "_ssl_ctrl", missing)
    assert not can_clear_auto_retry()
    clear_auto_retry(object())


@pytest.mark.parametrize("shift", [-ctypes.sizeof(ctypes.c_void_p), ctypes.sizeof(ctypes.c_void_p)])
def test_unexpected_struct_layout_disables_clearing(monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    """If struct fields are elsewhere, OpenSSL must not be called with the values at the known offsets."""
    called: list[tuple[object, ...]] = []

    def control(*arguments: object) -> int:
        called.append(arguments)
        return 0

    for name in ("_SOCKET_OFFSET", "_SSL_OFFSET", "_CONTEXT_OFFSET"):
        monkeypatch.setattr(auto_retry, name, getattr(auto_retry, name) + shift)
    monkeypatch.setattr(auto_retry, "_ssl_ctrl", lambda: control)
    assert not can_clear_auto_retry()
    assert called == []


def test_other_objects_are_ignored() -> None:
    """Connections of other types are never inspected."""
    clear_auto_retry(object())
    clear_auto_retry(None)
