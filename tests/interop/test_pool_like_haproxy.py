"""Server states: mailproxy and HAProxy log the same lines with the same backend and the same failures.

Intended differences:

- A session that is connecting to a server that goes down is redispatched. HAProxy ends it (`DC`).
- A session stays in the queue while no server is up. HAProxy ends those that wait for one server (`SC`).
- The number `remaining in queue` counts all waiters of the backend. HAProxy counts those of the server.
- A reset during a check is `Layer4 connection problem`. In HAProxy it is mostly `Socket error`.
- If sessions bring a server down (`Health analyze`), the line says why the last one failed to connect. Only sessions
  count. In HAProxy a passed check resets the errors before it.
- A change of state is one line with its reason, also if single checks are not logged. The first check of a server
  that passes is not logged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.pool_comparison import (
    PORTS,
    REFUSED,
    PoolComparison,
    PoolHarness,
    down,
    queues,
    server,
    up,
)
from tests.support.interop.pool_config import PoolConfig, PoolServer
from tests.support.interop.scripted_session import GREETING, HOST, Blackhole
from tests.support.ports import free_ports
from tests.support.programs.program import Mailproxy

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.slow]

OTHER = "127.0.0.2"  # a client
S1, S2 = PoolServer(name="s1"), PoolServer(name="s2")
NARROW = PoolServer(name="s1", max_sessions=1)


@pytest.fixture(scope="module")
def ports() -> list[int]:
    return free_ports(PORTS, [HOST])


@pytest.fixture
def comparison(folder: Path, ports: list[int]) -> PoolComparison:
    return PoolComparison(folder, ports)


class TestStates:
    def test_server_goes_down_and_up(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            harness.stop_server("s1")
            harness.connect_and_close()
            harness.start_server("s1")

        assert comparison.assert_same(PoolConfig(members=(S1, S2), check="connect"), scenario) == [
            down("s1", active=1, sessions=0),
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
            up("s1", active=2),
        ]

    def test_all_servers_go_down_and_up(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            harness.stop_server("s1")
            harness.stop_server("s2")
            harness.connect_rejected()
            harness.start_server("s2")
            harness.connect_and_close()
            harness.start_server("s1")

        lines = comparison.assert_same(PoolConfig(members=(S1, S2), check="connect"), scenario)
        assert [line.partition(",")[0] for line in lines] == [
            "Server mail/s1 is DOWN",
            "Server mail/s2 is DOWN",
            "backend mail has no server available!",
            "127.0.0.1 mail/<NOSRV> -1/-1/# 0 SC 1/1/0/0/0 0/0",
            "Server mail/s2 is UP",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
            "Server mail/s1 is UP",
        ]

    def test_backup_serves_while_other_servers_are_down(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            harness.connect_and_close()
            harness.stop_server("s1")
            harness.connect_and_close()
            harness.stop_server("s2")
            harness.start_server("s2")
            harness.start_server("s1")
            harness.connect_and_close()

        config = PoolConfig(members=(S1, PoolServer(name="s2", backup=True)), check="connect")
        lines = comparison.assert_same(config, scenario)
        assert [server(line) for line in lines if line.startswith(HOST)] == ["s1", "s2", "s1"]
        assert any("Running on backup." in line for line in lines)

    def test_checks_are_logged_step_by_step(self, comparison: PoolComparison) -> None:
        """Each check that brings a server nearer to a change is logged, with all results of a script."""

        def scenario(harness: PoolHarness) -> None:
            harness.pool["s1"].checks.set_behaviour(
                *("greet", "bye", "greet", "bye", "bye", "greet", "bye", "close", "bye"),  # down
                *("greet", "bye", "greet", "greet"),  # up
                *("silent", "silent", "silent", "greet"),  # down, and up in the end
            )
            for state in ("DOWN", "UP", "DOWN", "UP"):
                harness.wait_for("s1", state)

        config = PoolConfig(members=(S1, S2), check="script", check_ms=3_000)
        lines = comparison.assert_same(config, scenario, log_checks=True)
        steps = [match[1] for match in map(re.compile(r".*, status: (.*)\.").fullmatch, lines) if match]
        assert steps == [
            *("2/3 UP", "3/3 UP", "2/3 UP", "1/3 UP", "3/3 UP", "2/3 UP", "1/3 UP", "0/2 DOWN"),
            *("1/2 DOWN", "0/2 DOWN", "1/2 DOWN", "3/3 UP"),
            *("2/3 UP", "1/3 UP", "0/2 DOWN", "1/2 DOWN", "3/3 UP"),
        ]

    def test_first_failed_check_brings_server_down(self, comparison: PoolComparison) -> None:
        """One failure suffices for a new server, which counts as up before its first check."""
        config = PoolConfig(members=(PoolServer(name="s1", is_down=True), S2), check="connect")
        lines = comparison.assert_same(
            config, lambda harness: harness.wait_for("s1", "DOWN"), log_checks=True
        )
        assert lines[0] == f"Health check for server mail/s1 failed, {REFUSED}, status: 0/2 DOWN."

    def test_reset_during_check(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            harness.pool["s1"].checks.set_behaviour("reset")
            harness.wait_for("s1", "DOWN")

        lines = comparison.run(PoolConfig(members=(S1, S2), check="script", check_ms=3_000), scenario)
        (mailproxy_line,), (haproxy_line,) = lines
        assert 'reason: Layer4 connection problem, info: "Connection reset by peer", check' in mailproxy_line
        # HAProxy: at the connection or at the first step of the script
        assert re.search(
            r'reason: (Layer4 .*|Socket error), info: "Connection reset by peer at', haproxy_line
        )

    def test_failed_sessions_bring_server_down(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            harness.connect_rejected()
            harness.wait_for("s1", "DOWN")

        member = PoolServer(name="s1", refuses=True)
        # The interval is long, so that no check passes between the errors.
        config = PoolConfig(
            members=(member,), check="connect", interval_ms=5_000, fall=1, error_limit=2, redispatch=False
        )
        (change, *rest), haproxy_lines = comparison.run(config, scenario)
        assert [re.sub(r" \(127\..*: Connection refused\)", "", change), *rest] == haproxy_lines
        assert 'reason: Health analyze, info: "Detected 2 consecutive errors, last one was' in change


class TestMarkedDown:
    def test_sessions_of_down_server_end_if_configured(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            clients = [harness.connect_greeted() for _ in range(3)]
            harness.stop_server("s1")
            clients[0].wait_for_end()
            clients[2].wait_for_end()
            harness.wait_for_ends(2)
            harness.close_and_wait(clients[1])

        config = PoolConfig(members=(S1, S2), check="connect", shutdown_sessions=True)
        assert comparison.assert_same(config, scenario) == [
            down("s1", active=1, sessions=2),
            "127.0.0.1 mail/s1 #/#/# 12 D- 3/3/2/1/0 0/0",
            "127.0.0.1 mail/s1 #/#/# 12 D- 2/2/1/0/0 0/0",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_sessions_of_down_server_continue_by_default(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            client = harness.connect_greeted()
            harness.stop_server("s1")
            harness.close_and_wait(client)

        lines = comparison.assert_same(PoolConfig(members=(S1, S2), check="connect"), scenario)
        assert lines[1] == "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0"

    def test_connecting_session_is_redispatched(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            client = harness.connect()
            harness.sync()
            harness.stop_server("s1")
            if isinstance(harness.proxy, Mailproxy):
                client.receive(GREETING)
                client.close()
            harness.wait_for_ends()

        with Blackhole() as blackhole:
            members = (PoolServer(name="s1", address=blackhole.address), S2)
            config = PoolConfig(members=members, check="connect", shutdown_sessions=True, connect_ms=8_000)
            mailproxy_lines, haproxy_lines = comparison.run(config, scenario)
        assert mailproxy_lines[1] == "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"
        assert haproxy_lines[1] == "127.0.0.1 mail/s1 #/-1/# 0 DC 1/1/0/0/0 0/0"

    def test_waiter_stays_in_queue_without_any_server(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first, waiting = harness.connect_greeted(), *harness.connect_queued(OTHER)
            harness.stop_server("s1")
            first.wait_for_end()
            harness.wait_for_ends()
            harness.start_server("s1")
            harness.receive_greeting(waiting)

        config = PoolConfig(members=(NARROW,), check="connect", shutdown_sessions=True)
        (mailproxy_line, *rest), (haproxy_line, *others) = comparison.run(config, scenario)
        assert rest == others
        assert rest == [
            "backend mail has no server available!",
            "127.0.0.1 mail/s1 #/#/# 12 D- 2/2/1/0/0 0/0",
            up("s1", active=1, requeued=1),
            "127.0.0.2 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/1",
        ]
        assert haproxy_line == down("s1", active=0, sessions=1)
        assert mailproxy_line == haproxy_line.replace("0 remaining", "1 remaining")

    def test_sticky_waiter_stays_in_queue_without_its_server(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first, waiting = harness.connect_greeted(), *harness.connect_queued(HOST)
            harness.stop_server("s1")
            if isinstance(harness.proxy, Mailproxy):
                harness.start_server("s1")
                harness.close_and_wait(first)
                harness.receive_greeting(waiting)
            else:
                harness.connect_rejected(waiting)

        mailproxy_lines, haproxy_lines = comparison.run(
            PoolConfig(members=(NARROW,), check="connect", stick=True), scenario
        )
        assert haproxy_lines[-1] == "127.0.0.1 mail/<NOSRV> -1/-1/# 0 SC 2/2/1/0/+0 1/0"
        assert queues(mailproxy_lines[-1]) == "1/1"
