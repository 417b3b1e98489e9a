"""OpenSSL's functions that ``ssl`` lacks: ``SSL_ctrl`` to clear a mode, ``SSL_shutdown`` without a read.

The mode is auto-retry (``SSL_MODE_AUTO_RETRY``), which CPython sets. With it, one read continues as long as the socket
has records without data: refused renegotiations in TLS 1.2, key updates in TLS 1.3. A single client can send them
faster than OpenSSL handles them, and block the event loop. Without it, a read handles at most one record.

The ``SSL *`` is read from CPython's own object, at the offset that CPython 3.11 to 3.14 use, and OpenSSL is called
through the extension module that is linked with it. Both are verified once, before the first use. The verification
only reads that object and compares addresses. If it fails, the mode stays set, and the log says so at the start.
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
    library = _load_library()
    if library is not None and type(connection) is library.connection_type:
        library.control(ssl_pointer(connection), _SSL_CTRL_CLEAR_MODE, _SSL_MODE_AUTO_RETRY, None)


def can_clear_auto_retry() -> bool:
    """Whether the mode can be cleared in this interpreter."""
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
    if library.shutdown(ssl_pointer(connection)) >= 0:
        return True
    library.clear_errors()  # of this thread, which the next call of ``ssl`` would take for its own
    code = ctypes.get_errno()
    if code not in (0, errno.EAGAIN):
        raise OSError(code, os.strerror(code))
    return False


@frozen
class _Library:
    """The functions of OpenSSL, and the type that holds an ``SSL *`` where it is expected."""

    control: Callable[..., int]
    shutdown: Callable[[int | None], int]
    clear_errors: Callable[[], None]
    connection_type: type


@functools.cache
def _load_library() -> _Library | None:
    """Return OpenSSL's functions, None if the layout of the object or the library is unknown."""
    try:
        control, shutdown, clear_errors = _functions()
        connection_type = _verify_layout(control)
    except (OSError, AttributeError, ImportError, TypeError, ValueError):
        return None
    if connection_type is None:
        return None
    return _Library(control, shutdown, clear_errors, connection_type)


def _functions() -> tuple[Callable[..., int], Callable[[int | None], int], Callable[[], None]]:
    """Return ``SSL_ctrl``, ``SSL_shutdown`` and ``ERR_clear_error`` of the library that ``ssl`` uses.

    They are searched for in the extension module of ``ssl`` and that module's libraries.

    Raises:
        AttributeError, OSError: If OpenSSL is linked statically.
    """
    import _ssl

    # PyDLL keeps the global interpreter lock: the calls are too short to release it.
    library = ctypes.PyDLL(_ssl.__file__, use_errno=True)
    library.SSL_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    library.SSL_ctrl.restype = ctypes.c_long
    library.SSL_shutdown.argtypes = [ctypes.c_void_p]
    library.SSL_shutdown.restype = ctypes.c_int
    library.ERR_clear_error.argtypes = []
    library.ERR_clear_error.restype = None
    return library.SSL_ctrl, library.SSL_shutdown, library.ERR_clear_error


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
