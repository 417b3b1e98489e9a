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
from mailproxy.net.poller import BOTH_WAYS, ERR, HUP, OUT, TRIO, AnyPoller

# What this process or machine lacks for any connection. Every other error is about one server's address: no route, no
# local address of its family, no free local port towards it, a firewall's rule. Another server may well be reached then.
_OUR_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_LONGEST_PAUSE_S = 0.01
# What a second call says of a connection under way, and of one that is made (connect(2)).
_ASKED_AGAIN = {errno.EALREADY: errno.EINPROGRESS, errno.EISCONN: 0}

# Missing from Python's socket module (linux/in.h, linux/in6.h).
_IP_TRANSPARENT = 19
_IP_BIND_ADDRESS_NO_PORT = 24
_IPV6_TRANSPARENT = 75

Options = Sequence[tuple[int, int, int | bytes]]

_HALF_OPEN: Options = (
    (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0),
    (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),
)


@frozen
class Source:
    """The local address of a connection; ``is_foreign``: of another machine, which takes CAP_NET_ADMIN (IP_TRANSPARENT)."""

    host: str
    is_foreign: bool = False


@frozen
class Endpoint:
    """A socket address to connect to; ``port`` None takes the one that the client connected to."""

    family: int
    host: str
    port: int | None = None

    def with_port(self, port: int | None) -> Endpoint:
        """The same machine at another port; None, and Unix sockets, stay as they are."""
        if port is None or port == self.port or self.family == socket.AF_UNIX:
            return self
        return Endpoint(self.family, self.host, port)

    def at(self, port: int | None) -> tuple[str | int, ...] | str:
        """The address for the socket, with the client's port where the server has none. Raises OSError."""
        if self.family == socket.AF_UNIX:
            return self.host
        if "%" in self.host:
            return socket_address(self.host, self.port or port or 0)
        return self.host, self.port or port or 0

    def text(self, port: int | None) -> str:
        """The address for people."""
        return (
            f"unix:{self.host}"
            if self.family == socket.AF_UNIX
            else _joined(self.host, self.port or port or 0)
        )


@functools.lru_cache(maxsize=1024)
def _joined(host: str, port: int) -> str:
    """One string for all sessions of a server, which keep it for hours."""
    return join_host_port(host, port)


def socket_address(host: str, port: int) -> tuple[str | int, ...]:
    """What sockets take for an IP address; the zone of a link-local one (RFC 4007) goes apart. Raises OSError."""
    address, percent, zone = host.partition("%")
    return (address, port, 0, socket.if_nametoindex(zone)) if percent else (host, port)


async def connect(
    endpoints: Sequence[Endpoint],
    port: int | None,
    options: Options = (),
    poller: AnyPoller = TRIO,
    begun: Dial | None = None,
    *,
    source: Source | None = None,
) -> tuple[socket.socket, Endpoint]:
    """Connect to the first endpoint that takes the connection, in their order.

    ``port``: the port that the client connected to, for endpoints without one; ``options`` are set on TCP sockets, which have
    ``source`` as their local address; ``begun``: what ``begin`` gave for the only endpoint. An endpoint that does not answer has its share of the time that the caller's
    cancel scope leaves. Returns a nonblocking socket, which the caller closes, and which has been added to ``poller``.
    Raises ServerRefusedError when none takes it, ProxyError when this process or machine has no descriptor or memory left.
    Cancelled, it leaves nothing open.
    """
    if len(endpoints) == 1:
        begun = begun or start(endpoints[0], port, poller, options, source)
        return await begun.wait(), endpoints[0]
    faults: list[ServerRefusedError | ProxyError] = []
    for index, endpoint in enumerate(endpoints):
        with trio.CancelScope(deadline=_share(len(endpoints) - index)):
            try:
                return await start(endpoint, port, poller, options, source).wait(), endpoint
            except (ServerRefusedError, ProxyError) as error:
                error.__traceback__ = error.__context__ = None  # whose frames have these faults: a cycle
                faults.append(error)
                continue
        faults.append(ServerRefusedError(f"{endpoint.text(port)}: no answer in time"))
    text = "; ".join(map(str, faults)) or "has no address"
    if faults and all(isinstance(fault, ProxyError) for fault in faults):
        raise ProxyError(text) from ExceptionGroup("no address could be asked", faults)
    raise ServerRefusedError(
        text,
        is_local=bool(faults) and all(getattr(fault, "is_local", True) for fault in faults),
        is_client_fault=bool(faults) and all(getattr(fault, "is_client_fault", False) for fault in faults),
    ) from (ExceptionGroup("every address refused", faults) if faults else None)


def _share(left: int) -> float:
    """The deadline of the next of ``left`` attempts; the last one has all that remains."""
    now, end = trio.current_time(), trio.current_effective_deadline()
    return end if left == 1 else now + (end - now) / left


async def half_open_connect(
    endpoints: Sequence[Endpoint], port: int | None, source: Source | None = None
) -> Endpoint:
    """Does anybody listen there? As ``connect``, but nobody has to be let in: returns the endpoint that would.

    TCP is asked for the first half of a handshake alone: without the last acknowledgement, and with a reset in place of it,
    the server's program never hears of the connection (as HAProxy's plain checks do it).
    """
    sock, endpoint = await connect(endpoints, port, _HALF_OPEN, source=source)
    sock.close()
    return endpoint


@define(eq=False)
class Dial:
    """A connection that was begun. ``code`` is what the kernel says of it, 0 if it is made already."""

    sock: socket.socket
    endpoint: Endpoint
    port: int | None
    errno: int
    _poller: AnyPoller

    async def wait(self) -> socket.socket:
        """Wait for it; see ``connect``."""
        sock, poller, code = self.sock, self._poller, self.errno
        fd = sock.fileno()
        try:
            if code == errno.EINPROGRESS:
                watch, events = poller.watch(fd), 0
                while not events & (OUT | ERR | HUP):
                    events = await watch.writable()
                # without a word of a fault there is none, and asking costs a call
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & (ERR | HUP) else 0
            pause = 0.001
            # a Unix socket's queue may be full, and nothing tells when there is room (unix(7))
            while code == errno.EAGAIN:
                await trio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                try:
                    code = sock.connect_ex(self.endpoint.at(self.port))
                except OSError as error:
                    code = _code_of(error)
                if not code:
                    poller.add(fd, BOTH_WAYS)
        except BaseException:
            self.abort()
            raise
        if not code:
            return sock
        self.abort()
        # a missing Unix socket is one of a server that restarts, and comes back in a moment
        is_local = self.errno == code != errno.ECONNREFUSED and self.endpoint.family != socket.AF_UNIX
        raise _failure(self.endpoint.text(self.port), code, is_local=is_local)

    def abort(self) -> None:
        """Close it, made or not."""
        self._poller.forget(self.sock.fileno())
        self.sock.close()


def start(
    endpoint: Endpoint,
    port: int | None,
    poller: AnyPoller = TRIO,
    options: Options = (),
    source: Source | None = None,
) -> Dial:
    """Begin to connect. Raises ProxyError without a descriptor or memory, ServerRefusedError if the kernel has no such sockets.

    On the way to another machine it is never made when the call returns, on this one always: the kernel does both ends at
    once. Asking costs a call, and where it is made so, saves the session a wait and a limit to it.
    """
    try:
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        if error.errno in _OUR_FAULT:
            raise ProxyError(f"no socket: {error.strerror}") from None
        raise _failure(endpoint.text(port), _code_of(error), is_local=True) from None
    try:
        if endpoint.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for level, name, value in options:
                sock.setsockopt(level, name, value)
            if source is not None:
                _bind(sock, source, endpoint.text(port))
        try:
            address = endpoint.at(port)
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS and options is not _HALF_OPEN:
                code = sock.connect_ex(address)
                code = _ASKED_AGAIN.get(code, code)
        except OSError as error:
            code = _code_of(error)
        if code in (0, errno.EINPROGRESS):
            poller.add(sock.fileno(), BOTH_WAYS)
    except BaseException:
        sock.close()
        raise
    return Dial(sock, endpoint, port, code, poller)


def _bind(sock: socket.socket, source: Source, place: str) -> None:
    """Give a socket its local address; the port is chosen when it connects, so that it need be free towards one server only."""
    is_ipv6 = sock.family == socket.AF_INET6
    if is_ipv6 != (":" in source.host):
        reason = f"from {source.host}: one is IPv4, the other IPv6"
        raise ServerRefusedError(
            f"{place} {reason}", reason, is_local=True, is_client_fault=source.is_foreign
        )
    try:
        if source.is_foreign and is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        elif source.is_foreign:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind(socket_address(source.host, 0))
    except OSError as error:
        if error.errno in _OUR_FAULT:
            raise ProxyError(f"{place}: {error.strerror}") from None
        reason = f"from {source.host}: {error.strerror}"
        raise ServerRefusedError(
            f"{place} {reason}", reason, is_local=True, is_client_fault=source.is_foreign
        ) from None


def is_local(host: str) -> bool:
    """Is this an address of this machine, which connections may come from?"""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(socket_address(host, 0))
        except OSError:
            return False
    return True


def may_be_transparent() -> bool:
    """May this process use addresses of other machines? That takes CAP_NET_ADMIN."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        except PermissionError:
            return False
    return True


def _failure(place: str, code: int, *, is_local: bool) -> ServerRefusedError | ProxyError:
    """The error for a code of connect(2). ``is_local``: it came at once, before anything was sent to the server."""
    reason = os.strerror(code)
    if code in _OUR_FAULT:
        return ProxyError(f"{place}: {reason}")
    return ServerRefusedError(f"{place}: {reason}", reason, is_local=is_local)


def _code_of(error: OSError) -> int:
    """Of an address that cannot be one here: an unknown zone, a path that is too long."""
    return error.errno if error.errno and error.errno > 0 else errno.EINVAL
