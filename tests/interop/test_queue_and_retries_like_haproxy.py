"""HAProxy beside mailproxy, with the same backend and the same failures: retries, queues and where clients stick.

What differs, and is meant to:

- Servers that a session has been to are tried again only behind a pause; HAProxy goes round them at once.
- A client that resets its connection while it waits or is being connected has left (`CQ`, `CC`); HAProxy: `CD`.
- `max_queue` is the backend's, HAProxy's `maxqueue` a server's.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import Authority
from tests.support.interop.pool_comparison import PORTS, PoolComparison, PoolScenario, down, queues, server
from tests.support.interop.pool_config import PoolConfig, PoolServer
from tests.support.interop.scripted_session import GREETING, HOST, Blackhole
from tests.support.ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.interop.controlled_server import Conduct

pytestmark = [pytest.mark.peers, pytest.mark.slow]

OTHER, THIRD = "127.0.0.2", "127.0.0.3"  # clients
S1, S2 = PoolServer(name="s1"), PoolServer(name="s2")
REFUSING = PoolServer(name="s1", refuses=True)
NARROW, NARROW_TOO = PoolServer(name="s1", max_sessions=1), PoolServer(name="s2", max_sessions=1)


@pytest.fixture(scope="module")
def ports() -> list[int]:
    return free_ports(PORTS, [HOST])


@pytest.fixture
def both(folder: Path, ports: list[int]) -> PoolComparison:
    return PoolComparison(folder, ports)


def turned_away(scenario: PoolScenario) -> None:
    scenario.connect_rejected()


class TestRetries:
    def test_another_one_is_tried_at_once(self, both: PoolComparison) -> None:
        plan = PoolConfig(members=(REFUSING, S2))
        assert both.assert_same(plan, PoolScenario.connect_and_close) == [
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"
        ]

    def test_and_another_one(self, both: PoolComparison) -> None:
        plan = PoolConfig(
            members=(REFUSING, PoolServer(name="s2", refuses=True), PoolServer(name="s3")),
            balance="leastconn",
        )
        assert both.assert_same(plan, PoolScenario.connect_and_close) == [
            "127.0.0.1 mail/s3 #/#/# 12 -- 1/1/0/0/+2 0/0"
        ]

    def test_until_there_are_no_more_retries(self, both: PoolComparison) -> None:
        plan = PoolConfig(members=(REFUSING, PoolServer(name="s2", refuses=True)))
        assert both.assert_same(plan, turned_away) == ["127.0.0.1 mail/s2 #/-1/# 0 SC 1/1/0/0/+3 0/0"]

    def test_without_redispatch_it_is_always_the_same(self, both: PoolComparison) -> None:
        plan = PoolConfig(members=(REFUSING, S2), redispatch=False)
        assert both.assert_same(plan, turned_away) == ["127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/3 0/0"]

    def test_without_retries_it_is_over(self, both: PoolComparison) -> None:
        plan = PoolConfig(members=(REFUSING, S2), retries=0)
        assert both.assert_same(plan, turned_away) == ["127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/0 0/0"]

    @pytest.mark.parametrize("others", [(), (PoolServer(name="s2", backup=True),)], ids=["none", "a-backup"])
    def test_there_is_nobody_else(self, both: PoolComparison, others: tuple[PoolServer, ...]) -> None:
        plan = PoolConfig(members=(REFUSING, *others))
        assert both.assert_same(plan, turned_away) == ["127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/3 0/0"]

    def test_one_does_not_answer(self, both: PoolComparison) -> None:
        with Blackhole() as nowhere:
            plan = PoolConfig(members=(PoolServer(name="s1", address=nowhere.address), S2))
            assert both.assert_same(plan, PoolScenario.connect_and_close) == [
                "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"
            ]

    def test_nobody_answers(self, both: PoolComparison) -> None:
        with Blackhole() as nowhere:
            plan = PoolConfig(members=(PoolServer(name="s1", address=nowhere.address),), redispatch=False)
            assert both.assert_same(plan, turned_away) == ["127.0.0.1 mail/s1 #/-1/# 0 sC 1/1/0/0/3 0/0"]

    def test_one_fails_at_tls(self, both: PoolComparison, folder: Path) -> None:
        authority, context = Authority.new(folder), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.certificate.configure_cert(context)
        plan = PoolConfig(members=(S1, PoolServer(name="s2", tls=context)), ca=authority.ca, connect_ms=2_000)
        assert both.assert_same(plan, PoolScenario.connect_and_close) == [
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"
        ]

    @pytest.mark.parametrize(("conduct", "state"), [("close", "--"), ("reset", "SD")])
    def test_whoever_was_connected_is_not_taken_elsewhere(
        self, both: PoolComparison, conduct: Conduct, state: str
    ) -> None:
        plan = PoolConfig(members=(PoolServer(name="s1", conducts=(conduct,)), S2))
        assert both.assert_same(plan, turned_away) == [f"127.0.0.1 mail/s1 #/#/# 0 {state} 1/1/0/0/0 0/0"]


class TestLeaving:
    """While the next attempt is waited for."""

    PLAN = PoolConfig(members=(REFUSING,), connect_ms=1_000, redispatch=False)

    def test_without_a_word(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            client = scenario.connect()
            scenario.ring()
            client.close()
            scenario.wait_for_ends()

        assert both.assert_same(self.PLAN, story) == ["127.0.0.1 mail/s1 #/-1/# 0 CC 1/1/0/0/1 0/0"]

    def test_who_has_asked_for_something_may_read_on(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            client = scenario.connect()
            client.send(b"a1 LOGOUT\r\n")
            client.half_close()
            scenario.ring()
            scenario.pool["s1"].sessions.listen()
            client.receive(GREETING)
            client.wait_for_end()
            scenario.wait_for_ends()

        assert both.assert_same(self.PLAN, story) == ["127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/1 0/0"]

    def test_with_a_reset(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            client = scenario.connect()
            scenario.ring()
            client.reset()
            scenario.wait_for_ends()

        ours, models = both.run(self.PLAN, story)
        assert ours == ["127.0.0.1 mail/s1 #/-1/# 0 CC 1/1/0/0/1 0/0"]
        assert models == ["127.0.0.1 mail/s1 #/-1/# 0 CD 1/1/0/0/1 0/0"]


class TestQueue:
    @pytest.mark.parametrize("members", [(NARROW,), (NARROW, NARROW_TOO)], ids=["one", "two"])
    def test_first_come_first_served(self, both: PoolComparison, members: tuple[PoolServer, ...]) -> None:
        def story(scenario: PoolScenario) -> None:
            served = [scenario.greeted() for _ in members]
            waiting = scenario.connect_queued(OTHER, THIRD)
            for client in served:
                scenario.go(client)
            for client in waiting:
                scenario.receive_greeting(client)

        lines = both.assert_same(PoolConfig(members=members), story)
        assert [queues(line) for line in lines] == ["0/0"] * len(members) + ["0/1", "0/2"]

    def test_the_sessions_of_the_server_are_the_others(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first, *others = scenario.greeted(), *scenario.connect_queued(OTHER)
            scenario.go(first)
            scenario.receive_greeting(*others)

        assert both.assert_same(PoolConfig(members=(NARROW,)), story) == [
            "127.0.0.1 mail/s1 #/#/# 12 -- 2/2/1/0/0 0/0",
            "127.0.0.2 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/1",
        ]

    def test_in_vain(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first = scenario.greeted()
            scenario.connect_rejected(scenario.connect(OTHER))
            scenario.go(first)

        assert both.assert_same(PoolConfig(members=(NARROW,), queue_ms=300), story) == [
            "127.0.0.2 mail/<NOSRV> #/-1/# 0 sQ 2/2/1/0/0 0/1",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_whoever_leaves_it(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first, other = scenario.greeted(), *scenario.connect_queued(OTHER)
            scenario.go(other)
            scenario.go(first)

        assert both.assert_same(PoolConfig(members=(NARROW,)), story) == [
            "127.0.0.2 mail/<NOSRV> #/-1/# 0 CQ 2/2/1/0/0 0/1",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_whoever_resets_it(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first, other = scenario.greeted(), *scenario.connect_queued(OTHER)
            other.reset()
            scenario.wait_for_ends()
            scenario.go(first)

        ours, models = both.run(PoolConfig(members=(NARROW,)), story)
        assert ours[0] == "127.0.0.2 mail/<NOSRV> #/-1/# 0 CQ 2/2/1/0/0 0/1"
        assert models[0] == "127.0.0.2 mail/<NOSRV> #/-1/# 0 CD 2/2/1/0/0 0/1"

    def test_whoever_has_asked_for_something_may_read_on(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first, other = scenario.greeted(), scenario.connect(OTHER)
            other.send(b"a1 LOGOUT\r\n")
            other.half_close()
            scenario.ring()
            scenario.go(first)
            other.receive(GREETING)
            other.wait_for_end()
            scenario.wait_for_ends()

        assert [queues(line) for line in both.assert_same(PoolConfig(members=(NARROW,)), story)] == [
            "0/0",
            "0/1",
        ]


class TestSticking:
    def test_clients_come_back_to_their_server(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            for source in (HOST, OTHER, HOST, HOST, OTHER):
                scenario.connect_and_close(source)

        lines = both.assert_same(PoolConfig(members=(S1, S2), stick=True), story)
        assert [server(line) for line in lines] == ["s1", "s2", "s1", "s1", "s2"]

    def test_a_server_is_tried_again_before_it_is_left_for_good(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            scenario.connect_and_close()
            scenario.pool["s1"].sessions.refuse()
            scenario.connect_and_close()
            scenario.pool["s1"].sessions.listen()
            scenario.connect_and_close()

        assert both.assert_same(PoolConfig(members=(S1, S2), stick=True), story) == [
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+3 0/0",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_a_server_that_is_down_is_left_for_good(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            scenario.connect_and_close()
            scenario.stop_server("s1")
            scenario.connect_and_close()
            scenario.start_server("s1")
            scenario.connect_and_close()

        lines = both.assert_same(PoolConfig(members=(S1, S2), stick=True, check="connect"), story)
        assert [server(line) for line in lines if line.startswith(HOST)] == ["s1", "s2", "s2"]

    def test_their_server_is_waited_for(self, both: PoolComparison) -> None:
        """Although another one has a place."""

        def story(scenario: PoolScenario) -> None:
            first = scenario.greeted()
            waiting = scenario.connect_queued(HOST, HOST)
            scenario.connect_and_close(OTHER)
            scenario.go(first)
            for client in waiting:
                scenario.receive_greeting(client)

        lines = both.assert_same(PoolConfig(members=(NARROW, NARROW_TOO), stick=True), story)
        assert [f"{server(line)} {queues(line)}" for line in lines] == [
            "s2 0/0",
            "s1 0/0",
            "s1 1/0",
            "s1 2/0",
        ]

    def test_their_server_is_waited_for_in_vain(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first = scenario.greeted()
            scenario.connect_rejected()
            scenario.go(first)

        lines = both.assert_same(PoolConfig(members=(NARROW, NARROW_TOO), stick=True, queue_ms=300), story)
        assert lines[0] == "127.0.0.1 mail/s1 #/-1/# 0 sQ 2/2/1/1/0 1/0"

    def test_their_server_goes_down_while_it_is_waited_for(self, both: PoolComparison) -> None:
        def story(scenario: PoolScenario) -> None:
            first, waiting = scenario.greeted(), *scenario.connect_queued(HOST)
            scenario.stop_server("s1")
            scenario.receive_greeting(waiting)
            scenario.go(first)

        plan = PoolConfig(members=(NARROW, NARROW_TOO), stick=True, check="connect")
        assert both.assert_same(plan, story) == [
            down("s1", active=1, sessions=1, requeued=1),
            "127.0.0.1 mail/s2 #/#/# 12 -- 2/2/1/0/+0 1/0",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]
