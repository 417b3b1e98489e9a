"""A frontend at work: accepts on its listeners and owns a task for each session."""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping, Sequence

import trio

from mailproxy import config
from mailproxy.log import Log
from mailproxy.log.events import ACCEPT_PAUSED, ACCEPT_RESUMED, LISTENING, SESSIONS_FULL
from mailproxy.net.listener import Listener, close_all
from mailproxy.net.poller import AnyPoller
from mailproxy.net.relay import Relay
from mailproxy.proxy.backend import Backend
from mailproxy.proxy.clients import Clients
from mailproxy.proxy.limit import SessionLimit, SessionLimits
from mailproxy.proxy.routing import Routes
from mailproxy.proxy.session import Session, Surroundings
from mailproxy.proxy.supervise import contained, supervise

_ACCEPTS_PER_TURN = 32  # connections taken before other tasks have their turn
_REPEAT_S = 60.0
_RECOVERED_S = 2.0  # one that is accepted between two failures is no recovery
_PAUSE_S = 0.1  # out of descriptors: sessions that end give some back

# accept(2) hands on what befell a connection that it took from the queue: the next one may be fine at once. Every other
# error is the machine's (out of descriptors or memory) or the listener's own, and would come back without a pause.
_OF_ONE_CONNECTION = {
    errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
    errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH,
}  # fmt: skip


class Frontend:
    """One frontend."""

    def __init__(
        self,
        settings: config.Frontend,
        listeners: Sequence[Listener],
        *,
        backends: Mapping[str, Backend],
        limits: SessionLimits,
        clients: Clients | None,
        relay: Relay,
        poller: AnyPoller,
        log: Log,
    ) -> None:
        self.name = settings.name
        self.listeners = listeners
        self.log = log
        self._limits = limits
        self._clients = clients
        self._around = Surroundings(
            config=settings,
            backends=backends,
            routes=Routes(settings.routes),
            limits=self._limits,
            clients=clients,
            relay=relay,
            poller=poller,
            log=log,
        )
        self._draining = trio.Event()
        self._sessions_scope = trio.CancelScope()
        self._said_full = -math.inf
        self._paused = False
        self._last_failure = -math.inf

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until ``drain`` or cancelled, then see the sessions through. Closes the listeners."""
        with self._sessions_scope:
            async with trio.open_nursery() as sessions:
                try:
                    async with trio.open_nursery() as accepting:
                        for listener in self.listeners:
                            accepting.start_soon(
                                supervise,
                                self.log,
                                f"accepting on {listener.name}",
                                self._accept,
                                listener,
                                sessions,
                            )
                            say_listening(
                                self.log,
                                self.name,
                                name=listener.name,
                                address=listener.address,
                                mode=listener.bind.mode,
                            )
                        task_status.started()
                        await self._draining.wait()
                        accepting.cancel_scope.cancel()
                finally:
                    close_all(self.listeners)

    def drain(self, deadline: float) -> None:
        """Accept no more; sessions may go on until ``deadline`` (trio's clock), then they are stopped."""
        self._sessions_scope.deadline = deadline
        self._draining.set()

    @property
    def sessions(self) -> int:
        """Sessions that it has now."""
        return self._limits.own.sessions

    @property
    def client_limited(self) -> int:
        """Sessions that ended because their client was over its limits, in this process."""
        return self._clients.refused if self._clients is not None else 0

    async def _accept(self, listener: Listener, sessions: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener.socket)
            for _ in range(_ACCEPTS_PER_TURN):
                while (limit := self._limits.reached) is not None:
                    await self._wait_for_room(limit)
                try:
                    client, peer = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno not in _OF_ONE_CONNECTION:
                        await self._pause(error)
                    break
                if self._paused:
                    self._say_resumed()
                self._limits.enter()
                try:
                    session = Session(self._around, listener, client, peer=peer)
                except BaseException:  # a fault here is one connection's: it does not delay those behind it
                    self._limits.leave()
                    client.close()
                    with contained(self.log, f"accepting on {listener.name}"):
                        raise
                else:
                    sessions.start_soon(session.run, name="session")

    async def _wait_for_room(self, limit: SessionLimit) -> None:
        now = trio.current_time()
        if now > self._said_full + _REPEAT_S:  # a proxy at its bound stays there, one session in for one out
            self._said_full = now
            where = f"frontend {self.name} has " if limit is self._limits.own else ""
            self.log.event(
                SESSIONS_FULL,
                f"{where}{limit.limit} sessions, as many as may be: accepting waits",
                frontend=self.name if where else None,
                limit=limit.limit,
            )
        while limit.is_reached:
            await limit.room()

    async def _pause(self, error: OSError) -> None:
        self._last_failure = trio.current_time()
        if not self._paused:  # said once, not for each connection
            self._paused = True
            self.log.event(
                ACCEPT_PAUSED,
                f"frontend {self.name} cannot accept: {error.strerror}; trying again until it can",
                frontend=self.name,
                reason=error.strerror,
            )
        await trio.sleep(_PAUSE_S)

    def _say_resumed(self) -> None:
        if trio.current_time() > self._last_failure + _RECOVERED_S:
            self._paused = False
            self.log.event(ACCEPT_RESUMED, f"frontend {self.name} accepts again", frontend=self.name)


def say_listening(log: Log, frontend: str, *, name: str, address: str, mode: str) -> None:
    """Tell where a frontend listens."""
    called = "" if name == address else f" ({name})"
    log.event(
        LISTENING,
        f"frontend {frontend} listens on {address}{called}, mode {mode}",
        frontend=frontend,
        bind=name,
        address=address,
        mode=mode,
    )
