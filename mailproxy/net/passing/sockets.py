"""A listening socket on its way to another process, and which bind takes it there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Sequence
from typing import Literal

from attrs import frozen

from mailproxy.config import Config
from mailproxy.files import FileId
from mailproxy.net.passing.matching import match_binds

Purpose = Literal["bind", "admin"]


@frozen(kw_only=True)
class PassedSocket:
    """A listening socket, and what it is for.

    Attributes:
        socket: The socket. Another process may have it, too, and then shares its accept queue.
        purpose: Whether it serves a bind or an administrator.
        address: The address as the configuration has it.
        frontend: The frontend of its bind, empty if that is not known or if it has none.
        number: The bind's number in its frontend, from 1; 0 if that is not known.
        stored_as: The name under which a service manager has it, empty if none has.
        file: The file of a Unix socket that mailproxy has created; None without one.
    """

    socket: socket.socket
    purpose: Purpose
    address: str
    frontend: str = ""
    number: int = 0
    stored_as: str = ""
    file: FileId | None = None


class PassedSockets:
    """The sockets that a new process has got, and which of them it uses.

    Args:
        sockets: The sockets. ``close_unused`` closes those that were not taken.
    """

    def __init__(self, sockets: Iterable[PassedSocket] = ()) -> None:
        self._free = list(sockets)
        self._shared: list[socket.socket] = []

    def __bool__(self) -> bool:
        return bool(self._free)

    def take_for_binds(self, config: Config) -> dict[tuple[str, int], list[PassedSocket]]:
        """Return the sockets of each bind that has some, by frontend and index of the bind.

        Several sockets have the address of one bind if several workers listened there. A bind takes all of
        them, because the connections in their queues would be lost otherwise.
        """
        groups: dict[tuple[str, int, str], list[PassedSocket]] = {}
        for each in self._free:
            if each.purpose == "bind":
                groups.setdefault((each.frontend, each.number, each.address), []).append(each)
        by_bind = list(groups.values())
        matches = match_binds(config, [(group[0].frontend, group[0].address) for group in by_bind])
        taken = {place: by_bind[index] for place, index in matches.items()}
        for group in taken.values():
            self._remove(group)
        return taken

    def take_for_admin(self, address: str) -> PassedSocket | None:
        """Return the admin socket with this address if there is one."""
        for each in self._free:
            if each.purpose == "admin" and each.address == address:
                self._free.remove(each)
                return each
        return None

    def put_back(self, sockets: Iterable[PassedSocket]) -> None:
        """Have these count as not taken."""
        self._free += sockets

    def _remove(self, group: Sequence[PassedSocket]) -> None:
        self._free = [each for each in self._free if all(each is not taken for taken in group)]

    @property
    def unused(self) -> Sequence[PassedSocket]:
        """The sockets that were not taken."""
        return self._free

    def share_ports(self) -> set[int]:
        """Allow that other sockets of this user bind the ports of those that were not taken. Return these ports.

        ``*:143`` may become ``10.0.0.1:143``: both listen until the process before has stopped.
        """
        ports = set()
        for each in self._free:
            if each.purpose == "bind" and each.socket.family in (socket.AF_INET, socket.AF_INET6):
                if not each.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
                    each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    self._shared.append(each.socket)
                ports.add(each.socket.getsockname()[1])
        return ports

    def cancel(self) -> None:
        """Undo ``share_ports`` and close what was not taken: this process does not serve."""
        for sock in self._shared:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        self.close_unused()

    def close_unused(self) -> None:
        """Close this process's copies of the sockets that were not taken."""
        for each in self._free:
            each.socket.close()
        self._free = []
