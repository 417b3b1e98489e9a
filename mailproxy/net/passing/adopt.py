"""Listening with sockets that another process has opened: as far as there are some, others are opened."""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from attrs import evolve

from mailproxy.address import DescriptorAddress, TcpAddress, UnixAddress
from mailproxy.config import Bind, Config
from mailproxy.files import FileId, SocketFile
from mailproxy.net.accounts import group_id, user_id
from mailproxy.net.listener import (
    BindPlace,
    Listener,
    Slots,
    make_listener,
    open_bind,
    open_binds,
    open_for_each,
)
from mailproxy.net.listening_socket import bind_tcp
from mailproxy.net.passing.sockets import PassedSocket, PassedSockets
from mailproxy.net.tls.terminator import Terminator

_NAME_MAX = 16  # IFNAMSIZ


def open_slots(
    config: Config, terminators: Mapping[BindPlace, Terminator], workers: int, passed: PassedSockets
) -> Slots:
    """Listen on every bind of every frontend with the sockets that were passed, and open the others.

    If there were more processes before, their sockets stay open, because connections wait there. In one process
    a bind has several listeners then. With several there are more slots than workers.

    Args:
        config: The configuration.
        terminators: By frontend and index of the bind, for binds that terminate TLS.
        workers: The number of processes that serve.
        passed: The sockets. Those that are used are taken out.

    Raises:
        ConfigError: Some addresses cannot be listened on. All sockets of binds are closed here; other
            processes still have theirs.
    """
    taken = passed.take_for_binds(config)
    for place in [place for place, sockets in taken.items() if not all(map(_is_reachable, sockets))]:
        passed.put_back(taken.pop(place))
    ports = passed.share_ports()

    def open_one(bind: Bind, frontend: str, number: int, terminator: Terminator | None) -> list[Listener]:
        make = partial(make_listener, bind=bind, frontend=frontend, number=number, terminator=terminator)
        if sockets := taken.get((frontend, number - 1)):
            return _adopt(sockets, bind, make, workers)
        if workers > 1:
            return open_for_each(bind, frontend, number, terminator, workers=workers, shared_ports=ports)
        return [open_bind(bind, frontend, number, terminator, shared_ports=ports)]

    binds = open_binds(config, terminators, open_one, ())
    if workers == 1:
        return [[listener for listeners in binds.values() for listener in listeners]]
    slots = max([workers, *map(len, binds.values())])
    return [
        [listeners[slot if slot < len(listeners) else slot % workers] for listeners in binds.values()]
        for slot in range(slots)
    ]


def _is_reachable(passed: PassedSocket) -> bool:
    """Whether clients reach the socket. A Unix socket whose file is gone is opened again."""
    if passed.socket.family != socket.AF_UNIX or passed.file is None:
        return True
    try:
        return FileId.of(Path(passed.socket.getsockname())) == passed.file
    except OSError:
        return False


def _adopt(
    sockets: Sequence[PassedSocket], bind: Bind, make: partial[Listener], workers: int
) -> list[Listener]:
    """Return the listeners of a bind: as many as there are workers, or more.

    Raises:
        OSError: The bind has options that these sockets cannot get.
    """
    for each in sockets:
        check_options(each.socket, bind)
    listeners = [make(each.socket, created=adopted_file(each)) for each in sockets]
    if not isinstance(bind.address, TcpAddress):
        return [listener for listener in listeners for _ in range(workers)]
    for index in range(len(listeners), workers):
        listeners.append(make(_another(listeners[0], bind, listeners[index % len(sockets)].socket)))
    return listeners


def adopted_file(passed: PassedSocket) -> SocketFile | None:
    """Return the file of a Unix socket. It stays until it is claimed: the process before still needs it."""
    if passed.file is None:
        return None
    return SocketFile(Path(passed.socket.getsockname()), passed.file, is_left=True)


def _another(first: Listener, bind: Bind, shared: socket.socket) -> socket.socket:
    """Open another socket at the address of the first one, for one more worker.

    Only the user that has opened the first one can do that. Otherwise two workers accept from one queue.
    """
    assert isinstance(bind.address, TcpAddress)  # noqa: S101 - the caller has checked it
    try:
        first.share_port(is_shared=True)
        address = evolve(bind.address, port=first.port)
        # The worker calls listen(2) when it accepts. Before, connections in this queue would be lost if the start fails.
        return bind_tcp(bind, address, reuse_port=True)
    except OSError:
        return shared.dup()


def check_options(sock: socket.socket, bind: Bind) -> None:
    """Check that an open socket has the options of a bind that cannot be changed later.

    Raises:
        OSError: It has not.
    """
    address = bind.address
    if isinstance(address, UnixAddress):
        check_file(Path(address.path), bind.unix_mode, bind.unix_user, bind.unix_group, "unix_")
    if not isinstance(address, TcpAddress):
        return
    if sock.family == socket.AF_INET6:
        v6only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        _require(bool(v6only) == bind.v6only, "v6only")
    device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _NAME_MAX)
    _require(device.rstrip(b"\0").decode() == (bind.interface or ""), "interface")


def check_file(path: Path, mode: int | None, user: str | None, group: str | None, prefix: str = "") -> None:
    """Check that the file of an open Unix socket has this mode and these owners; None for any.

    Raises:
        OSError: It has not, or it is gone.
    """
    info = path.lstat()
    _require(mode is None or stat.S_IMODE(info.st_mode) == mode, f"{prefix}mode")
    _require(user is None or info.st_uid == user_id(user), f"{prefix}user")
    _require(group is None or info.st_gid == group_id(group), f"{prefix}group")


def _require(is_same: bool, key: str) -> None:
    if not is_same:
        raise OSError(
            errno.EINVAL, f"the running proxy listens there with another {key}, which needs a restart"
        )


def claim(listeners: Iterable[Listener]) -> None:
    """Make sockets of another process this one's own: set their options, and remove their files at the end."""
    for listener in listeners:
        if listener.created is not None:
            listener.created.claim()
        if not isinstance(listener.bind.address, DescriptorAddress):  # its options are the service manager's
            with contextlib.suppress(OSError):  # it serves already, with the options of the process before
                listener.update_socket(None)


def leave_files(listeners: Iterable[Listener], unused: Collection[str]) -> None:
    """Have the files of Unix sockets stay: another process listens there. ``unused``: but not at these addresses."""
    for listener in listeners:
        if listener.created is not None and str(listener.bind.address) not in unused:
            listener.created.leave()


def to_pass(slots: Slots) -> list[PassedSocket]:
    """Return the sockets of all workers as another process gets them."""
    unique = {id(listener): listener for listeners in slots for listener in listeners}
    return [
        PassedSocket(
            socket=each.socket,
            purpose="bind",
            frontend=each.frontend,
            number=each.number,
            address=str(each.bind.address),
            file=None if each.created is None else each.created.id,
        )
        for each in unique.values()
    ]
