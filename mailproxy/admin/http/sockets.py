"""The socket of ``admin.http`` and what is read for it, opened before privileges are dropped."""

from __future__ import annotations

import contextlib
import importlib
import socket
from collections.abc import Callable, Sequence

from attrs import frozen

from mailproxy.address import TcpAddress
from mailproxy.admin.http.token import read_token
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.config.path import ROOT_PATH
from mailproxy.errors import Fault
from mailproxy.net.passing.sockets import PassedSocket, PassedSockets
from mailproxy.net.tls.terminator import Terminator

_BACKLOG = 1024

Advise = Callable[[Config, CertificateStore], Sequence[Fault]]
"""Returns what ``mailproxy check`` would say about a configuration and its TLS files. It may block on files."""


@frozen(eq=False)
class HttpListener:
    """Where HTTP is served, and how it is protected.

    Attributes:
        socket: The listening socket, nonblocking.
        address: Its address as in the configuration.
        is_local: Whether only this machine's users reach it.
        terminator: Terminates TLS; None for clear text.
        token: What clients need for commands, and everywhere if others reach the address; None without commands.
        advise: Returns the advice about a later configuration.
        advised: The configuration at the start, and its TLS files.
        advice: The advice about these, which was made before privileges were dropped.
    """

    socket: socket.socket
    address: str
    is_local: bool
    terminator: Terminator | None
    token: str | None
    advise: Advise
    advised: tuple[Config, CertificateStore]
    advice: Sequence[Fault]

    @property
    def passed(self) -> PassedSocket:
        """The socket as another process gets it."""
        return PassedSocket(socket=self.socket, purpose="admin", address=self.address)

    def leave(self) -> None:
        """Close the socket: another process has it."""
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def open_http(
    config: Config, store: CertificateStore, advise: Advise, passed: PassedSockets
) -> HttpListener | None:
    """Listen on ``admin.http``, if it is set, with the socket that was passed if there is one.

    Args:
        config: The configuration.
        store: Its TLS files.
        advise: Returns the advice about a configuration.
        passed: Sockets that another process has passed.

    Raises:
        ConfigError: It cannot be listened on, or the token cannot be read.
    """
    admin = config.admin
    if admin.http is None:
        return None
    assert isinstance(admin.http, TcpAddress)  # noqa: S101 - the configuration's rules demand it
    # The packages of the extra are loaded only where HTTP is wanted, and before privileges are dropped: afterwards
    # they may be out of reach.
    importlib.import_module("mailproxy.admin.http.run")
    try:
        token = read_token(admin.token_file) if admin.token_file is not None else None
    except (OSError, ValueError) as error:
        raise config.error([Fault(ROOT_PATH / "admin" / "token_file", str(error))]) from None
    advice = advise(config, store)
    adopted = passed.take_for_admin(str(admin.http))
    try:
        sock = adopted.socket if adopted is not None else _listen(admin.http)
    except OSError as error:
        fact = f"cannot listen on {admin.http}: {error.strerror or error}"
        raise config.error([Fault(ROOT_PATH / "admin" / "http", fact)]) from None
    terminator = store.terminators[admin.tls] if admin.tls is not None else None
    return HttpListener(
        sock, str(admin.http), admin.is_http_local, terminator, token, advise, (config, store), advice
    )


def _listen(address: TcpAddress) -> socket.socket:
    host = "0.0.0.0" if address.host == "*" else address.host
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, address.port or 0))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        stack.pop_all()
        return sock
    raise AssertionError  # the stack swallows nothing
