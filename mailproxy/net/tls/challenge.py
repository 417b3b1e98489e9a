"""The answer to tls-alpn-01 (RFC 8737): a handshake with a certificate that proves a name to an authority."""

from __future__ import annotations

import ssl
from pathlib import Path

from mailproxy.protocol.client_hello import ClientHello

_PROTOCOL = "acme-tls/1"
_ONLY_PROTOCOL = (_PROTOCOL.encode(),)  # RFC 8737 section 3: the authority offers nothing else


def is_challenge(hello: ClientHello) -> bool:
    """Whether a client is an authority that validates a name."""
    return hello.alpn == _ONLY_PROTOCOL


def challenge_context(folder: Path, name: str) -> ssl.SSLContext | None:
    """Return the context for the handshake; None if nothing is to be proved now. Blocks on a file.

    Args:
        folder: The folder with the answers.
        name: The name, which must be one of the configuration's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.set_alpn_protocols([_PROTOCOL])
    try:
        context.load_cert_chain(folder / f"{name}.pem")
    except OSError:  # also ssl.SSLError
        return None
    return context
