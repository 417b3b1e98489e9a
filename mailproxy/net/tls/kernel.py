"""TLS in the kernel (kTLS): it encrypts what a client gets, so that bulk from a clear server is not copied.

OpenSSL hands the keys over after the handshake (SSL_OP_ENABLE_KTLS), if it was built for that, and if the kernel has
the module ``tls`` and knows the cipher. Otherwise OpenSSL encrypts, and reports no error.
"""

from __future__ import annotations

import errno
import socket
import ssl

# ``ssl`` has the name since Python 3.12; the number is OpenSSL's.
OP_ENABLE_KTLS = 1 << 3
# Linux's linux/tls.h and linux/tcp.h.
_SOL_TLS, _TLS_TX = 282, 1
_TCP_ULP = 31
_CRYPTO_INFO_BYTES = 4  # version and cipher alone, without the key

NO_KERNEL_TLS = "this kernel has no module tls, so OpenSSL encrypts as without ktls: modprobe tls"


def kernel_encrypts(tls: ssl.SSLSocket) -> bool:
    """Whether the kernel encrypts what is sent on this connection. The handshake must be finished."""
    try:
        tls.getsockopt(_SOL_TLS, _TLS_TX, _CRYPTO_INFO_BYTES)
    except OSError:
        return False
    return True


def has_kernel_tls() -> bool:
    """Whether this kernel has TLS. Root's first question loads the module."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
        except OSError as error:
            return error.errno == errno.ENOTCONN  # not for a socket that is not connected
    return True
