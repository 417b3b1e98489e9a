"""HAProxy beside mailproxy, with the same backend and the same failures: the same states, told in the same lines.

What differs, and is meant to:

- A session that is still connecting to a server that goes down is taken elsewhere; HAProxy ends it (`DC`).
- A session that waits stays in the line while no server is up; HAProxy ends those that wait for one server (`SC`).
- `remaining in queue` are all who wait in the backend, not only those who wait for this server.
- A connection that is reset while it is checked is `Layer4 connection problem`; HAProxy: `Socket error`, mostly.
- Where sessions bring a server down (`Health analyze`), the line says why the last one could not be connected; and only
  sessions count, while in HAProxy a check that passes makes up for the errors before it.
- A change of state is one line with its reason, whether single checks are told or not; and that a server is as well as
  it was taken to be is none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.pool_comparison import (
    PORTS,
    REFUSED,
    PoolComparison,
    PoolScenario,
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
def both(folder: Path, ports: list[int]) -> PoolComparison:
    return PoolComparison(folder, ports)


class TestStates:
    def test_down_and_up_again(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            scenario.stop_server("s1")
            scenario.connect_and_close()
            scenario.start_server("s1")

        assert both.assert_same(PoolConfig(members=(S1, S2), check="connect"), story) == [
            down("s1", active=1, sessions=0),
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
            up("s1", active=2),
        ]

    def test_all_down_and_up_again(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            scenario.stop_server("s1")
            scenario.stop_server("s2")
            scenario.connect_rejected()
            scenario.start_server("s2")
            scenario.connect_and_close()
            scenario.start_server("s1")

        lines = both.assert_same(PoolConfig(members=(S1, S2), check="connect"), story)
        assert [line.partition(",")[0] for line in lines] == [
            "Server mail/s1 is DOWN",
            "Server mail/s2 is DOWN",
            "backend mail has no server available!",
            "127.0.0.1 mail/<NOSRV> -1/-1/# 0 SC 1/1/0/0/0 0/0",
            "Server mail/s2 is UP",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
            "Server mail/s1 is UP",
        ]

    def test_a_backup_serves_while_nobody_else_can(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            scenario.connect_and_close()
            scenario.stop_server("s1")
            scenario.connect_and_close()
            scenario.stop_server("s2")
            scenario.start_server("s2")
            scenario.start_server("s1")
            scenario.connect_and_close()

        plan = PoolConfig(members=(S1, PoolServer(name="s2", backup=True)), check="connect")
        lines = both.assert_same(plan, story)
        assert [server(line) for line in lines if line.startswith(HOST)] == ["s1", "s2", "s1"]
        assert any("Running on backup." in line for line in lines)

    def test_step_by_step(self, both: PoolComparison) -> None:
        """Every check that brings a server nearer to a change, with all that a script can meet."""

        def story(scenario: PoolScenario) -> None:
            scenario.pool["s1"].checks.set_behaviour(
                *("greet", "bye", "greet", "bye", "bye", "greet", "bye", "close", "bye"),  # down
                *("greet", "bye", "greet", "greet"),  # up
                *("silent", "silent", "silent", "greet"),  # down, and up in the end
            )
            for state in ("DOWN", "UP", "DOWN", "UP"):
                scenario.wait_for("s1", state)

        plan = PoolConfig(members=(S1, S2), check="script")
        lines = both.assert_same(plan, story, told_checks=True)
        steps = [found[1] for found in map(re.compile(r".*, status: (.*)\.").fullmatch, lines) if found]
        assert steps == [
            *("2/3 UP", "3/3 UP", "2/3 UP", "1/3 UP", "3/3 UP", "2/3 UP", "1/3 UP", "0/2 DOWN"),
            *("1/2 DOWN", "0/2 DOWN", "1/2 DOWN", "3/3 UP"),
            *("2/3 UP", "1/3 UP", "0/2 DOWN", "1/2 DOWN", "3/3 UP"),
        ]

    def test_the_first_check_takes_it_down(self, both: PoolComparison) -> None:
        """However many may fail later; but for this, a server counts as up from the beginning."""
        plan = PoolConfig(members=(PoolServer(name="s1", is_down=True), S2), check="connect")
        lines = both.assert_same(plan, lambda scenario: scenario.wait_for("s1", "DOWN"), told_checks=True)
        assert lines[0] == f"Health check for server mail/s1 failed, {REFUSED}, status: 0/2 DOWN."

    def test_a_connection_that_is_reset(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            scenario.pool["s1"].checks.set_behaviour("reset")
            scenario.wait_for("s1", "DOWN")

        (ours,), (models,) = both.run(PoolConfig(members=(S1, S2), check="script"), story)
        assert 'reason: Layer4 connection problem, info: "Connection reset by peer", check' in ours
        # at its connection step, or at the first step of the script
        assert re.search(r'reason: (Layer4 .*|Socket error), info: "Connection reset by peer at', models)

    def test_sessions_that_cannot_be_connected_bring_it_down(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            scenario.connect_rejected()
            scenario.wait_for("s1", "DOWN")

        member = PoolServer(name="s1", refuses=True)
        # no check passes between the errors
        plan = PoolConfig(
            members=(member,), check="connect", interval_ms=5_000, fall=1, error_limit=2, redispatch=False
        )
        (change, *rest), models = both.run(plan, story)
        assert [re.sub(r" \(127\..*: Connection refused\)", "", change), *rest] == models
        assert 'reason: Health analyze, info: "Detected 2 consecutive errors, last one was' in change


class TestMarkedDown:
    def test_sessions_end_if_that_is_wished(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            clients = [scenario.greeted() for _ in range(3)]
            scenario.stop_server("s1")
            clients[0].wait_for_end()
            clients[2].wait_for_end()
            scenario.wait_for_ends(2)
            scenario.go(clients[1])

        plan = PoolConfig(members=(S1, S2), check="connect", shutdown_sessions=True)
        assert both.assert_same(plan, story) == [
            down("s1", active=1, sessions=2),
            "127.0.0.1 mail/s1 #/#/# 12 D- 3/3/2/1/0 0/0",
            "127.0.0.1 mail/s1 #/#/# 12 D- 2/2/1/0/0 0/0",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_else_they_go_on(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            client = scenario.greeted()
            scenario.stop_server("s1")
            scenario.go(client)

        lines = both.assert_same(PoolConfig(members=(S1, S2), check="connect"), story)
        assert lines[1] == "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0"

    def test_who_is_being_connected_is_taken_elsewhere(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            client = scenario.connect()
            scenario.ring()
            scenario.stop_server("s1")
            if isinstance(scenario.proxy, Mailproxy):
                client.receive(GREETING)
                client.close()
            scenario.wait_for_ends()

        with Blackhole() as nowhere:
            members = (PoolServer(name="s1", address=nowhere.address), S2)
            plan = PoolConfig(members=members, check="connect", shutdown_sessions=True, connect_ms=8_000)
            ours, models = both.run(plan, story)
        assert ours[1] == "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"
        assert models[1] == "127.0.0.1 mail/s1 #/-1/# 0 DC 1/1/0/0/0 0/0"

    def test_who_waits_stays_in_the_line(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first, waiting = scenario.greeted(), *scenario.connect_queued(OTHER)
            scenario.stop_server("s1")
            first.wait_for_end()
            scenario.wait_for_ends()
            scenario.start_server("s1")
            scenario.receive_greeting(waiting)

        plan = PoolConfig(members=(NARROW,), check="connect", shutdown_sessions=True)
        (ours, *rest), (models, *others) = both.run(plan, story)
        assert rest == others
        assert rest == [
            "backend mail has no server available!",
            "127.0.0.1 mail/s1 #/#/# 12 D- 2/2/1/0/0 0/0",
            up("s1", active=1, requeued=1),
            "127.0.0.2 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/1",
        ]
        assert models == down("s1", active=0, sessions=1)
        assert ours == models.replace("0 remaining", "1 remaining")

    def test_so_does_who_waits_for_this_server_alone(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first, waiting = scenario.greeted(), *scenario.connect_queued(HOST)
            scenario.stop_server("s1")
            if isinstance(scenario.proxy, Mailproxy):
                scenario.start_server("s1")
                scenario.go(first)
                scenario.receive_greeting(waiting)
            else:
                scenario.connect_rejected(waiting)

        ours, models = both.run(PoolConfig(members=(NARROW,), check="connect", stick=True), story)
        assert models[-1] == "127.0.0.1 mail/<NOSRV> -1/-1/# 0 SC 2/2/1/0/+0 1/0"
        assert queues(ours[-1]) == "1/1"
