"""Listening sockets: opened with everything that a bind asks for, all of them or none."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import evolve, field, frozen

from mailproxy.address import Networks, TcpAddress, UnixAddress, join_host_port
from mailproxy.config import Bind, Config
from mailproxy.errors import Fault
from mailproxy.files import FileId, bind_unix, remove
from mailproxy.net.accounts import group_id, user_id
from mailproxy.net.dial import socket_address
from mailproxy.net.inherited import descriptor_of
from mailproxy.net.keepalive import keepalive_options
from mailproxy.net.tls.terminator import Terminator

_FIRST_FREE_PORT = 1024

Socket = socket.socket  # which a class with a field of that name cannot say
_FREE_BIND = 15  # IP_FREEBIND (ip(7)), also for IPv6 on Linux; missing from Python's socket module
_LONGEST_MS = 2**31 - 1  # what the socket option holds, 24 days
_QUEUE_OFFSET = (
    24  # of tcpi_unacked in Linux's struct tcp_info: where a socket listens, the connections in its queue
)
_FAST_OPEN_QUEUE = 256  # half-open requests with data that the kernel keeps (RFC 7413)


@frozen
class Listener:
    """A listening socket and the bind that it was opened for; nonblocking.

    ``number`` counts a frontend's binds from 1; ``terminator`` is there where TLS may end; ``name`` is for logs and
    statistics; ``only_address`` is that of every connection, None where it listens on all of the machine's or has none;
    ``made``: the file of a Unix socket that was made here, which is removed when it is closed.
    """

    socket: socket.socket
    bind: Bind = field(kw_only=True)
    frontend: str = field(kw_only=True)
    number: int = field(kw_only=True)
    port: int | None = field(kw_only=True)
    terminator: Terminator | None = field(kw_only=True)
    name: str = field(kw_only=True)
    _trusted: Networks = field(kw_only=True)
    only_address: tuple[str, int] | None = field(default=None, kw_only=True)
    made: FileId | None = field(default=None, kw_only=True)
    _family: int = field(init=False)

    @_family.default
    def _family_of_socket(self) -> int:
        return int(self.socket.family)

    def for_worker(self) -> Listener:
        """The same in one of several processes: its path is another one's to remove."""
        return evolve(self, made=None)

    @property
    def is_of_slot(self) -> bool:
        """Has each worker a socket of its own, or do all share this one?"""
        return isinstance(self.bind.address, TcpAddress)

    @property
    def address(self) -> str:
        """Where it really listens, also for port 0: ``127.0.0.1:993``, ``[::]:993``, ``unix:/run/x.sock``."""
        name = self.socket.getsockname()
        if isinstance(name, tuple):
            return join_host_port(name[0], name[1])
        return f"unix:{name}"

    def trusts(self, source: tuple[str, int] | None) -> bool:
        """Must a PROXY header come from this address? Decided by the address alone: servers of mail speak first, so that
        waiting to see whether one comes would keep those waiting that send none (PROXY 2 forbids guessing, too).
        """
        if source is None:
            return "unix" in self.bind.accept_proxy
        return source[0] in self._trusted

    def accept(self) -> tuple[Socket, object]:
        """The next connection, nonblocking, and its peer's address. Raises OSError as ``socket.accept`` does.

        That one makes enumerations of the family and the type, and a blocking socket first; for each connection.
        """
        fd, peer = self.socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - what socket.accept is made of
        sock = socket.socket(self._family, socket.SOCK_STREAM, 0, fd)
        sock.setblocking(False)
        return sock, peer

    @property
    def has_waiting(self) -> bool:
        """Is there a connection that could be accepted?"""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def queue_length(self) -> int | None:
        """How many connections could be accepted; None where the kernel does not say, as of Unix sockets."""
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE_OFFSET + 4)
        except OSError:
            return None
        return int.from_bytes(info[_QUEUE_OFFSET:], sys.byteorder) if len(info) > _QUEUE_OFFSET else None

    def close(self) -> None:
        """Stop listening; removes the path of a Unix socket that was made here. Does nothing the second time."""
        if self.socket.fileno() == -1:
            return
        self.socket.close()
        if isinstance(self.bind.address, UnixAddress) and self.made is not None:
            with contextlib.suppress(OSError):  # the folder may be root's, and this process no more
                remove(Path(self.bind.address.path), self.made)


Slots = list[list[Listener]]
"""The listeners of each worker."""


def open_listeners(config: Config, terminators: Mapping[tuple[str, int], Terminator]) -> list[Listener]:
    """Listen on every bind of every frontend.

    ``terminators``: by frontend and place of the bind, for those that end TLS. Raises ConfigError with each address that cannot be had; the others are closed again then.
    """
    listeners: list[Listener] = []
    faults: list[Fault] = []
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            try:
                listeners.append(_open(bind, name, index + 1, terminators.get((name, index))))
            except (OSError, LookupError) as error:
                reason = _reason(error, bind)
                faults.append(
                    Fault(f"frontends.{name}.bind[{index}]", f"cannot listen on {bind.address}: {reason}")
                )
    if faults:
        close_all(listeners)
        raise config.error(faults)
    return listeners


def open_for_workers(
    config: Config, terminators: Mapping[tuple[str, int], Terminator], workers: int
) -> list[list[Listener]]:
    """Listen once for each worker: TCP sockets are as many, with SO_REUSEPORT, and the kernel deals connections out to them.

    Sockets of other kinds are the same in each list. Raises as ``open_listeners``, also when another program listens there.
    """
    faults: list[Fault] = []
    slots: list[list[Listener]] = [[] for _ in range(workers)]
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            terminator = terminators.get((name, index))
            try:
                for slot, listener in zip(
                    slots, _open_each(bind, name, index + 1, terminator, workers), strict=True
                ):
                    slot.append(listener)
            except (OSError, LookupError) as error:
                faults.append(
                    Fault(
                        f"frontends.{name}.bind[{index}]",
                        f"cannot listen on {bind.address}: {_reason(error, bind)}",
                    )
                )
    if faults:
        for slot in slots:
            close_all(slot)
        raise config.error(faults)
    return slots


def _open_each(
    bind: Bind, frontend: str, number: int, terminator: Terminator | None, workers: int
) -> list[Listener]:
    """All of them, or none."""
    address = bind.address
    if not isinstance(address, TcpAddress):
        return [_open(bind, frontend, number, terminator)] * workers
    if address.port:
        # With SO_REUSEPORT it could share the port with another program of this user; without, it finds that one.
        _bind_tcp(bind, address).close()
    opened: list[Listener] = []
    try:
        for _ in range(workers):
            port = opened[0].port if opened else address.port
            sock = _bind_tcp(bind, evolve(address, port=port), shared=True)
            opened.append(_listener(_listen(sock, bind), bind, frontend, number, terminator))
    except BaseException:
        close_all(opened)
        raise
    return opened


def close_all(listeners: Iterable[Listener]) -> None:
    """Close them all."""
    for listener in listeners:
        listener.close()


def close_slots(slots: Slots) -> None:
    """Close the listeners of all workers."""
    for listeners in slots:
        close_all(listeners)


def _reason(error: Exception, bind: Bind) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    port = bind.address.port if isinstance(bind.address, TcpAddress) else None
    if isinstance(error, PermissionError) and port is not None and port < _FIRST_FREE_PORT:
        reason += f" (ports below {_FIRST_FREE_PORT} need root or CAP_NET_BIND_SERVICE)"
    return reason


def _open(bind: Bind, frontend: str, number: int, terminator: Terminator | None) -> Listener:
    made = None
    if isinstance(bind.address, TcpAddress):
        sock = _open_tcp(bind, bind.address)
    elif isinstance(bind.address, UnixAddress):
        sock, made = _open_unix(bind, bind.address)
    else:
        sock = _adopt_descriptor(descriptor_of(bind.address))
    return _listener(sock, bind, frontend, number, terminator, made=made)


def _listener(
    sock: socket.socket,
    bind: Bind,
    frontend: str,
    number: int,
    terminator: Terminator | None,
    *,
    made: FileId | None = None,
) -> Listener:
    sock.setblocking(False)
    place = sock.getsockname()
    port = place[1] if isinstance(place, tuple) else None
    name = str(bind.name)
    if isinstance(bind.address, TcpAddress) and bind.address.port == 0 and name == str(bind.address):
        name = join_host_port(place[0], place[1])  # called after its address, which is known only now
    trusted = Networks(source for source in bind.accept_proxy if source != "unix")
    only = (place[0], place[1]) if isinstance(place, tuple) and place[0] not in ("0.0.0.0", "::") else None
    return Listener(
        sock, bind=bind, frontend=frontend, number=number, port=port, terminator=terminator, name=name,
        trusted=trusted, only_address=only, made=made,
    )  # fmt: skip


def _open_tcp(bind: Bind, address: TcpAddress) -> socket.socket:
    return _listen(_bind_tcp(bind, address), bind)


def _bind_tcp(bind: Bind, address: TcpAddress, *, shared: bool = False) -> socket.socket:
    """``shared``: others may be bound there, too, if all of them say so."""
    host = "0.0.0.0" if address.host == "*" else address.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bind.v6only)
        if bind.free_bind:
            sock.setsockopt(socket.IPPROTO_IP, _FREE_BIND, 1)
        if bind.interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bind.interface.encode())
        _set_for_accepted(sock, bind)
        sock.bind(socket_address(host, address.port or 0))
    except BaseException:
        sock.close()
        raise
    return sock


def _listen(sock: socket.socket, bind: Bind) -> socket.socket:
    try:
        if bind.fast_open:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, _FAST_OPEN_QUEUE)
        sock.listen(bind.backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_for_accepted(sock: socket.socket, bind: Bind) -> None:
    """Options that Linux hands on to accepted sockets: set once here, they cost a session nothing."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for level, name, value in keepalive_options(bind.keepalive):
        sock.setsockopt(level, name, value)
    if bind.tcp_user_timeout is not None:
        sock.setsockopt(
            socket.IPPROTO_TCP,
            socket.TCP_USER_TIMEOUT,
            min(max(1, round(bind.tcp_user_timeout * 1000)), _LONGEST_MS),
        )


def _open_unix(bind: Bind, address: UnixAddress) -> tuple[socket.socket, FileId]:
    path = Path(address.path)
    uid = -1 if bind.unix_user is None else user_id(bind.unix_user)
    gid = -1 if bind.unix_group is None else group_id(bind.unix_group)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = None
    try:
        made = bind_unix(sock, path, mode=bind.unix_mode, uid=uid, gid=gid)
        sock.listen(bind.backlog)  # only now can anybody connect
    except BaseException:
        if made is not None:
            remove(path, made)
        sock.close()
        raise
    return sock, made


def _remove_stale(path: Path) -> None:
    """Remove the socket that a proxy which is gone left behind; a living one's is left alone and cannot be bound."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return  # binding says that the address is in use
        found = FileId.of(path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # all else is a sign of life, perhaps of another kind
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            remove(path, found)


def _adopt_descriptor(fd: int) -> socket.socket:
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
