"""The descriptor store of systemd: the service manager keeps copies of the listening sockets.

The next process gets them as it gets the sockets of ``.socket`` units (sd_listen_fds(3)). Connections that
arrive while no process runs wait in their queues. A name tells the address of the bind, so that the next
process finds it in its configuration.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from mailproxy.address import DescriptorAddress
from mailproxy.config import Config
from mailproxy.files import FileId
from mailproxy.net.inherited import FIRST_DESCRIPTOR, STORED_PREFIX, passed_names
from mailproxy.net.listener import Listener
from mailproxy.net.notify import forget_descriptors, store_descriptor
from mailproxy.net.passing.sockets import PassedSocket

_NAME_MAX = 255  # bytes (sd_pid_notify_with_fds(3))


def has_store() -> bool:
    """Whether the service manager keeps descriptors: systemd 254 and later say so (``FDSTORE``)."""
    count = os.environ.get("FDSTORE", "")
    return count.isascii() and count.isdecimal() and int(count) > 0


def stored_name(address: str) -> str:
    """Return the name under which the socket of a bind is stored. It has no colon, and at most 255 bytes."""
    name = STORED_PREFIX + quote(address, safe="*[].-_")
    return name if len(name) <= _NAME_MAX else STORED_PREFIX + hashlib.sha256(name.encode()).hexdigest()


def stored_sockets(config: Config) -> list[PassedSocket]:
    """Return the sockets that the process before had stored. Those of no bind have no address."""
    try:
        names = passed_names()
    except LookupError:  # no socket was passed to this process
        return []
    addresses = {
        stored_name(str(bind.address)): str(bind.address)
        for frontend in config.frontends.values()
        for bind in frontend.bind
    }
    sockets: list[PassedSocket] = []
    for fd, name in enumerate(names, FIRST_DESCRIPTOR):
        if not name.startswith(STORED_PREFIX):
            continue
        os.set_inheritable(fd, False)
        sock = _stream_socket(fd)
        if sock is None:
            os.close(fd)
        else:
            address = addresses.get(name, "")
            sockets.append(
                PassedSocket(
                    socket=sock, purpose="bind", address=address, stored_as=name, file=_file_of(sock)
                )
            )
    return sockets


def _stream_socket(fd: int) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return None
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        return None
    sock.setblocking(False)
    return sock


def _file_of(sock: socket.socket) -> FileId | None:
    """Return the file of a Unix socket. One that is gone has an identity that no file has."""
    if sock.family != socket.AF_UNIX:
        return None
    try:
        return FileId.of(Path(sock.getsockname()))
    except OSError:
        return FileId(-1, -1)


class DescriptorStore:
    """What the service manager keeps of this process. Does nothing if it keeps none.

    Args:
        before: Sockets that it may keep already, by name: their inodes.
    """

    def __init__(self, before: Mapping[str, Collection[int]]) -> None:
        self._is_used = has_store()
        self._before = before
        self._stored: dict[str, set[int]] = {}  # inodes of sockets by name

    @property
    def is_used(self) -> bool:
        """Whether the service manager keeps descriptors."""
        return self._is_used

    def update(self, listeners: Iterable[Listener]) -> None:
        """Have it keep the sockets of these listeners, and no others of this service.

        Those of ``.socket`` units are left out, because it has them anyway.
        """
        if not self._is_used:
            return
        wanted: dict[str, dict[int, int]] = {}
        for listener in listeners:
            if not isinstance(listener.bind.address, DescriptorAddress):
                fd = listener.socket.fileno()
                wanted.setdefault(stored_name(str(listener.bind.address)), {})[os.fstat(fd).st_ino] = fd
        for name, inodes in {**self._before, **self._stored}.items():
            if set(inodes) - wanted.get(name, {}).keys():
                forget_descriptors(name)
                self._stored.pop(name, None)
        # Those of the process before are stored once more, since it may have been another service's.
        self._before = {}
        for name, sockets in wanted.items():
            for inode, fd in sockets.items():
                if inode not in self._stored.get(name, ()):
                    store_descriptor(name, fd)
                    self._stored.setdefault(name, set()).add(inode)
