"""OpenSSL's auto-retry mode, which CPython sets and this module clears: a read then handles at most one record.

In that mode one read goes on for as long as records without data are in the socket: refused renegotiations in TLS 1.2, key
updates in TLS 1.3. A single client sends them faster than OpenSSL handles them, and the event loop would not come back.

``ssl`` has no way to clear the mode. So the ``SSL *`` is read from CPython's own object, where CPython 3.11 to 3.14 have it,
and OpenSSL is called through the extension module that uses it. Both are proved once, before the first use. The proof reads
nothing but that object and compares addresses. Where it fails the mode stays, and the log says so at the start.
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

# PySSLSocket in Modules/_ssl.c begins: PyObject_HEAD, PyObject *Socket (a weak reference), SSL *ssl, PySSLContext *ctx.
_SOCKET = object.__basicsize__
_SSL = _SOCKET + _POINTER_BYTES
_CONTEXT = _SSL + _POINTER_BYTES

_pointer_at = ctypes.c_void_p.from_address


NOT_CLEARED = (
    "this Python has OpenSSL built in, so a client of TLS can keep a worker busy with key updates: "
    "use a Python with the system's OpenSSL"
)


def clear_auto_retry(connection: Any) -> None:
    """Clear the mode of an ``_ssl._SSLSocket``, if that is possible in this interpreter."""
    clear = _clearing()
    if clear is not None:
        clear(connection)


def can_clear_auto_retry() -> bool:
    """Whether this interpreter lets the mode be cleared."""
    return _clearing() is not None


def ssl_pointer(connection: Any) -> int | None:
    """Return OpenSSL's pointer of a connection. Its layout must have been proved."""
    return _pointer_at(id(connection) + _SSL).value


@functools.cache
def _clearing() -> Callable[[Any], None] | None:
    """What clears the mode; None where the layout or the library is another one."""
    try:
        control = _ssl_ctrl()
        kind = _prove_layout(control)
    except (OSError, AttributeError, ImportError, TypeError, ValueError):
        return None
    if kind is None:
        return None

    def clear(connection: Any) -> None:
        if type(connection) is kind:
            control(ssl_pointer(connection), _SSL_CTRL_CLEAR_MODE, _SSL_MODE_AUTO_RETRY, None)

    return clear


def _ssl_ctrl() -> Callable[..., int]:
    """``SSL_ctrl`` of the very library that ``ssl`` uses: looked up in its extension module and what that depends on.

    Raises AttributeError or OSError where OpenSSL is linked in statically.
    """
    import _ssl

    # The call is too short to let other threads run meanwhile.
    control = ctypes.PyDLL(_ssl.__file__).SSL_ctrl
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    control.restype = ctypes.c_long
    return control


def _prove_layout(control: Callable[..., int]) -> type | None:
    """The type of ``ssl``'s connections, if their fields are where they should be and clearing the mode works."""
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        connection = context._wrap_socket(ours, True)  # type: ignore[attr-defined]  # noqa: SLF001 - as SSLSocket does it
        kind: type = type(connection)
        if kind.__basicsize__ < _CONTEXT + _POINTER_BYTES:
            return None
        base = id(connection)
        references = {id(reference) for reference in weakref.getweakrefs(ours)}
        if _pointer_at(base + _SOCKET).value not in references:
            return None
        if _pointer_at(base + _CONTEXT).value != id(context):
            return None
        pointer = ssl_pointer(connection)
        if not pointer:
            return None
        control(pointer, _SSL_CTRL_CLEAR_MODE, _SSL_MODE_AUTO_RETRY, None)
        is_cleared = not control(pointer, _SSL_CTRL_MODE, 0, None) & _SSL_MODE_AUTO_RETRY
        return kind if is_cleared else None
