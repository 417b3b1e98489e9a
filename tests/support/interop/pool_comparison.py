"""A story that HAProxy and mailproxy live through, each with a pool of its own, and what each has to say of it."""

from __future__ import annotations

import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import reduce
from typing import TYPE_CHECKING

import attrs

from tests.support.interop.controlled_server import ControlledServer
from tests.support.interop.pool_config import BELL, Place
from tests.support.interop.scripted_session import GREETING, HOST, Peer
from tests.support.programs import tcplog
from tests.support.programs.program import TIMEOUT_S, HAProxy, Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.support.interop.pool_config import PoolConfig, PoolServer

PASSED = "reason: Layer4 check passed, check duration: #ms"
REFUSED = 'reason: Layer4 connection problem, info: "Connection refused", check duration: #ms'

MOST_MEMBERS = 3
PORTS = 2 * (2 * MOST_MEMBERS + 3)
EVENT = re.compile(r"(?:Backup )?Server mail/.*|Health check for (?:backup )?server mail/.*|backend mail .*")
FIRST_CHECK = re.compile(r"Health check for (?:backup )?server (\S+) succeeded, .*, status: (\d+)/\2 UP\.")
CHANGE = re.compile(
    r"(?P<who>(?:Backup )?Server \S+) is (?P<state>UP|DOWN)(?P<reason>, reason: .*?check duration: #ms)\.(?P<rest>.*)"
)
SCRIPTS_WORDS = (
    ("TCPCHK did not match content '* OK'", "did not match content (string '* OK')"),
    ("TCPCHK got an empty", "got an empty"),
    ('info: " at step', 'info: "at step'),
    ("of tcp-check", "of the script"),
    (', info: "(tcp-check)"', ""),
)
"""HAProxy's and ours: a script has no name there."""


@attrs.frozen
class Actor:
    """A member of the pool: sessions come to one server, checks to the other."""

    sessions: ControlledServer
    checks: ControlledServer


class PoolScenario:
    """One of the two programs, its pool, and the clients."""

    def __init__(self, proxy: HAProxy | Mailproxy, ports: tuple[int, int], pool: Mapping[str, Actor]) -> None:
        self.proxy = proxy
        self.pool = pool
        self._port, self._bells_port = ports
        self._clients: list[Peer] = []
        self._ended = 0
        self._rung = 0
        self._seen: Counter[tuple[str, str]] = Counter()

    def connect(self, source: str = HOST) -> Peer:
        connection = socket.create_connection((HOST, self._port), TIMEOUT_S, (source, 0))
        self._clients.append(Peer(connection))
        return self._clients[-1]

    def greeted(self, source: str = HOST) -> Peer:
        client = self.connect(source)
        client.receive(GREETING)
        return client

    def connect_and_close(self, source: str = HOST) -> None:
        self.go(self.greeted(source))

    def connect_rejected(self, client: Peer | None = None) -> None:
        """To come in vain, and be told of."""
        client = client or self.connect()
        client.wait_for_end()
        client.close()
        self.wait_for_ends()

    def connect_queued(self, *sources: str) -> list[Peer]:
        """One after the other, each when the program has come to the one before."""
        clients = []
        for source in sources:
            clients.append(self.connect(source))
            self.ring()
        return clients

    def go(self, client: Peer) -> None:
        """In order, and be told of."""
        client.close()
        self.wait_for_ends()

    def receive_greeting(self, client: Peer) -> None:
        """To the end: greeted at last, gone, and told of."""
        client.receive(GREETING)
        self.go(client)

    def wait_for_ends(self, count: int = 1) -> None:
        """Of so many more sessions."""
        self._ended += count
        wait_until(lambda: len(self._ends("imap")) >= self._ended, f"{self._ended} lines\n{self.proxy.log!r}")

    def ring(self) -> None:
        """When this returns, the program has come to all that clients did before."""
        with socket.create_connection((HOST, self._bells_port), TIMEOUT_S) as connection:
            Peer(connection).receive(GREETING)
        self._rung += 1
        wait_until(lambda: len(self._ends(BELL)) >= self._rung, f"the bell\n{self.proxy.log!r}")

    def _ends(self, frontend: str) -> list[re.Match[str]]:
        found = (tcplog.SESSION.fullmatch(line) for line in self.proxy.log.lines())
        return [line for line in found if line and line["frontend"] == frontend]

    def stop_server(self, name: str) -> None:
        """Nobody takes its checks any more."""
        self.pool[name].checks.refuse()
        self.wait_for(name, "DOWN")

    def start_server(self, name: str) -> None:
        self.pool[name].checks.listen()
        self.wait_for(name, "UP")

    def wait_for(self, name: str, state: str) -> None:
        """The next time that this server is told to be so."""
        self._seen[name, state] += 1
        count, pattern = self._seen[name, state], re.compile(rf"(Backup )?Server mail/{name} is {state}.*")
        wait_until(
            lambda: sum(bool(pattern.fullmatch(line)) for line in self.proxy.log.lines()) >= count,
            f"{name} is {state}\n{self.proxy.log!r}",
        )

    def leave(self) -> None:
        for client in self._clients:
            client.connection.close()


@attrs.frozen
class PoolComparison:
    """Plays a story with each at the same time: what mailproxy has written, and what HAProxy has.

    Sessions are written as in tcplog, with `#` where there are times and without the date; so are the events of the
    backend. Single checks are told if `told_checks`, in HAProxy's way.
    """

    folder: Path
    ports: Sequence[int]  # nobody else's, PORTS of them: one story after the other may have the same

    def run(
        self, plan: PoolConfig, story: Callable[[PoolScenario], object], *, told_checks: bool = False
    ) -> tuple[list[str], list[str]]:
        half = len(self.ports) // 2
        with ThreadPoolExecutor(2) as both:
            ours = both.submit(self._play, Mailproxy, plan, story, self.ports[:half], told_checks)
            model = both.submit(self._play, HAProxy, plan, story, self.ports[half:], told_checks)
        return _ours(ours.result(), plan, told_checks=told_checks), _models(model.result())

    def assert_same(
        self, plan: PoolConfig, story: Callable[[PoolScenario], object], *, told_checks: bool = False
    ) -> list[str]:
        """What both have written, which must be the same."""
        ours, models = self.run(plan, story, told_checks=told_checks)
        assert ours == models
        return ours

    def _play(
        self,
        program: type[HAProxy | Mailproxy],
        plan: PoolConfig,
        story: Callable[[PoolScenario], object],
        ports: Sequence[int],
        told_checks: bool,
    ) -> list[str]:
        door, bells, bell, *others = ports
        with ExitStack() as stack:
            pool = {member.name: _actor(member, others.pop(), others.pop(), stack) for member in plan.members}
            places = {
                member.name: Place(
                    member.address or pool[member.name].sessions.address, pool[member.name].checks.address
                )
                for member in plan.members
            }
            bells_server = stack.enter_context(ControlledServer(bell))
            places[BELL] = Place(bells_server.address, bells_server.address)
            text = (
                plan.for_haproxy((door, bells), places, tells_checks=told_checks)
                if program is HAProxy
                else plan.for_mailproxy((door, bells), places)
            )
            proxy = program(text, self.folder, [(HOST, door), (HOST, bells)])
            stack.enter_context(proxy)
            scenario = PoolScenario(proxy, (door, bells), pool)
            stack.callback(scenario.leave)
            story(scenario)
            return proxy.log.lines()


def server(line: str) -> str:
    """Of a session."""
    return line.split(" ")[1].partition("/")[2]


def queues(line: str) -> str:
    """The positions in which a session has waited."""
    return line.rpartition(" ")[2]


def down(name: str, *, active: int, sessions: int, requeued: int = 0) -> str:
    """What is told of a server that refuses its checks."""
    return (
        f"Server mail/{name} is DOWN, {REFUSED}. {active} active and 0 backup servers left."
        f" {sessions} sessions active, {requeued} requeued, 0 remaining in queue."
    )


def up(name: str, *, active: int, requeued: int = 0) -> str:
    """What is told when it does so no more."""
    return (
        f"Server mail/{name} is UP, {PASSED}. {active} active and 0 backup servers online."
        f" {requeued} sessions requeued, 0 total in queue."
    )


def _actor(member: PoolServer, sessions: int, checks: int, stack: ExitStack) -> Actor:
    actor = Actor(ControlledServer(sessions, *member.conducts, tls=member.tls), ControlledServer(checks))
    for each in (actor.sessions, actor.checks):
        stack.enter_context(each)
    if member.refuses:
        actor.sessions.refuse()
    if member.is_down:
        actor.checks.refuse()
    return actor


# The reason why a session was not connected, which HAProxy does not log.
ATTEMPT_FAILED = re.compile(r"Server \S+: a session could not be connected: .*")


def _told(lines: list[str]) -> Iterator[str]:
    for line in lines:
        end = tcplog.SESSION.fullmatch(line)
        if end and end["frontend"] == "imap":
            yield _without_times(end)
        elif EVENT.fullmatch(line) and not ATTEMPT_FAILED.fullmatch(line):
            yield re.sub(r"duration: \d+ms", "duration: #ms", line)


def _without_times(end: re.Match[str]) -> str:
    times = "/".join("-1" if end[key] == "-1" else "#" for key in ("queue", "connect", "total"))
    return f"{end['client']} {end['backend']}/{end['server']} {times} " + end.string[end.start("bytes") :]


def _models(lines: list[str]) -> list[str]:
    """HAProxy's, in our words. It tells of each server's first check, too."""
    told: list[str] = []
    known: set[str] = set()
    for line in _told(lines):
        first = FIRST_CHECK.fullmatch(line)
        if first and first[1] not in known:
            known.add(first[1])
            continue
        told.append(reduce(lambda said, words: said.replace(*words), SCRIPTS_WORDS, line))
    return told


def _ours(lines: list[str], plan: PoolConfig, *, told_checks: bool) -> list[str]:
    """Where HAProxy tells of the check and then of the server, mailproxy has one line for both."""
    if not told_checks:
        return [line for line in _told(lines) if not line.startswith("Health")]
    return [part for line in _told(lines) for part in _as_two(line, plan)]


def _as_two(line: str, plan: PoolConfig) -> Iterator[str]:
    change = CHANGE.fullmatch(line)
    if not change:
        yield line
        return
    is_up = change["state"] == "UP"
    verdict = "succeeded" if is_up else "failed"
    progress = f"{plan.fall}/{plan.fall} UP" if is_up else f"0/{plan.rise} DOWN"
    who = change["who"][0].lower() + change["who"][1:]
    yield f"Health check for {who} {verdict}{change['reason']}, status: {progress}."
    yield f"{change['who']} is {change['state']}.{change['rest']}"
