"""Connecting to a server: a nonblocking socket, or the project's own error."""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from collections.abc import Sequence

import trio
from attrs import define, frozen

from mailproxy.address import join_host_port
from mailproxy.errors import ProxyError, ServerRefusedError
from mailproxy.net.poller import BOTH_WAYS, ERR, HUP, OUT, READING, TRIO, AnyPoller

# This process or machine lacks what every connection needs. All other errors concern one server's address: no
# route, no local address of its family, no free local port, a firewall's rule. Another server may be
# reachable then.
_RESOURCE_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# What a second connect(2) reports for a connection in progress, and for an established one.
_SECOND_CONNECT_ERRNOS = {errno.EALREADY: errno.EINPROGRESS, errno.EISCONN: 0}
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.001, 0.01

# Missing from Python's socket module (linux/in.h, linux/in6.h).
_IP_TRANSPARENT = 19
_IP_BIND_ADDRESS_NO_PORT = 24
_IPV6_TRANSPARENT = 75

Options = Sequence[tuple[int, int, int | bytes]]
"""Arguments of ``setsockopt``: level, name, value."""

_HALF_OPEN: Options = (
    (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0),
    (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),
)


@frozen
class Source:
    """The local address of a connection.

    Attributes:
        host: The IP address.
        is_foreign: The address is another machine's. That takes CAP_NET_ADMIN (IP_TRANSPARENT, ip(7)).
    """

    host: str
    is_foreign: bool = False


@frozen
class Endpoint:
    """A socket address to connect to.

    Attributes:
        family: AF_INET, AF_INET6 or AF_UNIX.
        host: The IP address, or the path of a Unix socket.
        port: The port. None: the one that the client connected to.
    """

    family: int
    host: str
    port: int | None = None

    def with_port(self, port: int | None) -> Endpoint:
        """Return the same host at another port. None and Unix sockets change nothing."""
        if port is None or port == self.port or self.family == socket.AF_UNIX:
            return self
        return Endpoint(self.family, self.host, port)

    def address(self, client_port: int | None) -> tuple[str | int, ...] | str:
        """Return the address as sockets take it.

        Args:
            client_port: The port that the client connected to, for an endpoint without one.

        Raises:
            OSError: The zone of a link-local address names no interface.
        """
        if self.family == socket.AF_UNIX:
            return self.host
        port = self.port or client_port or 0
        if "%" in self.host:
            return socket_address(self.host, port)
        return self.host, port

    def text(self, client_port: int | None) -> str:
        """Return the address as the log shows it."""
        if self.family == socket.AF_UNIX:
            return f"unix:{self.host}"
        return _joined(self.host, self.port or client_port or 0)


@functools.lru_cache(maxsize=1024)
def _joined(host: str, port: int) -> str:
    """Return one string for all sessions of a server: they keep it as long as they live."""
    return join_host_port(host, port)


def socket_address(host: str, port: int) -> tuple[str | int, ...]:
    """Return what sockets take for an IP address. The zone of a link-local one (RFC 4007) becomes a number.

    Raises:
        OSError: The zone names no interface.
    """
    address, percent, zone = host.partition("%")
    return (address, port, 0, socket.if_nametoindex(zone)) if percent else (host, port)


async def connect(
    endpoints: Sequence[Endpoint],
    port: int | None,
    options: Options = (),
    poller: AnyPoller = TRIO,
    dial: Dial | None = None,
    *,
    source: Source | None = None,
) -> tuple[socket.socket, Endpoint]:
    """Connect to the first endpoint that takes the connection, in their order.

    An endpoint that does not answer gets its share of the time until the deadline of the caller's cancel
    scope.

    Args:
        endpoints: Where to connect to.
        port: The port that the client connected to, for endpoints without one.
        options: Set on TCP sockets.
        poller: The socket is added to it.
        dial: What ``start`` returned for the only endpoint.
        source: The local address of TCP sockets.

    Returns:
        A nonblocking socket, which the caller closes, and its endpoint.

    Raises:
        ServerRefusedError: No endpoint takes the connection.
        ProxyError: This process or machine has no descriptor or memory left.

    Cancellation:
        Leaves nothing open.
    """
    if len(endpoints) == 1:
        dial = dial or start(endpoints[0], port, poller, options, source)
        return await dial.wait(), endpoints[0]
    faults: list[ServerRefusedError | ProxyError] = []
    for index, endpoint in enumerate(endpoints):
        with trio.CancelScope(deadline=_attempt_deadline(len(endpoints) - index)):
            try:
                return await start(endpoint, port, poller, options, source).wait(), endpoint
            except (ServerRefusedError, ProxyError) as error:
                # The frames of the traceback refer to ``faults``: a reference cycle.
                error.__traceback__ = error.__context__ = None
                faults.append(error)
                continue
        faults.append(ServerRefusedError(f"{endpoint.text(port)}: no answer in time"))
    text = "; ".join(map(str, faults)) or "has no address"
    if faults and all(isinstance(fault, ProxyError) for fault in faults):
        raise ProxyError(text) from ExceptionGroup("no address could be tried", faults)
    raise ServerRefusedError(
        text,
        is_local=bool(faults) and all(getattr(fault, "is_local", True) for fault in faults),
        is_client_fault=bool(faults) and all(getattr(fault, "is_client_fault", False) for fault in faults),
    ) from (ExceptionGroup("every address refused", faults) if faults else None)


def _attempt_deadline(remaining: int) -> float:
    """Return the deadline of the next of ``remaining`` attempts: an equal share of the time left."""
    now, end = trio.current_time(), trio.current_effective_deadline()
    return end if remaining == 1 else now + (end - now) / remaining


async def half_open_connect(
    endpoints: Sequence[Endpoint], port: int | None, source: Source | None = None
) -> Endpoint:
    """Return the first endpoint that would take a connection, without completing one.

    Over TCP the kernel sends no acknowledgement of the server's SYN/ACK, and resets the connection instead.
    The server's program never sees it. HAProxy's plain checks do the same.

    Raises:
        ServerRefusedError: No endpoint takes the connection.
        ProxyError: This process or machine has no descriptor or memory left.

    Closes:
        The socket.
    """
    sock, endpoint = await connect(endpoints, port, _HALF_OPEN, source=source)
    sock.close()
    return endpoint


@define(eq=False)
class Dial:
    """A connection in progress.

    Attributes:
        sock: The socket, nonblocking.
        endpoint: Where it connects to.
        port: The port that the client connected to.
        errno: The result of connect(2): 0 if the connection is established, EINPROGRESS, or an error.
    """

    sock: socket.socket
    endpoint: Endpoint
    port: int | None
    errno: int
    _poller: AnyPoller

    async def wait(self) -> socket.socket:
        """Wait until the connection is established, and return the socket, which the caller closes.

        Raises:
            ServerRefusedError: The connection failed.
            ProxyError: This process or machine has no descriptor or memory left.

        Closes:
            The socket, if the wait fails or is cancelled.
        """
        sock, poller, code = self.sock, self._poller, self.errno
        fd = sock.fileno()
        try:
            if code == errno.EINPROGRESS:
                watch, events = poller.watch(fd), 0
                while not events & (OUT | ERR | HUP):
                    events = await watch.writable()
                # Without ERR or HUP there is no error, and asking costs a system call.
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & (ERR | HUP) else 0
            pause = _MIN_PAUSE_S
            # The queue of a Unix socket is full, and the kernel does not report when it has room (unix(7)).
            while code == errno.EAGAIN:
                await trio.sleep(pause)
                pause = min(pause * 2, _MAX_PAUSE_S)
                try:
                    code = sock.connect_ex(self.endpoint.address(self.port))
                except OSError as error:
                    code = _errno_of(error)
                if not code:
                    poller.add(fd)
        except BaseException:
            self.abort()
            raise
        if not code:
            return sock
        self.abort()
        # A missing Unix socket is not local trouble: it belongs to a server that restarts, and comes back in
        # a moment.
        is_local = self.errno == code != errno.ECONNREFUSED and self.endpoint.family != socket.AF_UNIX
        raise _connect_error(self.endpoint.text(self.port), code, is_local=is_local)

    def abort(self) -> None:
        """Close the socket, in whatever state the connection is."""
        self._poller.forget(self.sock.fileno())
        self.sock.close()


def start(
    endpoint: Endpoint,
    port: int | None,
    poller: AnyPoller = TRIO,
    options: Options = (),
    source: Source | None = None,
) -> Dial:
    """Start to connect, without waiting. The arguments are those of ``connect``.

    A connection to another machine is never established when connect(2) returns. One to this machine always
    is, because the kernel handles both ends in the call. A second connect(2) finds that out: it costs one
    system call, and saves such a session a wait with a timeout.

    Raises:
        ProxyError: No descriptor or memory is left.
        ServerRefusedError: The kernel has no sockets of this family, or the source cannot be used.
    """
    try:
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        if error.errno in _RESOURCE_ERRNOS:
            raise ProxyError(f"no socket: {error.strerror}") from None
        raise _connect_error(endpoint.text(port), _errno_of(error), is_local=True) from None
    try:
        if endpoint.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for level, name, value in options:
                sock.setsockopt(level, name, value)
            if source is not None:
                _bind(sock, source, endpoint.text(port))
        try:
            address = endpoint.address(port)
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS and options is not _HALF_OPEN:
                code = sock.connect_ex(address)
                code = _SECOND_CONNECT_ERRNOS.get(code, code)
        except OSError as error:
            code = _errno_of(error)
        if code in (0, errno.EINPROGRESS):
            # A connection that is established is writable: reported, that would take a poll of its own.
            poller.add(sock.fileno(), BOTH_WAYS if code else READING)
    except BaseException:
        sock.close()
        raise
    return Dial(sock, endpoint, port, code, poller)


def _bind(sock: socket.socket, source: Source, peer: str) -> None:
    """Give a socket its local address.

    connect(2) chooses the port (IP_BIND_ADDRESS_NO_PORT), so that it must be free towards one server only.

    Args:
        sock: The socket, not yet connected.
        source: Its local address.
        peer: The server's address, for error messages.

    Raises:
        ServerRefusedError: The address cannot be used.
        ProxyError: No descriptor or memory is left.
    """
    is_ipv6 = sock.family == socket.AF_INET6
    if is_ipv6 != (":" in source.host):
        reason = f"from {source.host}: one is IPv4, the other IPv6"
        raise ServerRefusedError(f"{peer} {reason}", reason, is_local=True, is_client_fault=source.is_foreign)
    try:
        if source.is_foreign and is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        elif source.is_foreign:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind(socket_address(source.host, 0))
    except OSError as error:
        if error.errno in _RESOURCE_ERRNOS:
            raise ProxyError(f"{peer}: {error.strerror}") from None
        reason = f"from {source.host}: {error.strerror}"
        raise ServerRefusedError(
            f"{peer} {reason}", reason, is_local=True, is_client_fault=source.is_foreign
        ) from None


def is_local(host: str) -> bool:
    """Whether this is an address of this machine, which connections may come from."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(socket_address(host, 0))
        except OSError:
            return False
    return True


def can_use_foreign_addresses() -> bool:
    """Whether this process may connect from addresses of other machines. That takes CAP_NET_ADMIN."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        except PermissionError:
            return False
    return True


def _connect_error(peer: str, code: int, *, is_local: bool) -> ServerRefusedError | ProxyError:
    """Return the error for a code of connect(2).

    Args:
        peer: The server's address.
        code: The errno.
        is_local: The call failed at once, before anything was sent to the server.
    """
    reason = os.strerror(code)
    if code in _RESOURCE_ERRNOS:
        return ProxyError(f"{peer}: {reason}")
    return ServerRefusedError(f"{peer}: {reason}", reason, is_local=is_local)


def _errno_of(error: OSError) -> int:
    """Return the errno of an error; EINVAL if it has none (an unknown zone, a path that is too long)."""
    return error.errno if error.errno and error.errno > 0 else errno.EINVAL
