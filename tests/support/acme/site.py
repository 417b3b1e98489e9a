"""mailproxy with an authority, and what clients see of its certificates."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from tests.support.program import TIMEOUT_S
from tests.support.worker_group import GreetingServer

T = TypeVar("T")

NAME = "imap.example.com"


def configuration(
    *,
    directory: str,
    ca: Path,
    storage: Path,
    port: int,
    server: GreetingServer,
    acme: str = "",
    frontend: str = "",
    bind: str = "",
    tls: str = f'names = ["{NAME}"]',
    process: str = "",
    more: str = "",
) -> str:
    """Return a configuration whose certificate comes from an authority."""
    return f"""
[process]
certificate_interval = "1s"
drain_timeout = "1s"
{process}

[acme.test]
directory = "{directory}"
ca = "{ca}"
contact = ["mailto:postmaster@example.com"]
terms_agreed = true
storage = "{storage}"
{acme}

[frontends.imaps]
protocol = "imap"
backend = "dovecot"
tls = {{ acme = "test", {tls} }}
{frontend}

[[frontends.imaps.bind]]
address = "127.0.0.1:{port}"
mode = "tls"
{bind}

[backends.dovecot]
check = false
servers = ["127.0.0.1:{server.port}"]
{more}
"""


def eventually(condition: Callable[[], T | None], timeout: float = 2 * TIMEOUT_S) -> T:
    """Return the first true value of a condition."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
    return value


def certificate_at(port: int, name: str = NAME, *, context: ssl.SSLContext | None = None) -> x509.Certificate:
    """Return the certificate that a client gets. Without a context it is not verified."""
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


def verified_certificate(port: int, context: ssl.SSLContext, name: str = NAME) -> x509.Certificate | None:
    """Return the certificate that a client gets, None if it cannot be verified."""
    try:
        return certificate_at(port, name, context=context)
    except (ssl.SSLError, OSError):
        return None


def certificate_of_all_workers(port: int, context: ssl.SSLContext) -> x509.Certificate:
    """Wait until twenty clients in a row get a verified certificate, so that each worker has it. Return it."""

    def get() -> x509.Certificate | None:
        certificates = [verified_certificate(port, context) for _ in range(20)]
        return certificates[0] if all(certificates) else None

    return eventually(get)


def certs(command: str, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``mailproxy certs``."""
    return subprocess.run(
        [sys.executable, "-m", "mailproxy", "certs", command, str(file), *arguments],
        capture_output=True, text=True, timeout=4 * TIMEOUT_S,
    )  # fmt: skip
