"""A frontend: accepts connections on its listeners and owns the task of each session."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum

import trio
from attrs import define, evolve, field

from mailproxy import config
from mailproxy.log import Log, SessionRecord, TimedRecord
from mailproxy.log.events import LISTENING
from mailproxy.metrics.sessions import SessionCounter
from mailproxy.net.listener import Listener, close_all
from mailproxy.net.poller import AnyPoller, Watch
from mailproxy.net.relay import Relay
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.limits import SessionLimits
from mailproxy.proxy.overload import Overload
from mailproxy.proxy.session.context import SessionContext
from mailproxy.proxy.session.negotiation import Greetings
from mailproxy.proxy.session.registry import SessionRegistry
from mailproxy.proxy.session.routing import Routes
from mailproxy.proxy.session.session import Session
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


@define(eq=False)
class _AcceptLoop:
    """The task that accepts at one socket.

    Attributes:
        listener: The listener of the socket. A reload replaces it by one with the same socket.
        is_released: Whether this frontend no longer accepts at the socket.
    """

    listener: Listener
    is_released: bool = False
    _scope: trio.CancelScope = field(factory=trio.CancelScope)

    async def run(self, log: Log, accept: Callable[[_AcceptLoop], Awaitable[None]]) -> None:
        """Accept until released or cancelled."""
        with self._scope:
            await supervise(log, f"accepting on {self.listener.name}", accept, self)

    def release(self) -> None:
        """Stop accepting. The socket stays open."""
        self.is_released = True
        self._scope.cancel()


class Frontend:
    """One frontend.

    Attributes:
        name: Its name in the configuration.
        listeners: Its listeners, in the order of its binds. ``run`` closes them.
        state: Whether it accepts. ``set_state`` changes it.
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
        counter: SessionCounter,
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
            greetings=Greetings(frontend),
            limits=self._limits,
            clients=clients,
            registry=registry,
            relay=relay,
            poller=poller,
            log=log,
            counter=counter,
            record_type=_record_type(frontend, log),
        )
        self._loops: dict[object, _AcceptLoop] = {}  # by socket
        self._accepting: trio.Nursery | None = None
        self._sessions: trio.Nursery | None = None
        self.state = FrontendState.OPEN
        self._draining = trio.Event()
        self._sessions_scope = trio.CancelScope()
        self._overload = Overload(frontend.name, listeners, limits=limits, log=log, counter=counter)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until ``drain`` or cancelled, then wait for the sessions to end.

        It counts as started when all listeners accept.

        Closes:
            The listeners, as soon as it stops accepting.

        Cancellation:
            Stops the sessions, too; each still writes its line.
        """
        with self._sessions_scope:
            async with trio.open_nursery() as self._sessions:
                try:
                    async with trio.open_nursery() as self._accepting:
                        for listener in self.listeners:
                            self._start(listener)
                        task_status.started()
                        await self._draining.wait()
                        self._accepting.cancel_scope.cancel()
                finally:
                    self._accepting = None
                    close_all(self.listeners)

    def _start(self, listener: Listener) -> None:
        # A bind has several sockets if it was taken over from more processes.
        if all(loop.listener.number != listener.number for loop in self._loops.values()):
            log_listening(
                self.log, self.name, name=listener.name, address=listener.address, mode=listener.bind.mode
            )
        self._apply_state(listener)

    def _apply_state(self, listener: Listener) -> None:
        """Accept at a socket, or refuse its connections, whatever its last owner did with it."""
        assert self._accepting is not None  # noqa: S101 - called while it runs
        if self.state is FrontendState.OPEN:
            with contained(self.log, f"accepting on {listener.name}"):
                listener.resume()
            self._loops[listener.socket] = loop = _AcceptLoop(listener)
            self._accepting.start_soon(loop.run, self.log, self._accept)
        else:
            listener.pause()

    # Reload

    def reconfigure(
        self,
        frontend: config.Frontend,
        listeners: Sequence[Listener],
        *,
        backends: Mapping[str, Backend],
        clients: Clients | None,
    ) -> None:
        """Use another configuration for new sessions. Those that are there keep theirs.

        Args:
            frontend: The frontend's table.
            listeners: The listeners of its binds. One with a socket of this frontend goes on without a pause.
                The caller closes those that are in it no longer.
            backends: All backends by name.
            clients: Counts the sessions of each client; None without limits per client.
        """
        known = {listener.socket for listener in self.listeners}
        self._clients, self.listeners = clients, listeners
        self._context = evolve(
            self._context,
            config=frontend,
            backends=backends,
            routes=Routes(frontend.routes, frontend.name),
            greetings=Greetings(frontend),
            clients=clients,
            record_type=_record_type(frontend, self.log),
        )
        self._overload.reconfigure(listeners)
        self.release(self._loops.keys() - {listener.socket for listener in listeners})
        if self._accepting is None:  # it drains, or has not been started
            return
        for listener in listeners:
            if (loop := self._loops.get(listener.socket)) is not None:
                loop.listener = listener
            elif listener.socket in known:
                self._apply_state(listener)
            else:
                self._start(listener)

    def release(self, sockets: Iterable[object]) -> None:
        """Stop accepting at these sockets, as far as they are this frontend's, and leave them open."""
        for each in sockets:
            if (loop := self._loops.pop(each, None)) is not None:
                loop.release()

    def retire(self, deadline: float) -> None:
        """Stop accepting, because the frontend is gone. As ``drain``, but the caller closes the listeners."""
        self.release(tuple(self._loops))
        self.listeners = ()
        self.drain(deadline)

    @property
    def backend_names(self) -> tuple[str, ...]:
        """The backends that new sessions may go to."""
        return self._context.config.backend_names

    def has_socket(self, listener: Listener) -> bool:
        """Whether it has the socket of this listener, perhaps in another configuration."""
        return any(listener.socket is each.socket for each in self.listeners)

    def drain(self, deadline: float) -> None:
        """Stop accepting. Sessions go on until ``deadline`` on trio's clock and are stopped then."""
        self._sessions_scope.deadline = deadline
        self._draining.set()

    def set_state(self, state: FrontendState) -> None:
        """Pause, resume or shut down. Sessions go on.

        While it does not accept, TCP connections are refused. Those over Unix sockets and inherited sockets,
        which may be others' too, wait in the accept queue.
        """
        if state is self.state:
            return
        self.state = state
        self.release(tuple(self._loops))
        if self._accepting is not None:
            for listener in self.listeners:
                self._apply_state(listener)

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

    async def _accept(self, loop: _AcceptLoop) -> None:
        poller = self._context.poller
        watch = poller.add_listener(loop.listener.socket.fileno())
        try:
            await trio.lowlevel.checkpoint()
            while not loop.is_released:  # a reload may have closed the socket in this scheduler step
                if (limit := self._limits.reached_limit) is None:
                    await self._accept_batch(loop.listener, watch)
                elif loop.listener.has_waiting:
                    await self._overload.wait_for_room(limit, loop.listener)
                else:
                    await watch.readable()
        finally:
            poller.unwatch(watch)

    async def _accept_batch(self, listener: Listener, watch: Watch) -> None:
        """Accept some connections, then wait for the next ones or let other tasks have their turn."""
        limits, overload, sessions = self._limits, self._overload, self._sessions
        assert sessions is not None  # noqa: S101 - run has opened it
        is_drained = False
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                is_drained = True
                break
            except OSError as error:
                if error.errno not in _CONNECTION_ERRNOS:
                    await overload.wait_after_failure(error)
                break
            if overload.is_on:
                overload.accepted(listener)
            self._begin_session(listener, sock, peer, sessions)
            del sock  # this task would keep it in memory until the next connection
            if limits.reached_limit is not None:  # a batch must not exceed it
                break
        if overload.is_on:
            overload.after_accepting(listener)
        # The poller reports each change once: only a socket without connections is worth waiting at.
        if is_drained:
            await watch.readable()
        else:
            await trio.lowlevel.checkpoint()

    def _begin_session(
        self, listener: Listener, sock: socket.socket, peer: object, sessions: trio.Nursery
    ) -> None:
        self._limits.add_session()
        try:
            client_info = ClientInfo.accepted(listener, sock, peer)
            session = Session(self._context, client_info)
        except BaseException:
            self._limits.remove_session()
            sock.close()
            # A fault here is one connection's: it does not delay the next ones.
            with contained(self.log, f"accepting on {listener.name}"):
                raise
        else:
            sessions.start_soon(session.run, client_info, name="session")

    def accept_queued(self, listeners: Iterable[Listener]) -> None:
        """Accept what waits at sockets that are closed next, as far as the limits allow it.

        Closing a listening socket resets the connections in its queue.
        """
        if self._sessions is None or self.state is not FrontendState.OPEN:
            return
        for listener in listeners:
            while self._limits.reached_limit is None:
                try:
                    sock, peer = listener.accept()
                except OSError:  # most often BlockingIOError: there is no more
                    break
                self._begin_session(listener, sock, peer, self._sessions)


def _record_type(frontend: config.Frontend, log: Log) -> type[SessionRecord]:
    return TimedRecord if frontend.log_steps or log.wants_phases else SessionRecord


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
