"""Listening sockets: opened with all options of their binds, either all of them or none."""

from __future__ import annotations

import errno
import select
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from attrs import evolve, field, frozen

from mailproxy.address import Networks, TcpAddress, UnixAddress, join_host_port
from mailproxy.config import Bind, Config
from mailproxy.config.path import bind_path
from mailproxy.errors import Fault
from mailproxy.files import SocketFile
from mailproxy.net.dial import socket_address
from mailproxy.net.inherited import descriptor_of
from mailproxy.net.listening_socket import (
    FAST_OPEN_QUEUE,
    adopt_descriptor,
    bind_tcp,
    open_tcp,
    open_unix,
    set_for_accepted,
    start_listening,
)
from mailproxy.net.tls.terminator import Terminator

_FIRST_UNPRIVILEGED_PORT = 1024

Socket = socket.socket  # for Listener, whose field has the same name
# Offset of tcpi_unacked in Linux's struct tcp_info. For a listening socket it is the length of the accept
# queue.
_QUEUE_OFFSET = 24


@frozen
class Listener:
    """A listening socket, nonblocking, and the bind that it was opened for.

    Attributes:
        socket: The socket.
        bind: The bind in the configuration.
        frontend: The frontend's name.
        number: The bind's number in its frontend, from 1.
        port: The port; None without TCP.
        terminator: Terminates TLS; None where the bind does not.
        name: The name for logs and statistics.
        only_address: The local address of every connection. None for a bind to all addresses, and without
            TCP.
        created: The file of a Unix socket that this process is to remove. ``close`` does.
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
    created: SocketFile | None = field(default=None, kw_only=True)
    _family: int = field(init=False)

    @_family.default
    def _family_of_socket(self) -> int:
        return int(self.socket.family)

    def handed_over(self, bind: Bind, frontend: str, number: int, terminator: Terminator | None) -> Listener:
        """Return the listener of this socket for a bind of another configuration with the same address."""
        return make_listener(self.socket, bind, frontend, number, terminator, created=self.created)

    @classmethod
    def of_socket(
        cls, sock: Socket, bind: Bind, frontend: str, number: int, terminator: Terminator | None
    ) -> Listener:
        """Return the listener of a socket that another process has opened for this bind."""
        return make_listener(sock, bind, frontend, number, terminator)

    def share_port(self, *, is_shared: bool) -> None:
        """Allow or forbid that another socket of this user binds the port, too (SO_REUSEPORT)."""
        if isinstance(self.bind.address, TcpAddress):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)

    def update_socket(self, before: Bind | None) -> None:
        """Set the options that differ from those of the bind that the socket had before: all if that is unknown."""
        bind, sock = self.bind, self.socket
        if (before is None or bind.backlog != before.backlog) and self.is_listening:
            sock.listen(bind.backlog)
        if not isinstance(bind.address, TcpAddress):
            return
        if before is None or bind.keepalive != before.keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        if before is None or bind.tcp_user_timeout != before.tcp_user_timeout:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
        set_for_accepted(sock, bind)
        if before is None or bind.fast_open != before.fast_open:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, FAST_OPEN_QUEUE * bind.fast_open)

    def for_worker(self) -> Listener:
        """Return a copy for a worker process, which does not remove the path of a Unix socket."""
        return evolve(self, created=None)

    @property
    def is_of_slot(self) -> bool:
        """Whether each worker has a socket of its own for this bind. If not, all workers share this one."""
        return isinstance(self.bind.address, TcpAddress)

    @property
    def address(self) -> str:
        """The real address, also for port 0: ``127.0.0.1:993``, ``[::]:993``, ``unix:/run/x.sock``."""
        name = self.socket.getsockname()
        if isinstance(name, tuple):
            return join_host_port(name[0], name[1])
        return f"unix:{name}"

    def trusts(self, source: tuple[str, int] | None) -> bool:
        """Whether connections from this address must begin with a PROXY header.

        The address alone decides. Mail servers send first, so waiting for a header would delay every client
        that sends none. The PROXY protocol, section 2, forbids guessing, too.

        Args:
            source: IP address and port; None for a connection over a Unix socket.
        """
        if source is None:
            return "unix" in self.bind.accept_proxy
        return source[0] in self._trusted

    def accept(self) -> tuple[Socket, object]:
        """Return the next connection, nonblocking, and its peer's address.

        ``socket.accept`` does more for each connection: it builds enumerations of family and type, and makes
        the socket blocking first.

        Raises:
            OSError: As ``socket.accept``.
        """
        fd, peer = self.socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - what socket.accept calls
        sock = socket.socket(self._family, socket.SOCK_STREAM, 0, fd)
        sock.setblocking(False)
        return sock, peer

    def pause(self) -> None:
        """Refuse connections from now on. Connections in the accept queue are reset.

        As HAProxy does: a listening TCP socket that is shut down leaves its port bound. Other sockets go on
        listening, because they cannot be resumed, or are not this process's alone.
        """
        # A second shutdown(2) would stay with the socket when it listens again, and end each connection at once.
        if isinstance(self.bind.address, TcpAddress) and self.is_listening:
            self.socket.shutdown(socket.SHUT_RDWR)

    def resume(self) -> None:
        """Accept connections again, unless they were never refused.

        Raises:
            OSError: Another program listens on the address now.
        """
        if not isinstance(self.bind.address, TcpAddress) or self.is_listening:
            return
        if not self.bind.address.port and self.port is not None:
            # The kernel has taken back a port that it had chosen itself. Of several sockets only the first one
            # has got it like that; EINVAL: the others have it still.
            try:
                self.socket.bind(socket_address(self.socket.getsockname()[0], self.port))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        self.socket.listen(self.bind.backlog)

    @property
    def is_listening(self) -> bool:
        """Whether it listens: it is not paused."""
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    @property
    def has_waiting(self) -> bool:
        """Whether there is a connection to accept."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def queue_length(self) -> int | None:
        """The number of connections to accept; None where the kernel does not report it (Unix sockets)."""
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE_OFFSET + 4)
        except OSError:
            return None
        return int.from_bytes(info[_QUEUE_OFFSET:], sys.byteorder) if len(info) > _QUEUE_OFFSET else None

    def close(self) -> None:
        """Stop listening, and remove the path of a Unix socket that was created here. May be called twice."""
        if self.socket.fileno() == -1:
            return
        self.socket.close()
        if self.created is not None:
            self.created.remove()


BindPlace = tuple[str, int]
"""A bind: the name of its frontend, and its index there."""

Slots = list[list[Listener]]
"""The listeners of each worker, by worker slot."""


def open_missing(
    config: Config,
    terminators: Mapping[tuple[str, int], Terminator],
    existing: Collection[BindPlace],
    *,
    shared_ports: Collection[int] = (),
) -> dict[BindPlace, Listener]:
    """Listen on every bind but those that exist, in one process.

    Args:
        config: The configuration.
        terminators: By frontend and index of the bind, for binds that terminate TLS.
        existing: The binds whose sockets are open.
        shared_ports: Ports at which a socket with SO_REUSEPORT listens that is closed later.

    Raises:
        ConfigError: Some addresses cannot be listened on. The other sockets that were opened here are closed.
    """
    binds = open_binds(
        config, terminators, lambda *bind: [open_bind(*bind, shared_ports=shared_ports)], existing
    )
    return {place: listener for place, (listener,) in binds.items()}


def open_missing_slots(
    config: Config,
    terminators: Mapping[tuple[str, int], Terminator],
    existing: Mapping[BindPlace, Sequence[Listener]],
    *,
    slots: int,
    shared_ports: Collection[int],
) -> dict[BindPlace, list[Listener]]:
    """Listen on every bind, for each slot that has no listener of it yet.

    Args:
        config: The configuration.
        terminators: By frontend and index of the bind, for binds that terminate TLS.
        existing: The open listeners of each bind, one for each of the first slots.
        slots: The number of slots.
        shared_ports: Ports at which sockets listen that are closed later.

    Raises:
        ConfigError: Some addresses cannot be listened on. The other sockets that were opened here are closed.
    """

    def open_rest(bind: Bind, frontend: str, number: int, terminator: Terminator | None) -> list[Listener]:
        return open_for_each(
            bind, frontend, number, terminator, workers=slots,
            existing=existing.get((frontend, number - 1), ()), shared_ports=shared_ports,
        )  # fmt: skip

    return open_binds(config, terminators, open_rest, ())


def open_binds(
    config: Config,
    terminators: Mapping[tuple[str, int], Terminator],
    open_bind: Callable[[Bind, str, int, Terminator | None], list[Listener]],
    existing: Collection[BindPlace],
) -> dict[BindPlace, list[Listener]]:
    """Open the listeners of every bind that does not exist, or none.

    Collect all faults before raising ConfigError.
    """
    binds: dict[BindPlace, list[Listener]] = {}
    faults: list[Fault] = []
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            if (name, index) in existing:
                continue
            try:
                binds[name, index] = open_bind(bind, name, index + 1, terminators.get((name, index)))
            except (OSError, LookupError) as error:
                reason = _reason(error, bind)
                faults.append(Fault(bind_path(name, index), f"cannot listen on {bind.address}: {reason}"))
    if faults:
        for listeners in binds.values():
            close_all(listeners)
        raise config.error(faults)
    return binds


def open_for_each(
    bind: Bind,
    frontend: str,
    number: int,
    terminator: Terminator | None,
    *,
    workers: int,
    existing: Sequence[Listener] = (),
    shared_ports: Collection[int] = (),
) -> list[Listener]:
    """Return the bind's listener for each worker behind those that exist; either all are opened or none."""
    address = bind.address
    if not isinstance(address, TcpAddress):
        return [] if existing else [open_bind(bind, frontend, number, terminator)] * workers
    if address.port and not existing and address.port not in shared_ports:
        # With SO_REUSEPORT, the bind would succeed beside another program of this user. Without it, it fails
        # then.
        bind_tcp(bind, address).close()
    opened: list[Listener] = []
    try:
        for _ in range(len(existing), workers):
            port = next((each.port for each in (*existing, *opened)), address.port)
            sock = bind_tcp(bind, evolve(address, port=port), reuse_port=True)
            opened.append(make_listener(start_listening(sock, bind), bind, frontend, number, terminator))
            if existing and not existing[0].is_listening:
                opened[-1].pause()
    except BaseException:
        close_all(opened)
        raise
    return opened


def close_all(listeners: Iterable[Listener]) -> None:
    """Close all of these listeners."""
    for listener in listeners:
        listener.close()


def close_slots(slots: Slots) -> None:
    """Close the listeners of all workers."""
    for listeners in slots:
        close_all(listeners)


def _reason(error: Exception, bind: Bind) -> str:
    """Return why a bind failed, with the remedy where it is known."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    port = bind.address.port if isinstance(bind.address, TcpAddress) else None
    if isinstance(error, PermissionError) and port is not None and port < _FIRST_UNPRIVILEGED_PORT:
        reason += f" (ports below {_FIRST_UNPRIVILEGED_PORT} need root or CAP_NET_BIND_SERVICE)"
    return reason


def open_bind(
    bind: Bind,
    frontend: str,
    number: int,
    terminator: Terminator | None,
    *,
    shared_ports: Collection[int] = (),
) -> Listener:
    created = None
    if isinstance(bind.address, TcpAddress):
        sock = open_tcp(bind, bind.address, reuse_port=bind.address.port in shared_ports)
    elif isinstance(bind.address, UnixAddress):
        sock, created = open_unix(bind, bind.address)
    else:
        sock = adopt_descriptor(descriptor_of(bind.address))
    return make_listener(sock, bind, frontend, number, terminator, created=created)


def make_listener(
    sock: socket.socket,
    bind: Bind,
    frontend: str,
    number: int,
    terminator: Terminator | None,
    *,
    created: SocketFile | None = None,
) -> Listener:
    sock.setblocking(False)
    local = sock.getsockname()
    port = local[1] if isinstance(local, tuple) else None
    name = str(bind.name)
    if isinstance(bind.address, TcpAddress) and bind.address.port == 0 and name == str(bind.address):
        # The default name is the address, and its port is known only now.
        name = join_host_port(local[0], local[1])
    trusted = Networks(source for source in bind.accept_proxy if source != "unix")
    is_one_address = isinstance(local, tuple) and local[0] not in ("0.0.0.0", "::")
    return Listener(
        sock, bind=bind, frontend=frontend, number=number, port=port, terminator=terminator, name=name,
        trusted=trusted, only_address=(local[0], local[1]) if is_one_address else None, created=created,
    )  # fmt: skip
