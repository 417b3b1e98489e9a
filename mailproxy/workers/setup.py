"""What the supervisor has opened and loaded. All children are forked with it, and a reload replaces it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import field, frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Config
from mailproxy.ipc.board import SharedBoard
from mailproxy.ipc.wakeups import Wakeups
from mailproxy.log import Log, Output
from mailproxy.net.listener import Listener, Slots
from mailproxy.net.passing.sockets import PassedSocket
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.proxy.state import ProxyState
from mailproxy.workers.control.control import Control
from mailproxy.workers.reload.document import ListenerInfo
from mailproxy.workers.scoreboard import Scoreboard


class ControlHelper(Protocol):
    """What runs beside the control process, such as the admin sockets."""

    async def run(self, control: Control) -> None:
        """Run until cancelled, or until there is nothing to do."""

    def close_copies(self) -> None:
        """Close, in a worker, the descriptors that are the control process's."""

    def sockets(self) -> Sequence[PassedSocket]:
        """Return its listening sockets."""

    def leave(self) -> None:
        """Close its listening sockets, and leave their files to another process."""


class Start(Protocol):
    """What the process before has left, and what is done when this one is ready."""

    @property
    def state(self) -> ProxyState | None:
        """The state of the process before; None without one."""

    def log_events(self, log: Log) -> None:
        """Log where sockets come from."""

    def close_copies(self) -> None:
        """Close, in a child, what is not the child's."""

    def complete(self) -> str | None:
        """Have the process before stop accepting, and notify the service manager. Blocks for 2 s at most.

        Returns:
            None, or why the process before may still accept.
        """

    def on_reloaded(self, slots: Slots) -> None:
        """Note that a reload has changed the listeners."""

    def before_stop(self) -> None:
        """Leave the files of Unix sockets to the next process, if the service manager keeps the sockets for it."""


@frozen(eq=False)
class Setup:
    """What the supervisor has opened and loaded. All children are forked with it.

    Attributes:
        config: The configuration.
        reloader: Has the TLS files as they are in use; None if the configuration names none.
        server_contexts: TLS towards servers, as it was loaded at the start.
        supervisor_pidfd: A descriptor of the supervisor's process, which never means another one
            (pidfd_open(2)).
        slots: The listeners of each worker. After a reload with fewer workers, also those of workers that are
            gone: connections may wait there.
        adopted: The slots without a worker at whose sockets each worker accepts beside its own.
        listener_infos: Where the workers listen.
        outputs: The open log targets.
        scoreboard: The shared counters.
        boards: Where each worker counts, by slot, then where the control process does.
        wakeups: Where workers wake each other.
        helper: What runs beside the control process; None for nothing.
        start: What the process before has left; None for nothing.
        generation: The number of the configuration, which each reload increases by one.
    """

    config: Config
    reloader: CertificateReloader | None
    server_contexts: ServerContexts
    supervisor_pidfd: int
    slots: Slots
    listener_infos: Sequence[ListenerInfo]
    outputs: Sequence[Output]
    scoreboard: Scoreboard
    boards: Sequence[SharedBoard]
    wakeups: Wakeups
    helper: ControlHelper | None = None
    start: Start | None = None
    generation: int = 1
    adopted: Mapping[int, Sequence[int]] = field(factory=dict)

    @property
    def current_server_contexts(self) -> ServerContexts:
        """TLS towards servers, as its files are in use now."""
        return self.server_contexts if self.reloader is None else self.reloader.store.server_contexts

    def listeners_of(self, slot: int) -> list[Listener]:
        """Return the listeners at which the worker of a slot accepts."""
        adopted = (each for other in self.adopted.get(slot, ()) for each in self.slots[other])
        own = [*self.slots[slot], *(each for each in adopted if each.is_of_slot)]
        return list({each.socket: each for each in own}.values())
