"""What the errors of the operating system and of OpenSSL mean, and how mailproxy words them."""

from __future__ import annotations

import errno
import os
import ssl

CONNECTION_RESET = os.strerror(errno.ECONNRESET)


def error_reason(error: OSError) -> str:
    """Return why a connection or a file operation failed, for a log line or a message.

    A connection reset has the same wording wherever it appears: in reading or writing, in clear or under TLS.

    Returns:
        The operating system's words. For TLS, OpenSSL's reason in lower case, such as ``wrong version
        number``. For a certificate that is not accepted, what is wrong with it.
    """
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return CONNECTION_RESET
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if is_reset(error):
        return CONNECTION_RESET
    if isinstance(error, ssl.SSLZeroReturnError):
        return "the peer closed the connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = getattr(error, "reason", None)  # missing in errors that Python itself raises
    return reason.lower().replace("_", " ") if reason else error.strerror or str(error)


def is_ragged_eof(error: ssl.SSLError) -> bool:
    """Whether the peer closed without close_notify.

    The class of that error depends on the version of CPython.
    """
    if ssl.OPENSSL_VERSION_INFO < (3, 0):
        return isinstance(error, ssl.SSLEOFError)  # a reset looks the same
    return getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


def is_reset(error: ssl.SSLError) -> bool:
    """Whether the peer reset the connection. CPython before 3.12.3 raises SSLEOFError for that, too."""
    return isinstance(error, ssl.SSLEOFError) and not is_ragged_eof(error)
