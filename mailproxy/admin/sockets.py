"""The sockets of ``[[admin.sockets]]``: opened before privileges are dropped, either all or none."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from attrs import field, frozen

from mailproxy.address import TcpAddress
from mailproxy.admin.runtime.call import Level
from mailproxy.config import AdminSocket, Config
from mailproxy.errors import Fault
from mailproxy.files import SocketFile, bind_unix, remove
from mailproxy.net.accounts import group_id, user_id
from mailproxy.net.listening_socket import remove_stale
from mailproxy.net.passing.adopt import adopted_file, check_file
from mailproxy.net.passing.sockets import PassedSocket, PassedSockets

_BACKLOG = 128


@frozen(eq=False)
class AdminListener:
    """A listening socket, nonblocking.

    Attributes:
        socket: The socket.
        level: What its clients may do.
        address: Its path or address as in the configuration.
        path: Its path, None for a TCP address.
        created: The file that was created, which ``close`` removes.
    """

    socket: socket.socket
    level: Level
    address: str
    path: Path | None = None
    created: SocketFile | None = field(default=None, repr=False)

    @property
    def passed(self) -> PassedSocket:
        """The socket as another process gets it."""
        file = None if self.created is None else self.created.id
        return PassedSocket(socket=self.socket, purpose="admin", address=self.address, file=file)

    def claim(self) -> None:
        """Remove the file at the end: the process before needs it no more."""
        if self.created is not None:
            self.created.claim()

    def leave(self) -> None:
        """Close the socket, and leave its file to another process."""
        if self.created is not None:
            self.created.leave()
        self.close()

    def close(self) -> None:
        """Close the socket, and remove its file unless another process has it. May be called twice."""
        if self.socket.fileno() == -1:
            return
        self.socket.close()
        if self.created is not None:
            self.created.remove()


def open_admin_sockets(config: Config, passed: PassedSockets) -> list[AdminListener]:
    """Listen on all admin sockets, with the sockets that were passed and with others.

    Raises:
        ConfigError: Some cannot be listened on. The others are closed.
    """
    opened: list[AdminListener] = []
    faults: list[Fault] = []
    for path, table in config.admin.listening.items():
        try:
            opened.append(_adopt(table, passed) or _open(table))
        except (OSError, LookupError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            faults.append(Fault(path, f"cannot listen on {table.path or table.address}: {reason}"))
    if faults:
        close_admin_sockets(opened)
        raise config.error(faults)
    return opened


def close_admin_sockets(listeners: Iterable[AdminListener]) -> None:
    """Close all of these sockets, and remove their files."""
    for listener in listeners:
        listener.close()


def _adopt(table: AdminSocket, passed: PassedSockets) -> AdminListener | None:
    """Return the listener on a socket that was passed, None if there is none.

    Raises:
        OSError: Its file has another mode or owner.
    """
    each = passed.take_for_admin(str(table.path or table.address))
    if each is None:
        return None
    try:
        if table.path is not None:
            check_file(table.path, table.mode, table.user, table.group)
    except BaseException:
        passed.put_back([each])
        raise
    return AdminListener(
        each.socket, Level[table.level.upper()], each.address, table.path, adopted_file(each)
    )


def _open(table: AdminSocket) -> AdminListener:
    level = Level[table.level.upper()]
    if table.path is None:
        assert isinstance(table.address, TcpAddress)  # noqa: S101 - the configuration's rules demand it
        return AdminListener(_listen_tcp(table.address), level, str(table.address))
    uid = -1 if table.user is None else user_id(table.user)
    gid = -1 if table.group is None else group_id(table.group)
    remove_stale(table.path)
    sock, created = socket.socket(socket.AF_UNIX), None
    try:
        created = bind_unix(sock, table.path, mode=table.mode, uid=uid, gid=gid)
        sock.listen(_BACKLOG)  # with the mode and the owner set: from now on clients can connect
        sock.setblocking(False)
    except BaseException:
        if created is not None:
            remove(table.path, created)
        sock.close()
        raise
    return AdminListener(sock, level, str(table.path), table.path, SocketFile(table.path, created))


def _listen_tcp(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port or 0))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
