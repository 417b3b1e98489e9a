"""Clears OpenSSL's auto-retry mode, which CPython sets, so that a read handles at most one record.

In that mode (``SSL_MODE_AUTO_RETRY``) one read continues as long as the socket has records without data:
refused renegotiations in TLS 1.2, key updates in TLS 1.3. A single client can send them faster than OpenSSL
handles them, and block the event loop.

``ssl`` cannot clear the mode. So the ``SSL *`` is read from CPython's own object, at the offset that CPython
3.11 to 3.14 use, and OpenSSL is called through the extension module that is linked with it. Both are verified
once, before the first use. The verification only reads that object and compares addresses. If it fails, the
mode stays set, and the log says so at the start.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import Any

_SSL_CTRL_MODE, _SSL_CTRL_CLEAR_MODE = 33, 78  # openssl/ssl.h
_SSL_MODE_AUTO_RETRY = 4
_POINTER_BYTES = ctypes.sizeof(ctypes.c_void_p)

# PySSLSocket in Modules/_ssl.c begins: PyObject_HEAD, PyObject *Socket (a weak reference), SSL *ssl,
# PySSLContext *ctx.
_SOCKET_OFFSET = object.__basicsize__
_SSL_OFFSET = _SOCKET_OFFSET + _POINTER_BYTES
_CONTEXT_OFFSET = _SSL_OFFSET + _POINTER_BYTES

_pointer_at = ctypes.c_void_p.from_address


NOT_CLEARED = (
    "this Python has OpenSSL built in, so a client of TLS can keep a worker busy with key updates: "
    "use a Python with the system's OpenSSL"
)


def clear_auto_retry(connection: Any) -> None:
    """Clear the mode of an ``_ssl._SSLSocket``, if that is possible in this interpreter."""
    clear = _load_clear_function()
    if clear is not None:
        clear(connection)


def can_clear_auto_retry() -> bool:
    """Whether the mode can be cleared in this interpreter."""
    return _load_clear_function() is not None


def ssl_pointer(connection: Any) -> int | None:
    """Return the ``SSL *`` of a connection. The layout of the object must have been verified."""
    return _pointer_at(id(connection) + _SSL_OFFSET).value


@functools.cache
def _load_clear_function() -> Callable[[Any], None] | None:
    """Return a function that clears the mode, None if the layout of the object or the library is unknown."""
    try:
        control = _ssl_ctrl()
        connection_type = _verify_layout(control)
    except (OSError, AttributeError, ImportError, TypeError, ValueError):
        return None
    if connection_type is None:
        return None

    def clear(connection: Any) -> None:
        if type(connection) is connection_type:
            control(ssl_pointer(connection), _SSL_CTRL_CLEAR_MODE, _SSL_MODE_AUTO_RETRY, None)

    return clear


def _ssl_ctrl() -> Callable[..., int]:
    """Return ``SSL_ctrl`` of the library that ``ssl`` uses.

    It is searched for in the extension module of ``ssl`` and that module's libraries.

    Raises:
        AttributeError, OSError: If OpenSSL is linked statically.
    """
    import _ssl

    # PyDLL keeps the global interpreter lock: the call is too short to release it.
    control = ctypes.PyDLL(_ssl.__file__).SSL_ctrl
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    control.restype = ctypes.c_long
    return control


def _verify_layout(control: Callable[..., int]) -> type | None:
    """Return the type of ``ssl``'s connections, if its layout is as expected and the mode can be cleared.

    Otherwise return None.
    """
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        connection = context._wrap_socket(ours, True)  # type: ignore[attr-defined]  # noqa: SLF001 - as SSLSocket does it
        connection_type: type = type(connection)
        if connection_type.__basicsize__ < _CONTEXT_OFFSET + _POINTER_BYTES:
            return None
        base = id(connection)
        references = {id(reference) for reference in weakref.getweakrefs(ours)}
        if _pointer_at(base + _SOCKET_OFFSET).value not in references:
            return None
        if _pointer_at(base + _CONTEXT_OFFSET).value != id(context):
            return None
        pointer = ssl_pointer(connection)
        if not pointer:
            return None
        control(pointer, _SSL_CTRL_CLEAR_MODE, _SSL_MODE_AUTO_RETRY, None)
        is_cleared = not control(pointer, _SSL_CTRL_MODE, 0, None) & _SSL_MODE_AUTO_RETRY
        return connection_type if is_cleared else None
