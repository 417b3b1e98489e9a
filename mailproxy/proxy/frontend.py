"""A frontend: accepts connections on its listeners and owns the task of each session."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from enum import Enum

import trio

from mailproxy import config
from mailproxy.log import Log
from mailproxy.log.events import LISTENING
from mailproxy.net.listener import Listener, close_all
from mailproxy.net.poller import AnyPoller
from mailproxy.net.relay import Relay
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.limits import SessionLimits
from mailproxy.proxy.overload import Overload
from mailproxy.proxy.session.registry import SessionRegistry
from mailproxy.proxy.session.routing import Routes
from mailproxy.proxy.session.session import Session, SessionContext
from mailproxy.proxy.supervise import contained, supervise

_ACCEPTS_PER_TURN = 32  # connections accepted before other tasks get their turn

# accept(2) also returns pending network errors of the connection that it takes from the queue. These are
# harmless: the next connection may be accepted at once. Any other error is the machine's (out of descriptors
# or memory) or the listener's, and would come back at once, so accepting pauses.
_CONNECTION_ERRNOS = {
    errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
    errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH,
}  # fmt: skip


class FrontendState(Enum):
    """Whether a frontend accepts, in the words of ``show stat``.

    A paused one can be resumed, one that was shut down cannot. Both leave their sessions alone.
    """

    OPEN = "OPEN"
    PAUSED = "PAUSED"
    STOPPED = "STOP"


class Frontend:
    """One frontend.

    Attributes:
        name: Its name in the configuration.
        listeners: Its listeners, in the order of its binds. ``run`` closes them.
        state: Whether it accepts. ``set_state`` changes it.
        traffic: What its sessions have come to.
    """

    def __init__(
        self,
        frontend: config.Frontend,
        listeners: Sequence[Listener],
        *,
        backends: Mapping[str, Backend],
        limits: SessionLimits,
        clients: Clients | None,
        registry: SessionRegistry,
        relay: Relay,
        poller: AnyPoller,
        log: Log,
    ) -> None:
        self.name = frontend.name
        self.listeners = listeners
        self.log = log
        self._limits = limits
        self._clients = clients
        self._context = SessionContext(
            config=frontend,
            backends=backends,
            routes=Routes(frontend.routes, frontend.name),
            limits=self._limits,
            clients=clients,
            registry=registry,
            relay=relay,
            poller=poller,
            log=log,
        )
        self.state = FrontendState.OPEN
        self.traffic = self._context.traffic
        self._draining = trio.Event()
        self._state_changed = trio.Event()
        self._is_running = False
        self._sessions_scope = trio.CancelScope()
        self._overload = Overload(frontend.name, listeners, limits=limits, log=log)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until ``drain`` or cancelled, then wait for the sessions to end.

        It counts as started when all listeners accept.

        Closes:
            The listeners, as soon as it stops accepting.

        Cancellation:
            Stops the sessions, too; each still writes its line.
        """
        with self._sessions_scope:
            async with trio.open_nursery() as sessions:
                try:
                    for listener in self.listeners:
                        log_listening(
                            self.log,
                            self.name,
                            name=listener.name,
                            address=listener.address,
                            mode=listener.bind.mode,
                        )
                    self._is_running = True
                    # An earlier worker may have paused these sockets, or left them open.
                    if self.state is FrontendState.OPEN:
                        self._listen_again()
                    else:
                        self._stop_listening()
                    task_status.started()
                    while not self._draining.is_set():
                        await self._accept_until_changed(sessions)
                finally:
                    self._is_running = False
                    close_all(self.listeners)

    def drain(self, deadline: float) -> None:
        """Stop accepting. Sessions go on until ``deadline`` on trio's clock and are stopped then."""
        self._sessions_scope.deadline = deadline
        self._draining.set()
        self._state_changed.set()

    def set_state(self, state: FrontendState) -> None:
        """Pause, resume or shut down. Sessions go on.

        While it does not accept, TCP connections are refused. Those over Unix sockets and inherited sockets,
        which may be others' too, wait in the accept queue.
        """
        if state is self.state:
            return
        before, self.state = self.state, state
        if self._is_running and state is FrontendState.OPEN:
            self._listen_again()
        elif self._is_running and before is FrontendState.OPEN:
            self._stop_listening()
        self._state_changed.set()

    def _stop_listening(self) -> None:
        for listener in self.listeners:
            listener.pause()

    def _listen_again(self) -> None:
        for listener in self.listeners:
            with contained(self.log, f"accepting on {listener.name}"):
                listener.resume()

    def set_limit(self, sessions: int) -> None:
        """Set the limit on sessions, 0 for none. Connections that wait for room notice it."""
        self._limits.frontend.limit = sessions
        self._limits.frontend.notify()

    @property
    def limit(self) -> int:
        """The limit on sessions, 0 for none."""
        return self._limits.frontend.limit

    @property
    def sessions(self) -> int:
        """The current number of sessions."""
        return self._limits.frontend.sessions

    @property
    def client_limited(self) -> int:
        """The number of sessions that this process has ended because their client was over its limits."""
        return self._clients.rejected if self._clients is not None else 0

    async def _accept_until_changed(self, sessions: trio.Nursery) -> None:
        """Accept on all listeners, if the frontend is open, until it drains or its state changes."""
        async with trio.open_nursery() as accepting:
            if self.state is FrontendState.OPEN:
                for listener in self.listeners:
                    helper = f"accepting on {listener.name}"
                    accepting.start_soon(supervise, self.log, helper, self._accept, listener, sessions)
            await self._state_changed.wait()
            accepting.cancel_scope.cancel()
        if not self._draining.is_set():
            self._state_changed = trio.Event()

    async def _accept(self, listener: Listener, sessions: trio.Nursery) -> None:
        limits, overload = self._limits, self._overload
        while True:
            await trio.lowlevel.wait_readable(listener.socket)
            while (limit := limits.reached_limit) is not None:
                await overload.wait_for_room(limit, listener)
            for _ in range(_ACCEPTS_PER_TURN):
                try:
                    sock, peer = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if self.state is not FrontendState.OPEN:  # the socket does not listen any longer
                        return
                    if error.errno not in _CONNECTION_ERRNOS:
                        await overload.wait_after_failure(error)
                    break
                if overload.is_on:
                    overload.accepted(listener)
                limits.add_session()
                try:
                    client_info = ClientInfo.accepted(listener, sock, peer)
                    session = Session(self._context, client_info)
                except BaseException:
                    limits.remove_session()
                    sock.close()
                    # A fault here is one connection's: it does not delay the next ones.
                    with contained(self.log, f"accepting on {listener.name}"):
                        raise
                else:
                    sessions.start_soon(session.run, client_info, name="session")
                    # This task would keep them in memory until the next connection.
                    del session, client_info, sock
                if limits.reached_limit is not None:  # a batch must not exceed it
                    break
            if overload.is_on:
                overload.after_accepting(listener)


def log_listening(log: Log, frontend: str, *, name: str, address: str, mode: str) -> None:
    """Write the event that a frontend listens on an address; ``name`` is the bind's."""
    label = "" if name == address else f" ({name})"
    log.event(
        LISTENING,
        f"frontend {frontend} listens on {address}{label}, mode {mode}",
        frontend=frontend,
        bind=name,
        address=address,
        mode=mode,
    )
