"""OpenSSL's functions that ``ssl`` lacks: modes of contexts and connections, ``SSL_shutdown`` without a read.

CPython sets auto-retry (``SSL_MODE_AUTO_RETRY``) for each connection. With it, one read continues as long as the socket
has records without data: refused renegotiations in TLS 1.2, key updates in TLS 1.3. A single client can send them
faster than OpenSSL handles them, and block the event loop. Without it, a read handles at most one record.

The ``SSL *`` is read from CPython's own object, at the offset that CPython 3.11 to 3.14 use, and OpenSSL is called
through the extension module that is linked with it. Both are verified once, before the first use. The verification
only reads that object and compares addresses. If it fails, auto-retry stays set, and the log says so at the start.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import Any

from attrs import frozen

_SSL_CTRL_MODE, _SSL_CTRL_CLEAR_MODE = 33, 78  # openssl/ssl.h
_SSL_MODE_AUTO_RETRY = 4
_SSL_MODE_NO_AUTO_CHAIN = 8
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
    """Clear auto-retry of an ``_ssl._SSLSocket``, if that is possible in this interpreter."""
    library = _load_library()
    if library is not None and type(connection) is library.connection_type:
        library.functions.SSL_ctrl(ssl_pointer(connection), _SSL_CTRL_CLEAR_MODE, _SSL_MODE_AUTO_RETRY, None)


def disable_auto_chain(context: ssl.SSLContext) -> None:
    """Set ``SSL_MODE_NO_AUTO_CHAIN`` of a server's context, if that is possible in this interpreter.

    Without the mode, OpenSSL searches the context's CAs in each handshake for the issuers of a certificate that came
    without a chain. That costs 10 µs, and may send CAs that are meant for client certificates.
    """
    library = _load_library()
    if library is None:
        return
    connection = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - as in ``tls_socket``
    if type(connection) is library.connection_type:
        pointer = library.functions.SSL_get_SSL_CTX(ssl_pointer(connection))
        library.functions.SSL_CTX_ctrl(pointer, _SSL_CTRL_MODE, _SSL_MODE_NO_AUTO_CHAIN, None)


def can_clear_auto_retry() -> bool:
    """Whether auto-retry can be cleared in this interpreter."""
    return _load_library() is not None


def ssl_pointer(connection: Any) -> int | None:
    """Return the ``SSL *`` of a connection. The layout of the object must have been verified."""
    return _pointer_at(id(connection) + _SSL_OFFSET).value


def shutdown_once(connection: Any) -> bool:
    """Send the close_notify of an ``_ssl._SSLSocket``, and read nothing (SSL_shutdown(3)).

    Returns:
        Whether it was sent. False if the socket's buffer is full (OpenSSL keeps the rest), if OpenSSL refuses, or
        cannot be called in this interpreter.

    Raises:
        OSError: The connection failed.
    """
    library = _load_library()
    if library is None or type(connection) is not library.connection_type:
        return False
    ctypes.set_errno(0)
    if library.functions.SSL_shutdown(ssl_pointer(connection)) >= 0:
        return True
    library.functions.ERR_clear_error()  # of this thread, which the next call of ``ssl`` would take for its own
    code = ctypes.get_errno()
    if code not in (0, errno.EAGAIN):
        raise OSError(code, os.strerror(code))
    return False


@frozen
class _Library:
    """OpenSSL's functions, by their names, and the type that holds an ``SSL *`` where it is expected."""

    functions: Any
    connection_type: type


@functools.cache
def _load_library() -> _Library | None:
    """Return OpenSSL's functions, None if the layout of the object or the library is unknown."""
    try:
        functions = _functions()
        connection_type = _verify_layout(functions.SSL_ctrl)
    except (OSError, AttributeError, ImportError, TypeError, ValueError):
        return None
    if connection_type is None:
        return None
    return _Library(functions, connection_type)


def _functions() -> Any:
    """Return the functions of the library that ``ssl`` uses, as a library of ctypes.

    They are searched for in the extension module of ``ssl`` and that module's libraries.

    Raises:
        AttributeError, OSError: If OpenSSL is linked statically.
    """
    import _ssl

    # PyDLL keeps the global interpreter lock: the calls are too short to release it.
    library = ctypes.PyDLL(_ssl.__file__, use_errno=True)
    for control in (library.SSL_ctrl, library.SSL_CTX_ctrl):
        control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
        control.restype = ctypes.c_long
    library.SSL_get_SSL_CTX.argtypes = library.SSL_shutdown.argtypes = [ctypes.c_void_p]
    library.SSL_get_SSL_CTX.restype, library.SSL_shutdown.restype = ctypes.c_void_p, ctypes.c_int
    library.ERR_clear_error.argtypes, library.ERR_clear_error.restype = [], None
    return library


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
