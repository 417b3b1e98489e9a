"""Listening sockets with the options of their binds, one at a time."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from mailproxy.address import TcpAddress, UnixAddress
from mailproxy.config import Bind
from mailproxy.files import FileId, SocketFile, bind_unix, remove
from mailproxy.net.accounts import group_id, user_id
from mailproxy.net.dial import socket_address
from mailproxy.net.keepalive import keepalive_options

_IP_FREEBIND = 15  # ip(7), on Linux also for IPv6; missing from Python's socket module
_MAX_USER_TIMEOUT_MS = 2**31 - 1  # the largest value of the socket option, 24 days
FAST_OPEN_QUEUE = 256  # TCP Fast Open requests that the kernel keeps before their handshake ends (RFC 7413)


def open_tcp(bind: Bind, address: TcpAddress, *, reuse_port: bool) -> socket.socket:
    return start_listening(bind_tcp(bind, address, reuse_port=reuse_port), bind)


def bind_tcp(bind: Bind, address: TcpAddress, *, reuse_port: bool = False) -> socket.socket:
    """Return a bound socket with the options of its bind. ``reuse_port`` sets SO_REUSEPORT."""
    host = "0.0.0.0" if address.host == "*" else address.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bind.v6only)
        if bind.free_bind:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if bind.interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bind.interface.encode())
        set_for_accepted(sock, bind)
        sock.bind(socket_address(host, address.port or 0))
    except BaseException:
        sock.close()
        raise
    return sock


def start_listening(sock: socket.socket, bind: Bind) -> socket.socket:
    try:
        if bind.fast_open:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, FAST_OPEN_QUEUE)
        sock.listen(bind.backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def set_for_accepted(sock: socket.socket, bind: Bind) -> None:
    """Set options that accepted sockets inherit on Linux: set once here, they cost a session nothing."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for level, name, value in keepalive_options(bind.keepalive):
        sock.setsockopt(level, name, value)
    if bind.tcp_user_timeout is not None:
        sock.setsockopt(
            socket.IPPROTO_TCP,
            socket.TCP_USER_TIMEOUT,
            min(max(1, round(bind.tcp_user_timeout * 1000)), _MAX_USER_TIMEOUT_MS),
        )


def open_unix(bind: Bind, address: UnixAddress) -> tuple[socket.socket, SocketFile]:
    path = Path(address.path)
    uid = -1 if bind.unix_user is None else user_id(bind.unix_user)
    gid = -1 if bind.unix_group is None else group_id(bind.unix_group)
    remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    created = None
    try:
        created = bind_unix(sock, path, mode=bind.unix_mode, uid=uid, gid=gid)
        sock.listen(bind.backlog)  # with the mode and the owner set: from now on clients can connect
    except BaseException:
        if created is not None:
            remove(path, created)
        sock.close()
        raise
    return sock, SocketFile(path, created)


def remove_stale(path: Path) -> None:
    """Remove a Unix socket that nothing listens on. One that is in use stays, and bind(2) fails."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return  # bind(2) reports that the address is in use
        stale = FileId.of(path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # Any other result means that the socket may be in use, for example with a full queue or of another
        # type.
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            remove(path, stale)


def adopt_descriptor(fd: int) -> socket.socket:
    """Return a listening socket made of a copy of this descriptor, which stays open.

    Raises:
        OSError: The descriptor is not a listening stream socket.
    """
    copy = -1
    try:
        copy = os.dup(fd)
        sock = socket.socket(fileno=copy)
    except OSError as error:
        if copy != -1:
            os.close(copy)
        raise OSError(error.errno, f"descriptor {fd} is no socket: {error.strerror}") from None
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise OSError(errno.EINVAL, f"descriptor {fd} is no listening stream socket")
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
