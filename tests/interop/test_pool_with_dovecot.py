"""Failures of real Dovecots under load (killed, stopped, restarted): no new client is rejected."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import Authority
from tests.support.interop.cluster_clients import LOGGED_IN_SOURCE, LoggedInClients, LoginLoop
from tests.support.programs import tcplog
from tests.support.programs.dovecot_cluster import ClusterProxy, DovecotCluster, unread_at
from tests.support.programs.program import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.slow]

SESSIONS = 200
TWO, THREE = ("d1", "d2"), ("d1", "d2", "d3")


@pytest.fixture(scope="module")
def running_cluster(descriptors: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DovecotCluster]:
    with DovecotCluster(Authority.new(tmp_path_factory.mktemp("cluster")), *THREE) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: DovecotCluster) -> Iterator[DovecotCluster]:
    """Return the cluster, and restore it after the test."""
    yield running_cluster
    running_cluster.restore()


def states_at(proxy: ClusterProxy, server: str, count: int) -> list[str]:
    """Return the termination states of the long sessions at a server, as soon as there are `count`."""

    def ends() -> list[tcplog.Session]:
        lines = [tcplog.session(line) for line in map(tcplog.SESSION.fullmatch, proxy.log.lines()) if line]
        return [line for line in lines if line.client == LOGGED_IN_SOURCE and line.server == server]

    wait_until(lambda: len(ends()) >= count, f"{count} lines of {server}\n{proxy.log!r}")
    return [line.state for line in ends()]


def test_killed_server_of_two_goes_down_and_up(cluster: DovecotCluster, folder: Path) -> None:
    with (
        ClusterProxy(cluster, TWO, folder) as proxy,
        LoggedInClients(proxy, SESSIONS) as clients,
        LoginLoop(proxy) as login_loop,
    ):
        assert len(clients.at("d1")) == pytest.approx(SESSIONS / 2, abs=4)
        login_loop.wait_for_logins(TWO)
        cluster["d1"].kill()
        killed_at = time.monotonic()
        for client in clients.at("d1"):
            client.wait_for_end()
        # The kernel sends a FIN for a dead process.
        assert set(states_at(proxy, "d1", len(clients.at("d1")))) == {"--"}
        login_loop.wait_for_logins(["d2"], since=killed_at)
        reasons = proxy.wait_for("d1", "DOWN")
        assert set(reasons.values()) == {'Layer4 connection problem, info: "Connection refused"'}
        proxy.wait_for("d1", "DOWN", ["tcp-check"])
        down_at = time.monotonic()
        login_loop.wait_for_logins(["d2"], since=down_at)
        cluster["d1"].start()
        reasons = proxy.wait_for("d1", "UP")
        assert set(reasons.values()) == {"Layer7 check passed, code: 0"}
        login_loop.wait_for_logins(["d1"], since=time.monotonic())  # d1 has the fewest sessions
        assert login_loop.failures(since=killed_at) == []
        assert {attempt.server for attempt in login_loop.since(killed_at)} == {*TWO}
        for client in clients.at("d2"):
            assert client.noop()[0] == "OK"
        assert not proxy.has_logged("d2", "DOWN", "clear")


def test_suspended_server_of_two_goes_down_and_up(cluster: DovecotCluster, folder: Path) -> None:
    with (
        ClusterProxy(cluster, TWO, folder, on_marked_down="shutdown-sessions") as proxy,
        LoggedInClients(proxy, SESSIONS // 4) as clients,
        LoginLoop(proxy) as login_loop,
    ):
        login_loop.wait_for_logins(TWO)
        cluster["d1"].suspend()
        reasons = proxy.wait_for("d1", "DOWN")
        assert reasons == {"clear": 'Layer7 timeout, info: "the greeting"', "secure": "Layer6 timeout"}
        down_at = time.monotonic()
        for client in clients.at("d1"):
            client.wait_for_end()
        assert set(states_at(proxy, "d1", len(clients.at("d1")))) == {"D-"}
        login_loop.wait_for_logins(["d2"], since=down_at)
        cluster["d1"].resume()
        proxy.wait_for("d1", "UP")
        login_loop.wait_for_logins(["d1"], since=time.monotonic())  # d1 has the fewest sessions
        assert login_loop.failures(since=down_at) == []
        for client in clients.at("d2"):
            assert client.noop()[0] == "OK"
        # The kernel accepts its connections all the time.
        assert not proxy.has_logged("d1", "DOWN", "tcp-check")


def test_killed_and_suspended_servers_of_three(cluster: DovecotCluster, folder: Path) -> None:
    with (
        ClusterProxy(cluster, THREE, folder, on_marked_down="shutdown-sessions") as proxy,
        LoginLoop(proxy) as login_loop,
    ):
        login_loop.wait_for_logins(THREE)
        cluster["d1"].kill()
        cluster["d2"].suspend()
        proxy.wait_for("d1", "DOWN")
        proxy.wait_for("d2", "DOWN")
        down_at = time.monotonic()
        login_loop.wait_for_logins(["d3"], since=down_at)
        cluster["d1"].start()
        cluster["d2"].resume()
        proxy.wait_for("d1", "UP")
        proxy.wait_for("d2", "UP")
        login_loop.wait_for_logins(THREE, since=time.monotonic())
        assert login_loop.failures(since=down_at) == []
        assert not proxy.has_logged("d3", "DOWN", "clear")


def test_restart_under_load_rejects_no_client(cluster: DovecotCluster, folder: Path) -> None:
    with ClusterProxy(cluster, TWO, folder) as proxy, LoginLoop(proxy) as login_loop:
        login_loop.wait_for_logins(TWO)
        cluster["d1"].stop()
        stopped_at = time.monotonic()
        cluster["d1"].start()
        login_loop.wait_for_logins(TWO, since=time.monotonic())
        assert login_loop.failures(since=stopped_at) == []


def test_server_killed_with_unread_commands_resets_sessions(cluster: DovecotCluster, folder: Path) -> None:
    """The kernel resets a connection with unread data, which is not an orderly end."""
    with ClusterProxy(cluster, TWO, folder, checks=False) as proxy, LoggedInClients(proxy, 8) as clients:
        clients_at_d1 = clients.at("d1")
        cluster["d1"].suspend()
        for client in clients_at_d1:
            client.send(b"a1 NOOP\r\n")
        wait_until(lambda: unread_at(cluster["d1"]) >= len(clients_at_d1), "the commands have arrived")
        cluster["d1"].kill()
        for client in clients_at_d1:
            client.wait_for_end()
        assert states_at(proxy, "d1", len(clients_at_d1)) == ["SD"] * len(clients_at_d1)
