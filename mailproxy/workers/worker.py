"""A worker: one of several processes that serve, with control to tell it of servers and the launcher as its parent.

It accepts as soon as control has told it what is known, serves on while there is no control, and drains when the launcher
is gone. What all processes say alike is said by control.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import partial

import trio
from attrs import frozen

from mailproxy import config as settings
from mailproxy.certificates.watcher import Looks, run_look, say_kept, take_up_prepared
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.ipc.channel import Line, Message, in_packets
from mailproxy.ipc.shared_memory import Bells
from mailproxy.log import Log
from mailproxy.log.events import (
    BACKEND_DOWN,
    CHECK_NOT_MADE,
    CONTROL_SILENT,
    DRAINING,
    LISTENING,
    LOG_REOPENED,
    MESSAGE_DROPPED,
    NAME_RESOLVED,
    NAME_UNRESOLVED,
    READY,
    SERVER_CHECK,
    SERVER_DOWN,
    SERVER_STATE,
    SERVER_UP,
    STOPPED,
)
from mailproxy.net.listener import Listener
from mailproxy.pool import Counts
from mailproxy.proxy.backend.backend import Connectors
from mailproxy.proxy.backend.snapshot import Known
from mailproxy.proxy.client_limits import Clients, client_limits
from mailproxy.proxy.limits import SessionLimit, SessionLimits, SharedLimit, WorkerLimits
from mailproxy.proxy.monitor import Tending
from mailproxy.proxy.service import Service
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.workers.backend import WorkerBackend
from mailproxy.workers.heartbeat import beat
from mailproxy.workers.scoreboard import Shares
from mailproxy.workers.stick_sync import Learned, in_parts, learn, recall, table_of
from mailproxy.workers.worker_handle import counts_of

SAID_BY_CONTROL = frozenset({
    LISTENING, READY, DRAINING, STOPPED, LOG_REOPENED, SERVER_UP, SERVER_DOWN, SERVER_STATE, SERVER_CHECK, BACKEND_DOWN,
    CHECK_NOT_MADE, NAME_RESOLVED, NAME_UNRESOLVED,
})  # fmt: skip

_LOOK_S = 0.05  # between two looks whether it is the turn of those who wait here
_COUNT_S = 1.0
_CONTROL_S = 3.0  # for control to send what it knows to a worker that took another one's place
_FIRST_CONTROL_S = 15.0  # at the start it looks up names and makes the first checks before, 8 s at most
_TAKE_UP_AGAIN_S = 1.0  # what this worker alone could not take up; control has nobody look again
_SERVERS_MAX = 100  # at a time


@frozen(kw_only=True)
class Place:
    """Where a worker stands: its slot, what it has on the board, the bells, the line to the launcher, and how many sessions
    its descriptors hold; ``is_late``: others were there before, and files may have changed since they were loaded.
    """

    slot: int
    shares: Shares
    bells: Bells
    launcher: Line
    most_sessions: int
    is_late: bool


class Worker(Service):
    """See Service; what it does not find out itself comes by the line to control."""

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        connectors: Connectors,
        *,
        looks: Looks | None,
        log: Log,
        max_sessions: int,
        place: Place,
    ) -> None:
        self._place = place
        self._own_limit = SessionLimit(place.most_sessions)
        self._learned = Learned()
        self._control: Line | None = None
        self._is_welcome = trio.Event()
        self._told: dict[tuple[str, int], Counts] = {}
        self._is_serving = False
        self._is_informed = False  # by control, of the servers
        self._is_draining = False
        self._renewing = trio.Lock()  # a look is made by one thread at a time
        self._not_taken_up: tuple[Fault, ...] = ()
        self._is_look_due = self._is_look_wanted = False  # until a look has succeeded
        self._shared: dict[str, WorkerBackend] = {}
        super().__init__(config, listeners, connectors, looks=looks, log=log, max_sessions=max_sessions)

    # What is another thing in one of several processes

    def _limit(self, max_sessions: int) -> SessionLimit:
        return SharedLimit(max_sessions, self._place.shares.process)

    def _limits(self, frontend: settings.Frontend) -> SessionLimits:
        own = SharedLimit(frontend.max_sessions, self._place.shares.frontends[frontend.name])
        return WorkerLimits(own, self.limit, self._own_limit)

    def _clients(self, frontend: settings.Frontend) -> Clients | None:
        return client_limits(frontend, self._place.shares.clients.get(frontend.name))

    def _backend(self, backend: settings.Backend, connectors: Connectors) -> WorkerBackend:
        made = WorkerBackend(
            backend, connectors, self.log, self._chance, share=self._place.shares.backends[backend.name],
            ring=self._place.bells.ring, report=self._say, learned=self._learned,
        )  # fmt: skip
        self._shared[backend.name] = made
        return made

    def _tend_servers(self, connectors: Connectors) -> Tending | None:  # noqa: ARG002 - control does
        return None

    async def _start_tending(self, nursery: trio.Nursery) -> None:
        if self._looks is not None:
            if self._place.is_late:
                with contained(self.log, "certificate watcher"):
                    await self._renew(self._looks, anyway=False)
            nursery.start_soon(supervise, self.log, "certificate watcher", self._keep_renewed, self._looks)
        nursery.start_soon(supervise, self.log, "passing on of stick entries", self._learned.run, self._say)
        nursery.start_soon(supervise, self.log, "queue", self._keep_turns)
        nursery.start_soon(supervise, self.log, "counters", self._keep_counts)
        await self._wait_for_control()

    async def _wait_for_control(self) -> None:
        """Serve when control has sent what it knows, or with what the configuration says if control hangs."""
        seconds = _CONTROL_S if self._place.is_late else _FIRST_CONTROL_S
        with trio.move_on_after(seconds):
            await self._is_welcome.wait()
            return
        self.log.event(
            CONTROL_SILENT,
            f"worker {self._place.slot + 1} serves without the state of servers: control has sent none for {seconds:g} s",
            slot=self._place.slot + 1,
            seconds=seconds,
        )
        async with trio.open_nursery() as nursery:
            for backend in self.backends.values():
                nursery.start_soon(backend.resolver.look_up_once)

    async def work(self) -> None:
        """Serve until told to stop, or drained."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, self.log, "heartbeat", beat, self._place.shares.beat)
            nursery.start_soon(supervise, self.log, "line to the launcher", self._hear_launcher, nursery)
            async with trio.open_nursery() as serving:
                await serving.start(self.run)
                self._is_serving = True
                self._say({"ready": True})
            nursery.cancel_scope.cancel()
        self._say_counts()
        if self._control is not None:
            self._control.flush()

    # Lines

    def _say(self, message: Message) -> None:
        """What is said while there is no control is told to the next one by ``_introduce``, or is of no use to it."""
        if self._control is not None:
            self._control.say(message)

    def _say_dropped(self, fact: str) -> None:
        self.log.event(MESSAGE_DROPPED, fact)

    async def _hear_launcher(self, nursery: trio.Nursery) -> None:
        """The launcher hands over the line to control, and a new one when that was replaced; it tells of an end itself when
        control hangs.
        """
        while (heard := await self._place.launcher.hear()) is not None:
            with contained(self.log, "line to the launcher"):
                match heard.message:
                    case {"drain": seconds}:
                        self._drain(seconds)
                    case {"stop": _}:
                        nursery.cancel_scope.cancel()
                for end in heard.sockets:
                    nursery.start_soon(self._attend, Line(end, dropped=self._say_dropped), nursery)
        self._drain(self.config.process.drain_timeout)  # it is gone

    async def _attend(self, line: Line, working: trio.Nursery) -> None:
        self._control = line
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, self.log, "line to control", line.run)
            nursery.start_soon(supervise, self.log, "line to control", self._introduce, line)
            await supervise(self.log, "line to control", self._hear_control, line, working)
            nursery.cancel_scope.cancel()
        if self._control is line:
            self._control = None
        line.close()

    async def _hear_control(self, line: Line, working: trio.Nursery) -> None:
        while (heard := await line.hear()) is not None:
            with contained(self.log, "line to control"):
                self._take(heard.message, line, working)

    async def _introduce(self, line: Line) -> None:
        """Tell a control what is known here; if nothing is, it tells us."""
        if self._is_informed:
            servers = [
                (each.name, number) for each in self._shared.values() for number in range(len(each.servers))
            ]
            for some in in_parts(servers, _SERVERS_MAX):
                await line.room()
                for part in in_packets(self._known(*each) for each in some):
                    line.say({"known": part})
            self._told.clear()
        await line.send({"hello": os.getpid(), "fresh": not self._is_informed})
        if self._is_serving:
            await line.send({"ready": True})

    def _known(self, name: str, number: int) -> list[object]:
        return [name, number, Known.of(self._shared[name].servers[number], trio.current_time()).message()]

    def _take(self, message: Message, line: Line, working: trio.Nursery) -> None:
        match message:
            case {"servers": servers, **more}:
                requeued = sum(self._adopt(*each) for each in servers)
                if (number := more.get("number")) is not None:
                    line.say({"done": number, "requeued": requeued})
            case {"learned": name, "entries": entries}:
                learn(self._shared[name], entries)
            case {"recall": name, "entries": entries}:
                recall(self._shared[name], entries)
            case {"serve": _}:
                self._is_informed = True
                self._is_welcome.set()
            case {"drain": seconds}:
                self._drain(seconds)
            case {"stop": _}:
                working.cancel_scope.cancel()
            case {"reopen": _, **more}:
                working.start_soon(self._reopen, line, more.get("number"))
            case {"renew": _, "anyway": anyway, "faults": faults, **more} if self._looks is not None:
                known = [Fault(*each) for each in faults]
                working.start_soon(self._renew_for, self._looks, line, more.get("number"), anyway, known)
            case {"tell": "table"}:
                working.start_soon(self._tell_table, line)

    def _adopt(self, name: str, number: int, known: Message) -> int:
        backend = self._shared[name]
        return backend.adopt(backend.servers[number], Known.read(known))

    def _drain(self, seconds: float) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._is_welcome.set()  # if nobody has told it anything yet, nobody will
            self.drain(seconds)

    async def _reopen(self, line: Line, number: int | None) -> None:
        with contained(self.log, "log writer"):
            self.log.reopen()
            await self.log.reopened()
        line.say({"done": number})

    async def _renew_for(
        self, looks: Looks, line: Line, number: int | None, anyway: bool, known: Sequence[Fault]
    ) -> None:
        with contained(self.log, "certificate watcher"):
            await self._renew(looks, anyway=anyway, known=known)
        line.say({"done": number})

    async def _renew(self, looks: Looks, *, anyway: bool, known: Sequence[Fault] | None = None) -> None:
        """Take up what has changed on disk; control says what that was, unless it is this worker alone that cannot.

        ``known``: the faults that control has found, None where it has not been asked.
        """
        async with self._renewing:
            self._is_look_due, self._is_look_wanted = True, self._is_look_wanted or anyway
            renewed = await run_look(partial(looks.look, anyway=self._is_look_wanted))
            if renewed is not None:
                found = take_up_prepared(looks, renewed)
                for backend in self.backends.values():
                    backend.renew(renewed.connectors)
                before = self._not_taken_up
                own = [fault for fault in renewed.faults if known is not None and fault not in known]
                self._not_taken_up = (*own, *found.faults[len(renewed.faults) :])
                for fault in self._not_taken_up:
                    if fault not in before:
                        say_kept(self.log, fault)
            self._is_look_due = self._is_look_wanted = False

    async def _keep_renewed(self, looks: Looks) -> None:
        while True:
            await trio.sleep(min(_TAKE_UP_AGAIN_S, self.config.process.certificate_interval))
            if self._not_taken_up or self._is_look_due:
                await self._renew(looks, anyway=False)

    async def _tell_table(self, line: Line) -> None:
        with contained(self.log, "line to control"):
            for backend in self._shared.values():
                for message in table_of(backend):
                    await line.send(message)
        await line.send({"told": "table"})

    # What goes on all the time

    async def _keep_turns(self) -> None:
        """Whoever waits here has a place when it is its turn over all workers; the bell rings when that may be."""
        while True:
            wait = _LOOK_S if any(each.has_waiters for each in self._shared.values()) else None
            with contextlib.nullcontext() if wait is None else trio.move_on_after(wait):
                await self._place.bells.wait(self._place.slot)
            for backend in self._shared.values():
                backend.look()

    async def _keep_counts(self) -> None:
        while True:
            await trio.sleep(_COUNT_S)
            self._say_counts()

    def _say_counts(self) -> None:
        if self._control is not None:
            for message in counts_of(self.backends.values(), self._told):
                self._say(message)
