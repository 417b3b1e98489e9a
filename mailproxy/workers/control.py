"""Control: the process that finds out about servers, tells the workers, hears what signals mean, and says what all of them do.

It serves nobody. If it dies another one takes its place: that hears from the workers what is known of servers before it
looks itself, so that nothing changes by that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Hashable, Mapping, Sequence
from random import SystemRandom
from typing import NamedTuple

import trio
from attrs import frozen

from mailproxy.certificates.watcher import Looks, Renewed, say_kept
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.ipc.channel import Heard, Line, Message, in_packets
from mailproxy.log import Log
from mailproxy.log.events import (
    CONTROL_DIED,
    DRAINING,
    MESSAGE_DROPPED,
    READY,
    SIGNAL_IGNORED,
    STOPPED,
    STOPPING,
    WORKER_DIED,
    Event,
)
from mailproxy.net.listener import Listener
from mailproxy.pool import Change
from mailproxy.proxy.backend.backend import Connectors
from mailproxy.proxy.backend.server import BackendServer, Checked
from mailproxy.proxy.backend.snapshot import Known
from mailproxy.proxy.config_change import log_if_changed
from mailproxy.proxy.frontend import say_listening
from mailproxy.proxy.monitor import Tending, ports_of
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.workers.backend import ControlBackend
from mailproxy.workers.heartbeat import beat
from mailproxy.workers.scoreboard import Shares
from mailproxy.workers.stick_sync import Learned, in_parts, learn, recall, table_of
from mailproxy.workers.worker_handle import Asking, Link, Totals, take_counts

_HELLO_S = 2.0  # for workers that are there to say what they know
_TABLE_S = 5.0  # for one of them to tell the stick tables
_CHANGE_S = 0.2  # for workers to take up a change of a server before its line is written
_TURNS_S = 0.05  # for workers to give places to those who wait, in turns; none of them knows of all
_REOPEN_S = 3.0  # a log that hangs must not keep the others
_LAUNCHER_S = 0.02  # between two looks whether it has taken up what was renewed
_RENEW_S = 10.0  # files may stand on a slow disk
_SERVERS_MAX = 100  # at a time


class _Told(NamedTuple):
    """A change that the workers take up, and what is said then."""

    asking: Asking
    backend: ControlBackend
    change: Change[BackendServer]
    event: Event
    checked: Checked | None
    sessions: int
    waiting: int


@frozen(kw_only=True)
class Listening:
    """Where workers listen: what control says of it, and needs to know for its checks. The sockets are theirs."""

    frontend: str
    number: int
    port: int | None
    name: str
    address: str
    mode: str

    @classmethod
    def of(cls, listener: Listener) -> Listening:
        """As long as it is open."""
        return cls(
            frontend=listener.frontend, number=listener.number, port=listener.port, name=listener.name,
            address=listener.address, mode=listener.bind.mode,
        )  # fmt: skip


class Control:
    """``workers``: how many there are to be; ``running``: how many served already when this one was started."""

    def __init__(
        self,
        config: Config,
        listening: Sequence[Listening],
        connectors: Connectors,
        *,
        looks: Looks | None,
        log: Log,
        shares: Shares,
        launcher: Line,
        ring_launcher: Callable[[], None],
        workers: int,
        running: int,
    ) -> None:
        self._config = config
        self._log = log
        self._shares = shares
        self._launcher = launcher
        self._ring_launcher = ring_launcher
        self._workers = workers
        self._running = running
        self._listening = listening
        chance = SystemRandom()
        self.backends: Mapping[str, ControlBackend] = {
            name: ControlBackend(
                settings, connectors, log, chance, share=shares.backends[name], tell=self._tell,
                say_change=self._change,
            )
            for name, settings in config.backends.items()
        }  # fmt: skip
        self._tending = Tending(
            config, self.backends, connectors, ports=ports_of(listening), looks=looks, log=log, chance=chance,
            pass_on=self._renew_all,
        )  # fmt: skip
        self._totals = Totals(self.backends)
        self._learned = Learned()
        self._links: list[Link] = []
        self._askings: dict[int, Asking] = {}
        self._asked = 0
        self._changes: list[_Told] = []
        self._has_changes = trio.Event()
        self._met = trio.Event()  # set whenever a worker has said hello
        self._table = trio.Event()
        self._is_settled = False
        self._is_stopping = False
        self._is_draining = False
        self._over = trio.Event()

    async def run(self) -> None:
        """Control until the last worker is gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._log.run)
                nursery.start_soon(supervise, self._log, "heartbeat", beat, self._shares.beat)
                nursery.start_soon(self._end_with, nursery.cancel_scope)
                nursery.start_soon(supervise, self._log, "line to the launcher", self._hear_launcher, nursery)
                for backend in self.backends.values():
                    nursery.start_soon(backend.keep_time)
                nursery.start_soon(
                    supervise, self._log, "passing on of stick entries", self._learned.run, self._tell_all
                )
                nursery.start_soon(supervise, self._log, "lines about servers", self._say_changes)
                if self._running:
                    with contained(self._log, "taking over from the workers"):
                        await self._hear_what_is_known()
                    await self._tending.catch_up()
                await nursery.start(self._tending.run)
                self._is_settled = True
                for link in self._links:
                    if link.has_said_hello:
                        nursery.start_soon(supervise, self._log, link.name, self._welcome, link)
        finally:
            if self._is_stopping:
                sessions = self._totals.sessions(self._links)
                self._log.event(STOPPED, "mailproxy has stopped", sessions=sessions)
            await self._log.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own

    async def _end_with(self, scope: trio.CancelScope) -> None:
        await self._over.wait()
        scope.cancel()

    # The launcher

    async def _hear_launcher(self, nursery: trio.Nursery) -> None:
        while (heard := await self._launcher.hear()) is not None:
            with contained(self._log, "line to the launcher"):
                self._take_from_launcher(heard, nursery)
        self._drain()  # it is gone, and nobody would replace a worker any more
        self._look_for_end()

    def _take_from_launcher(self, heard: Heard, nursery: trio.Nursery) -> None:
        match heard.message:
            case {"worker": slot, "pid": pid}:
                link = Link(Line(heard.sockets[0], dropped=self._say_dropped), slot, pid)
                self._links.append(link)
                nursery.start_soon(self._attend, link)
            case {"signal": number}:
                self._obey(number, nursery)
            case {"died": died}:
                self._say_died(died)
            case {"kept": fact}:
                say_kept(self._log, Fault("process.workers", f"the launcher: {fact}"))

    def _obey(self, number: int, nursery: trio.Nursery) -> None:
        if number in (signal.SIGHUP, signal.SIGUSR2):
            nursery.start_soon(self._reopen_all)
            if number == signal.SIGHUP:
                self._tending.renew_certificates()
                nursery.start_soon(log_if_changed, self._config, self._log)
        elif number == signal.SIGUSR1:
            self._log.event(
                SIGNAL_IGNORED, "SIGUSR1 means nothing here: SIGUSR2 reopens the log, SIGTERM stops"
            )
        elif number == signal.SIGTERM and not self._is_draining:
            self._drain()
        else:
            self._is_stopping = True
            self._log.event(
                STOPPING, f"stopping now, {self._shares.process.sessions.total} sessions are closed"
            )
            self._tell_all({"stop": True}, instead="stop")
        self._look_for_end()

    def _drain(self) -> None:
        if self._is_stopping:
            return
        self._is_draining = self._is_stopping = True
        open_sessions, seconds = self._shares.process.sessions.total, self._config.process.drain_timeout
        self._log.event(
            DRAINING,
            f"stopping: no more connections are accepted, open sessions ({open_sessions}) have {seconds:g}s to end",
            sessions=open_sessions,
            seconds=seconds,
        )
        self._tell_all({"drain": seconds}, instead="drain")

    def _look_for_end(self) -> None:
        if self._is_stopping and not self._links:
            self._over.set()

    def _say_died(self, died: Message) -> None:
        pid, why, slot = died["pid"], died["why"], died["slot"]
        if slot is None:
            self._log.event(
                CONTROL_DIED, f"control (process {pid}) {why}: another one took its place", pid=pid, why=why
            )
            return
        sessions, replaced = died["sessions"], "; it is replaced" if died["replaced"] else ""
        self._log.event(
            WORKER_DIED,
            f"worker {slot + 1} (process {pid}) {why}, {sessions} sessions are lost{replaced}",
            slot=slot + 1,
            pid=pid,
            why=why,
            sessions=sessions,
        )

    def _say_dropped(self, fact: str) -> None:
        self._log.event(MESSAGE_DROPPED, fact)

    # Workers

    async def _attend(self, link: Link) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervise, self._log, link.name, link.line.run)
                if self._is_stopping:
                    link.line.say(
                        {"drain": self._config.process.drain_timeout} if self._is_draining else {"stop": True}
                    )
                await supervise(self._log, link.name, self._hear, link, nursery)
                nursery.cancel_scope.cancel()
        finally:
            link.line.close()
            self._links.remove(link)
            self._totals.keep(link)
            for asking in self._askings.values():
                asking.answered(link)
        self._look_for_end()

    async def _hear(self, link: Link, nursery: trio.Nursery) -> None:
        while (heard := await link.line.hear()) is not None:
            link.is_late = False
            with contained(self._log, link.name):
                self._take(heard.message, link, nursery)

    def _take(self, message: Message, link: Link, nursery: trio.Nursery) -> None:
        match message:
            case {"done": number, **more}:
                if (asking := self._askings.get(number)) is not None:
                    asking.answered(link, more.get("requeued", 0))
            case {"learned": name, "entries": entries}:
                learn(self.backends[name], entries)
                self._learned.note(name, entries)
            case {"failed": name, "server": number, "host": host, "why": why}:
                backend = self.backends[name]
                backend.observe(backend.servers[number], host, why)
            case {"counts": _}:
                take_counts(link, message)
            case {"known": servers} if not self._is_settled:
                for name, number, known in servers:
                    self._take_over(self.backends[name], number, Known.read(known))
            case {"recall": name, "entries": entries}:
                recall(self.backends[name], entries)
            case {"told": "table"}:
                self._table.set()
            case {"hello": _, "fresh": fresh}:
                link.has_said_hello, link.is_fresh = True, fresh
                self._met.set()
                if self._is_settled:
                    nursery.start_soon(supervise, self._log, link.name, self._welcome, link)
            case {"ready": _}:
                link.is_ready = True
                self._say_ready()

    def _say_ready(self) -> None:
        """Once, when all workers listen; not again by a control that took this one's place."""
        if self._shares.ready.own or sum(link.is_ready for link in self._links) < self._workers:
            return
        self._shares.ready.own = 1
        for each in self._listening:
            say_listening(self._log, each.frontend, name=each.name, address=each.address, mode=each.mode)
        self._log.event(READY, "mailproxy is ready", workers=self._workers)

    async def _welcome(self, link: Link) -> None:
        """Tell a worker what is known; it accepts then."""
        servers = [(backend, server) for backend in self.backends.values() for server in backend.servers]
        for some in in_parts(servers, _SERVERS_MAX):
            await link.line.room()
            for part in in_packets(_about(*each) for each in some):
                link.line.say({"servers": part})
        if link.is_fresh:
            for backend in self.backends.values():
                for message in table_of(backend):
                    await link.line.send(message)
        await link.line.send({"serve": True})

    # What workers knew before this control was there

    async def _hear_what_is_known(self) -> None:
        with trio.move_on_after(_HELLO_S):
            while sum(link.has_said_hello for link in self._links) < self._running:
                await self._met.wait()
                self._met = trio.Event()
        knowing = [link for link in self._links if link.has_said_hello and not link.is_fresh]
        if knowing and any(backend.pool.stick is not None for backend in self.backends.values()):
            knowing[0].line.say({"tell": "table"})
            with trio.move_on_after(_TABLE_S):
                await self._table.wait()

    def _take_over(self, backend: ControlBackend, number: int, known: Known) -> None:
        server = backend.servers[number]
        backend.adopt(server, known)
        backend.is_news(server)

    # What is told to workers

    def _tell_all(self, message: Message, *, instead: Hashable = None) -> None:
        for link in self._links:
            link.line.say(message, instead=instead)

    def _tell(self, backend: ControlBackend, server: BackendServer) -> None:
        for link in self._links:
            message = {"servers": [_about(backend, server)]}
            link.line.say(message, instead=(backend.name, backend.numbers[server]))

    def _change(
        self, backend: ControlBackend, change: Change[BackendServer], event: Event, checked: Checked | None
    ) -> None:
        # Before workers end the ones and give places to the others.
        sessions, waiting = change.server.sessions, backend.pool.waiting
        asking = self._ask(
            {"servers": [_about(backend, change.server)]},
            instead=(backend.name, backend.numbers[change.server]),
        )
        self._changes.append(_Told(asking, backend, change, event, checked, sessions, waiting))
        self._has_changes.set()

    def _ask(self, message: Message, *, instead: Hashable) -> Asking:
        """Tell all, and have those answer that are known to. ``instead``: as in Line, for those who hear nothing."""
        self._asked += 1
        asked = set()
        for link in self._links:
            said = link.line.say({**message, "number": self._asked})
            if not said:  # it hears nothing any more; if it ever does again, it shall have the last of these
                link.line.say(message, instead=instead)
            elif link.has_said_hello and not link.is_late:
                asked.add(link)
        asking = Asking(asked)
        self._askings[self._asked] = asking
        return asking

    async def _answers(self, asking: Asking, seconds: float) -> None:
        await asking.over(seconds)
        self._askings = {number: each for number, each in self._askings.items() if each is not asking}

    async def _say_changes(self) -> None:
        """One after the other, as they came; with what the workers made of it."""
        while True:
            if not self._changes:
                await self._has_changes.wait()
            self._has_changes = trio.Event()
            while self._changes:  # also those that a failure has left
                told = self._changes.pop(0)
                requeued = 0
                with contained(
                    self._log, "lines about servers"
                ):  # without its figures it is written all the same
                    await self._answers(told.asking, _CHANGE_S)
                    requeued = told.asking.requeued
                    if told.waiting and told.change.server.takes_back:
                        await trio.sleep(_TURNS_S)
                        requeued = max(requeued, told.waiting - told.backend.pool.waiting)
                told.backend.say(
                    told.change, told.event, told.checked, sessions=told.sessions, requeued=requeued
                )

    async def _reopen_all(self) -> None:
        with contained(self._log, "log writer"):
            await self._answers(self._ask({"reopen": True}, instead="reopen"), _REOPEN_S)
        self._log.reopen()

    async def _renew_all(self, renewed: Renewed, anyway: bool) -> None:
        """Have the workers take up what was found, and the launcher, so that workers of later start with it."""
        self._shares.renewals.add(1)
        self._ring_launcher()
        # What does not fit into a message is logged by each worker, too.
        faults = next(in_packets([fault.path, fault.fact] for fault in renewed.faults), [])
        message = {"renew": True, "anyway": anyway, "faults": faults}
        await self._answers(self._ask(message, instead="renew"), _RENEW_S)
        with trio.move_on_after(_RENEW_S):
            while self._shares.renewed.own < self._shares.renewals.own:  # noqa: ASYNC110 - another process sets it
                await trio.sleep(_LAUNCHER_S)


def _about(backend: ControlBackend, server: BackendServer) -> list[object]:
    return [backend.name, backend.numbers[server], Known.of(server, trio.current_time()).message()]
