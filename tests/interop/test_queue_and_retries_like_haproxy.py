"""Retries, queues and stickiness: mailproxy and HAProxy log the same lines with the same failures.

Intended differences:

- A server that a session has tried is tried again after a turnaround pause. HAProxy rotates through them at once.
- A reset by a client in the queue or while connecting is a closed client (`CQ`, `CC`). In HAProxy it is `CD`.
- `max_queue` applies to the backend, HAProxy's `maxqueue` to a server.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import Authority
from tests.support.interop.pool_comparison import PORTS, PoolComparison, PoolHarness, down, queues, server
from tests.support.interop.pool_config import PoolConfig, PoolServer
from tests.support.interop.scripted_session import GREETING, HOST, Blackhole
from tests.support.ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.interop.controlled_server import Behaviour

pytestmark = [pytest.mark.peers, pytest.mark.slow]

OTHER, THIRD = "127.0.0.2", "127.0.0.3"  # clients
S1, S2 = PoolServer(name="s1"), PoolServer(name="s2")
REFUSING = PoolServer(name="s1", refuses=True)
NARROW, NARROW2 = PoolServer(name="s1", max_sessions=1), PoolServer(name="s2", max_sessions=1)


@pytest.fixture(scope="module")
def ports() -> list[int]:
    return free_ports(PORTS, [HOST])


@pytest.fixture
def comparison(folder: Path, ports: list[int]) -> PoolComparison:
    return PoolComparison(folder, ports)


def connect_rejected(harness: PoolHarness) -> None:
    harness.connect_rejected()


class TestRetries:
    def test_redispatch_to_second_server_is_immediate(self, comparison: PoolComparison) -> None:
        config = PoolConfig(members=(REFUSING, S2))
        assert comparison.assert_same(config, PoolHarness.connect_and_close) == [
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"
        ]

    def test_redispatch_to_third_server(self, comparison: PoolComparison) -> None:
        config = PoolConfig(
            members=(REFUSING, PoolServer(name="s2", refuses=True), PoolServer(name="s3")),
            balance="leastconn",
        )
        assert comparison.assert_same(config, PoolHarness.connect_and_close) == [
            "127.0.0.1 mail/s3 #/#/# 12 -- 1/1/0/0/+2 0/0"
        ]

    def test_retries_are_limited(self, comparison: PoolComparison) -> None:
        config = PoolConfig(members=(REFUSING, PoolServer(name="s2", refuses=True)))
        assert comparison.assert_same(config, connect_rejected) == [
            "127.0.0.1 mail/s2 #/-1/# 0 SC 1/1/0/0/+3 0/0"
        ]

    def test_retries_without_redispatch_stay_at_the_server(self, comparison: PoolComparison) -> None:
        config = PoolConfig(members=(REFUSING, S2), redispatch=False)
        assert comparison.assert_same(config, connect_rejected) == [
            "127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/3 0/0"
        ]

    def test_session_without_retries_fails(self, comparison: PoolComparison) -> None:
        config = PoolConfig(members=(REFUSING, S2), retries=0)
        assert comparison.assert_same(config, connect_rejected) == [
            "127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/0 0/0"
        ]

    @pytest.mark.parametrize("others", [(), (PoolServer(name="s2", backup=True),)], ids=["none", "a-backup"])
    def test_only_server_is_retried(self, comparison: PoolComparison, others: tuple[PoolServer, ...]) -> None:
        config = PoolConfig(members=(REFUSING, *others))
        assert comparison.assert_same(config, connect_rejected) == [
            "127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/3 0/0"
        ]

    def test_connect_timeout_redispatches(self, comparison: PoolComparison) -> None:
        with Blackhole() as blackhole:
            config = PoolConfig(members=(PoolServer(name="s1", address=blackhole.address), S2))
            assert comparison.assert_same(config, PoolHarness.connect_and_close) == [
                "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"
            ]

    def test_connect_timeout_of_only_server(self, comparison: PoolComparison) -> None:
        with Blackhole() as blackhole:
            config = PoolConfig(members=(PoolServer(name="s1", address=blackhole.address),), redispatch=False)
            assert comparison.assert_same(config, connect_rejected) == [
                "127.0.0.1 mail/s1 #/-1/# 0 sC 1/1/0/0/3 0/0"
            ]

    def test_failed_tls_handshake_redispatches(self, comparison: PoolComparison, folder: Path) -> None:
        authority, context = Authority.new(folder), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.certificate.configure_cert(context)
        config = PoolConfig(
            members=(S1, PoolServer(name="s2", tls=context)), ca=authority.ca, connect_ms=2_000
        )
        assert comparison.assert_same(config, PoolHarness.connect_and_close) == [
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"
        ]

    @pytest.mark.parametrize(("behaviour", "state"), [("close", "--"), ("reset", "SD")])
    def test_connected_session_is_not_redispatched(
        self, comparison: PoolComparison, behaviour: Behaviour, state: str
    ) -> None:
        config = PoolConfig(members=(PoolServer(name="s1", behaviours=(behaviour,)), S2))
        assert comparison.assert_same(config, connect_rejected) == [
            f"127.0.0.1 mail/s1 #/#/# 0 {state} 1/1/0/0/0 0/0"
        ]


class TestClientCloses:
    """Clients that close during the turnaround pause."""

    PLAN = PoolConfig(members=(REFUSING,), connect_ms=1_000, redispatch=False)

    def test_client_closes_during_pause(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            client = harness.connect()
            harness.sync()
            client.close()
            harness.wait_for_ends()

        assert comparison.assert_same(self.PLAN, scenario) == ["127.0.0.1 mail/s1 #/-1/# 0 CC 1/1/0/0/1 0/0"]

    def test_half_closed_client_is_still_connected(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            client = harness.connect()
            client.send(b"a1 LOGOUT\r\n")
            client.half_close()
            harness.sync()
            harness.pool["s1"].sessions.listen()
            client.receive(GREETING)
            client.wait_for_end()
            harness.wait_for_ends()

        assert comparison.assert_same(self.PLAN, scenario) == ["127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/1 0/0"]

    def test_client_resets_during_pause(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            client = harness.connect()
            harness.sync()
            client.reset()
            harness.wait_for_ends()

        mailproxy_lines, haproxy_lines = comparison.run(self.PLAN, scenario)
        assert mailproxy_lines == ["127.0.0.1 mail/s1 #/-1/# 0 CC 1/1/0/0/1 0/0"]
        assert haproxy_lines == ["127.0.0.1 mail/s1 #/-1/# 0 CD 1/1/0/0/1 0/0"]


class TestQueue:
    @pytest.mark.parametrize("members", [(NARROW,), (NARROW, NARROW2)], ids=["one", "two"])
    def test_queue_is_fifo(self, comparison: PoolComparison, members: tuple[PoolServer, ...]) -> None:
        def scenario(harness: PoolHarness) -> None:
            served = [harness.connect_greeted() for _ in members]
            waiting = harness.connect_queued(OTHER, THIRD)
            for client in served:
                harness.close_and_wait(client)
            for client in waiting:
                harness.receive_greeting(client)

        lines = comparison.assert_same(PoolConfig(members=members), scenario)
        assert [queues(line) for line in lines] == ["0/0"] * len(members) + ["0/1", "0/2"]

    def test_logged_sessions_of_server_exclude_waiters(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first, *others = harness.connect_greeted(), *harness.connect_queued(OTHER)
            harness.close_and_wait(first)
            harness.receive_greeting(*others)

        assert comparison.assert_same(PoolConfig(members=(NARROW,)), scenario) == [
            "127.0.0.1 mail/s1 #/#/# 12 -- 2/2/1/0/0 0/0",
            "127.0.0.2 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/1",
        ]

    def test_queue_timeout_matches_haproxy(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first = harness.connect_greeted()
            harness.connect_rejected(harness.connect(OTHER))
            harness.close_and_wait(first)

        assert comparison.assert_same(PoolConfig(members=(NARROW,), queue_ms=300), scenario) == [
            "127.0.0.2 mail/<NOSRV> #/-1/# 0 sQ 2/2/1/0/0 0/1",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_client_closes_in_queue(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first, other = harness.connect_greeted(), *harness.connect_queued(OTHER)
            harness.close_and_wait(other)
            harness.close_and_wait(first)

        assert comparison.assert_same(PoolConfig(members=(NARROW,)), scenario) == [
            "127.0.0.2 mail/<NOSRV> #/-1/# 0 CQ 2/2/1/0/0 0/1",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_client_resets_in_queue(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first, other = harness.connect_greeted(), *harness.connect_queued(OTHER)
            other.reset()
            harness.wait_for_ends()
            harness.close_and_wait(first)

        mailproxy_lines, haproxy_lines = comparison.run(PoolConfig(members=(NARROW,)), scenario)
        assert mailproxy_lines[0] == "127.0.0.2 mail/<NOSRV> #/-1/# 0 CQ 2/2/1/0/0 0/1"
        assert haproxy_lines[0] == "127.0.0.2 mail/<NOSRV> #/-1/# 0 CD 2/2/1/0/0 0/1"

    def test_half_closed_client_stays_in_queue(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first, other = harness.connect_greeted(), harness.connect(OTHER)
            other.send(b"a1 LOGOUT\r\n")
            other.half_close()
            harness.sync()
            harness.close_and_wait(first)
            other.receive(GREETING)
            other.wait_for_end()
            harness.wait_for_ends()

        assert [queues(line) for line in comparison.assert_same(PoolConfig(members=(NARROW,)), scenario)] == [
            "0/0",
            "0/1",
        ]


class TestStickiness:
    def test_clients_return_to_their_server(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            for source in (HOST, OTHER, HOST, HOST, OTHER):
                harness.connect_and_close(source)

        lines = comparison.assert_same(PoolConfig(members=(S1, S2), stick=True), scenario)
        assert [server(line) for line in lines] == ["s1", "s2", "s1", "s1", "s2"]

    def test_sticky_server_is_retried_before_replacement(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            harness.connect_and_close()
            harness.pool["s1"].sessions.refuse()
            harness.connect_and_close()
            harness.pool["s1"].sessions.listen()
            harness.connect_and_close()

        assert comparison.assert_same(PoolConfig(members=(S1, S2), stick=True), scenario) == [
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+3 0/0",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_sticky_server_that_is_down_is_replaced(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            harness.connect_and_close()
            harness.stop_server("s1")
            harness.connect_and_close()
            harness.start_server("s1")
            harness.connect_and_close()

        lines = comparison.assert_same(PoolConfig(members=(S1, S2), stick=True, check="connect"), scenario)
        assert [server(line) for line in lines if line.startswith(HOST)] == ["s1", "s2", "s2"]

    def test_client_waits_for_its_sticky_server(self, comparison: PoolComparison) -> None:
        """The client waits for its server although another one has a free slot."""

        def scenario(harness: PoolHarness) -> None:
            first = harness.connect_greeted()
            waiting = harness.connect_queued(HOST, HOST)
            harness.connect_and_close(OTHER)
            harness.close_and_wait(first)
            for client in waiting:
                harness.receive_greeting(client)

        lines = comparison.assert_same(PoolConfig(members=(NARROW, NARROW2), stick=True), scenario)
        assert [f"{server(line)} {queues(line)}" for line in lines] == [
            "s2 0/0",
            "s1 0/0",
            "s1 1/0",
            "s1 2/0",
        ]

    def test_queue_timeout_at_sticky_server(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first = harness.connect_greeted()
            harness.connect_rejected()
            harness.close_and_wait(first)

        lines = comparison.assert_same(
            PoolConfig(members=(NARROW, NARROW2), stick=True, queue_ms=300), scenario
        )
        assert lines[0] == "127.0.0.1 mail/s1 #/-1/# 0 sQ 2/2/1/1/0 1/0"

    def test_waiter_is_requeued_when_sticky_server_goes_down(self, comparison: PoolComparison) -> None:
        def scenario(harness: PoolHarness) -> None:
            first, waiting = harness.connect_greeted(), *harness.connect_queued(HOST)
            harness.stop_server("s1")
            harness.receive_greeting(waiting)
            harness.close_and_wait(first)

        config = PoolConfig(members=(NARROW, NARROW2), stick=True, check="connect")
        assert comparison.assert_same(config, scenario) == [
            down("s1", active=1, sessions=1, requeued=1),
            "127.0.0.1 mail/s2 #/#/# 12 -- 2/2/1/0/+0 1/0",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]
