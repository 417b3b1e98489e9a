"""Run a scenario with HAProxy and mailproxy, each with its own pool, and compare their logs."""

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
from tests.support.interop.pool_config import SYNC, MemberAddresses
from tests.support.interop.scripted_session import GREETING, HOST, Peer
from tests.support.programs import tcplog
from tests.support.programs.program import TIMEOUT_S, HAProxy, Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.support.interop.pool_config import PoolConfig, PoolServer

PASSED = "reason: Layer4 check passed, check duration: #ms"
REFUSED = 'reason: Layer4 connection problem, info: "Connection refused", check duration: #ms'

MAX_MEMBERS = 3
PORTS = 2 * (2 * MAX_MEMBERS + 3)
EVENT = re.compile(r"(?:Backup )?Server mail/.*|Health check for (?:backup )?server mail/.*|backend mail .*")
FIRST_CHECK = re.compile(r"Health check for (?:backup )?server (\S+) succeeded, .*, status: (\d+)/\2 UP\.")
CHANGE = re.compile(
    r"(?P<server>(?:Backup )?Server \S+) is (?P<state>UP|DOWN)(?P<reason>, reason: .*?check duration: #ms)\.(?P<rest>.*)"
)
SCRIPT_WORDS = (
    ("TCPCHK did not match content '* OK'", "did not match content (string '* OK')"),
    ("TCPCHK got an empty", "got an empty"),
    ('info: " at step', 'info: "at step'),
    ("of tcp-check", "of the script"),
    (', info: "(tcp-check)"', ""),
)
"""HAProxy's words for scripts, which have no name there, and mailproxy's."""


@attrs.frozen
class PoolMember:
    """A member of the pool: one server for sessions, another one for checks."""

    sessions: ControlledServer
    checks: ControlledServer


class PoolHarness:
    """One of the two programs with its pool and clients."""

    def __init__(
        self, proxy: HAProxy | Mailproxy, ports: tuple[int, int], pool: Mapping[str, PoolMember]
    ) -> None:
        self.proxy = proxy
        self.pool = pool
        self._port, self._sync_port = ports
        self._clients: list[Peer] = []
        self._ended = 0
        self._syncs = 0
        self._seen: Counter[tuple[str, str]] = Counter()

    def connect(self, source: str = HOST) -> Peer:
        connection = socket.create_connection((HOST, self._port), TIMEOUT_S, (source, 0))
        self._clients.append(Peer(connection))
        return self._clients[-1]

    def connect_greeted(self, source: str = HOST) -> Peer:
        client = self.connect(source)
        client.receive(GREETING)
        return client

    def connect_and_close(self, source: str = HOST) -> None:
        self.close_and_wait(self.connect_greeted(source))

    def connect_rejected(self, client: Peer | None = None) -> None:
        """Connect a client that is rejected, and wait for its log line."""
        client = client or self.connect()
        client.wait_for_end()
        client.close()
        self.wait_for_ends()

    def connect_queued(self, *sources: str) -> list[Peer]:
        """Connect clients one after the other, each after the program has handled the one before."""
        clients = []
        for source in sources:
            clients.append(self.connect(source))
            self.sync()
        return clients

    def close_and_wait(self, client: Peer) -> None:
        """Close a client and wait for its log line."""
        client.close()
        self.wait_for_ends()

    def receive_greeting(self, client: Peer) -> None:
        """Receive the greeting, close, and wait for the log line."""
        client.receive(GREETING)
        self.close_and_wait(client)

    def wait_for_ends(self, count: int = 1) -> None:
        """Wait for the log lines of this number of further sessions."""
        self._ended += count
        wait_until(lambda: len(self._ends("imap")) >= self._ended, f"{self._ended} lines\n{self.proxy.log!r}")

    def sync(self) -> None:
        """Wait until the program has handled all earlier actions of clients, by a session on another bind."""
        with socket.create_connection((HOST, self._sync_port), TIMEOUT_S) as connection:
            Peer(connection).receive(GREETING)
        self._syncs += 1
        wait_until(lambda: len(self._ends(SYNC)) >= self._syncs, f"a synchronization\n{self.proxy.log!r}")

    def _ends(self, frontend: str) -> list[re.Match[str]]:
        matches = (tcplog.SESSION.fullmatch(line) for line in self.proxy.log.lines())
        return [match for match in matches if match and match["frontend"] == frontend]

    def stop_server(self, name: str) -> None:
        """Refuse the checks of a server and wait until it is down."""
        self.pool[name].checks.refuse()
        self.wait_for(name, "DOWN")

    def start_server(self, name: str) -> None:
        """Accept the checks of a server and wait until it is up."""
        self.pool[name].checks.listen()
        self.wait_for(name, "UP")

    def wait_for(self, name: str, state: str) -> None:
        """Wait for the next log line about this state of the server."""
        self._seen[name, state] += 1
        count, pattern = self._seen[name, state], re.compile(rf"(Backup )?Server mail/{name} is {state}.*")
        wait_until(
            lambda: sum(bool(pattern.fullmatch(line)) for line in self.proxy.log.lines()) >= count,
            f"{name} is {state}\n{self.proxy.log!r}",
        )

    def close_clients(self) -> None:
        for client in self._clients:
            client.connection.close()


@attrs.frozen
class PoolComparison:
    """Runs a scenario with both programs at the same time and compares their log lines.

    Lines of sessions are tcplog's without the date and with `#` in place of times. So are events of the backend.
    With `log_checks`, single checks are included, in HAProxy's form.

    Attributes:
        ports: `PORTS` free ports. Consecutive scenarios may share them.
    """

    folder: Path
    ports: Sequence[int]

    def run(
        self, config: PoolConfig, scenario: Callable[[PoolHarness], object], *, log_checks: bool = False
    ) -> tuple[list[str], list[str]]:
        """Return the compared lines of mailproxy and of HAProxy."""
        half = len(self.ports) // 2
        with ThreadPoolExecutor(2) as threads:
            mailproxy_log = threads.submit(
                self._run_program, Mailproxy, config, scenario, self.ports[:half], log_checks
            )
            haproxy_log = threads.submit(
                self._run_program, HAProxy, config, scenario, self.ports[half:], log_checks
            )
        return _mailproxy_lines(mailproxy_log.result(), config, log_checks=log_checks), _haproxy_lines(
            haproxy_log.result()
        )

    def assert_same(
        self, config: PoolConfig, scenario: Callable[[PoolHarness], object], *, log_checks: bool = False
    ) -> list[str]:
        """Return the lines, which must be the same in both programs."""
        mailproxy_lines, haproxy_lines = self.run(config, scenario, log_checks=log_checks)
        assert mailproxy_lines == haproxy_lines
        return mailproxy_lines

    def _run_program(
        self,
        program: type[HAProxy | Mailproxy],
        config: PoolConfig,
        scenario: Callable[[PoolHarness], object],
        ports: Sequence[int],
        log_checks: bool,
    ) -> list[str]:
        port, sync_port, sync_server_port, *others = ports
        with ExitStack() as stack:
            pool = {
                member.name: _make_member(member, others.pop(), others.pop(), stack)
                for member in config.members
            }
            addresses = {
                member.name: MemberAddresses(
                    member.address or pool[member.name].sessions.address, pool[member.name].checks.address
                )
                for member in config.members
            }
            sync_server = stack.enter_context(ControlledServer(sync_server_port))
            addresses[SYNC] = MemberAddresses(sync_server.address, sync_server.address)
            text = (
                config.for_haproxy((port, sync_port), addresses, log_checks=log_checks)
                if program is HAProxy
                else config.for_mailproxy((port, sync_port), addresses)
            )
            proxy = program(text, self.folder, [(HOST, port), (HOST, sync_port)])
            stack.enter_context(proxy)
            harness = PoolHarness(proxy, (port, sync_port), pool)
            stack.callback(harness.close_clients)
            scenario(harness)
            return proxy.log.lines()


def server(line: str) -> str:
    """Return the server in the line of a session."""
    return line.split(" ")[1].partition("/")[2]


def queues(line: str) -> str:
    """Return the queue positions in the line of a session."""
    return line.rpartition(" ")[2]


def down(name: str, *, active: int, sessions: int, requeued: int = 0) -> str:
    """Return the line of a server that starts to refuse its checks."""
    return (
        f"Server mail/{name} is DOWN, {REFUSED}. {active} active and 0 backup servers left."
        f" {sessions} sessions active, {requeued} requeued, 0 remaining in queue."
    )


def up(name: str, *, active: int, requeued: int = 0) -> str:
    """Return the line of a server that accepts its checks again."""
    return (
        f"Server mail/{name} is UP, {PASSED}. {active} active and 0 backup servers online."
        f" {requeued} sessions requeued, 0 total in queue."
    )


def _make_member(member: PoolServer, sessions: int, checks: int, stack: ExitStack) -> PoolMember:
    pool_member = PoolMember(
        ControlledServer(sessions, *member.behaviours, tls=member.tls), ControlledServer(checks)
    )
    for each in (pool_member.sessions, pool_member.checks):
        stack.enter_context(each)
    if member.refuses:
        pool_member.sessions.refuse()
    if member.is_down:
        pool_member.checks.refuse()
    return pool_member


# The reason why a session was not connected, which HAProxy does not log.
ATTEMPT_FAILED = re.compile(r"Server \S+: a session could not be connected: .*")


def _compared_lines(lines: list[str]) -> Iterator[str]:
    for line in lines:
        end = tcplog.SESSION.fullmatch(line)
        if end and end["frontend"] == "imap":
            yield _without_times(end)
        elif EVENT.fullmatch(line) and not ATTEMPT_FAILED.fullmatch(line):
            yield re.sub(r"duration: \d+ms", "duration: #ms", line)


def _without_times(end: re.Match[str]) -> str:
    times = "/".join("-1" if end[key] == "-1" else "#" for key in ("queue", "connect", "total"))
    return f"{end['client']} {end['backend']}/{end['server']} {times} " + end.string[end.start("bytes") :]


def _haproxy_lines(lines: list[str]) -> list[str]:
    """Return HAProxy's lines in mailproxy's words, without the first check of each server, which it also logs."""
    compared: list[str] = []
    checked_servers: set[str] = set()
    for line in _compared_lines(lines):
        first = FIRST_CHECK.fullmatch(line)
        if first and first[1] not in checked_servers:
            checked_servers.add(first[1])
            continue
        compared.append(reduce(lambda text, words: text.replace(*words), SCRIPT_WORDS, line))
    return compared


def _mailproxy_lines(lines: list[str], config: PoolConfig, *, log_checks: bool) -> list[str]:
    """Return mailproxy's lines. For its single line about a check and a server HAProxy writes two."""
    if not log_checks:
        return [line for line in _compared_lines(lines) if not line.startswith("Health")]
    return [part for line in _compared_lines(lines) for part in _as_two(line, config)]


def _as_two(line: str, config: PoolConfig) -> Iterator[str]:
    change = CHANGE.fullmatch(line)
    if not change:
        yield line
        return
    is_up = change["state"] == "UP"
    verdict = "succeeded" if is_up else "failed"
    progress = f"{config.fall}/{config.fall} UP" if is_up else f"0/{config.rise} DOWN"
    server_words = change["server"][0].lower() + change["server"][1:]
    yield f"Health check for {server_words} {verdict}{change['reason']}, status: {progress}."
    yield f"{change['server']} is {change['state']}.{change['rest']}"
