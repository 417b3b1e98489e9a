"""Real Dovecots are killed, stopped and started again under load, and nobody who comes then is turned away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import Authority
from tests.support.interop.client_crowd import STAY_FROM, LoginLoop, StayingClients
from tests.support.programs import tcplog
from tests.support.programs.dovecot_cluster import DovecotCluster, ProxyInFront, unread_at
from tests.support.programs.program import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.slow]

SESSIONS = 200
TWO, THREE = ("d1", "d2"), ("d1", "d2", "d3")


@pytest.fixture(scope="module")
def running_farm(descriptors: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DovecotCluster]:
    with DovecotCluster(Authority.new(tmp_path_factory.mktemp("cluster")), *THREE) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_farm: DovecotCluster) -> Iterator[DovecotCluster]:
    """All of it runs, whatever the last test has done to it."""
    yield running_farm
    running_farm.restore()


def ends_at(front: ProxyInFront, server: str, count: int) -> list[str]:
    """The states in which so many sessions of those who stayed there have ended."""

    def ends() -> list[tcplog.Session]:
        lines = [tcplog.session(line) for line in map(tcplog.SESSION.fullmatch, front.log.lines()) if line]
        return [line for line in lines if line.client == STAY_FROM and line.server == server]

    wait_until(lambda: len(ends()) >= count, f"{count} lines of {server}\n{front.log!r}")
    return [line.state for line in ends()]


def test_one_of_two_is_killed_and_comes_back(cluster: DovecotCluster, folder: Path) -> None:
    with (
        ProxyInFront(cluster, TWO, folder) as front,
        StayingClients(front, SESSIONS) as crowd,
        LoginLoop(front) as newcomers,
    ):
        assert len(crowd.at("d1")) == pytest.approx(SESSIONS / 2, abs=4)
        newcomers.wait_for_logins(TWO)
        cluster["d1"].kill()
        killed = time.monotonic()
        for guest in crowd.at("d1"):
            guest.wait_for_end()
        assert set(ends_at(front, "d1", len(crowd.at("d1")))) == {"--"}  # a dead process's kernel sends a FIN
        newcomers.wait_for_logins(["d2"], since=killed)
        reasons = front.wait_for("d1", "DOWN")
        assert set(reasons.values()) == {'Layer4 connection problem, info: "Connection refused"'}
        front.wait_for("d1", "DOWN", ["knocked"])
        down = time.monotonic()
        newcomers.wait_for_logins(["d2"], since=down)
        cluster["d1"].start()
        reasons = front.wait_for("d1", "UP")
        assert set(reasons.values()) == {"Layer7 check passed, code: 0"}
        newcomers.wait_for_logins(["d1"], since=time.monotonic())  # has the fewest sessions
        assert newcomers.failures(since=killed) == []
        assert {visit.server for visit in newcomers.since(killed)} == {*TWO}
        for guest in crowd.at("d2"):
            assert guest.noop()[0] == "OK"
        assert not front.has_logged("d2", "DOWN", "clear")


def test_one_of_two_stops_speaking(cluster: DovecotCluster, folder: Path) -> None:
    with (
        ProxyInFront(cluster, TWO, folder, on_marked_down="shutdown-sessions") as front,
        StayingClients(front, SESSIONS // 4) as crowd,
        LoginLoop(front) as newcomers,
    ):
        newcomers.wait_for_logins(TWO)
        cluster["d1"].suspend()
        reasons = front.wait_for("d1", "DOWN")
        assert reasons == {"clear": 'Layer7 timeout, info: "the greeting"', "secure": "Layer6 timeout"}
        down = time.monotonic()
        for guest in crowd.at("d1"):
            guest.wait_for_end()
        assert set(ends_at(front, "d1", len(crowd.at("d1")))) == {"D-"}
        newcomers.wait_for_logins(["d2"], since=down)
        cluster["d1"].resume()
        front.wait_for("d1", "UP")
        newcomers.wait_for_logins(["d1"], since=time.monotonic())  # has the fewest sessions
        assert newcomers.failures(since=down) == []
        for guest in crowd.at("d2"):
            assert guest.noop()[0] == "OK"
        assert not front.has_logged("d1", "DOWN", "knocked")  # for it takes connections all the time


def test_of_three_one_is_killed_and_one_stops_speaking(cluster: DovecotCluster, folder: Path) -> None:
    with (
        ProxyInFront(cluster, THREE, folder, on_marked_down="shutdown-sessions") as front,
        LoginLoop(front) as newcomers,
    ):
        newcomers.wait_for_logins(THREE)
        cluster["d1"].kill()
        cluster["d2"].suspend()
        front.wait_for("d1", "DOWN")
        front.wait_for("d2", "DOWN")
        down = time.monotonic()
        newcomers.wait_for_logins(["d3"], since=down)
        cluster["d1"].start()
        cluster["d2"].resume()
        front.wait_for("d1", "UP")
        front.wait_for("d2", "UP")
        newcomers.wait_for_logins(THREE, since=time.monotonic())
        assert newcomers.failures(since=down) == []
        assert not front.has_logged("d3", "DOWN", "clear")


def test_one_is_restarted_under_load(cluster: DovecotCluster, folder: Path) -> None:
    with ProxyInFront(cluster, TWO, folder) as front, LoginLoop(front) as newcomers:
        newcomers.wait_for_logins(TWO)
        cluster["d1"].stop()
        stopped = time.monotonic()
        cluster["d1"].start()
        newcomers.wait_for_logins(TWO, since=time.monotonic())
        assert newcomers.failures(since=stopped) == []


def test_the_server_of_a_session_dies_with_unread_commands(cluster: DovecotCluster, folder: Path) -> None:
    """Its kernel resets the connection then, and that is not an orderly end."""
    with ProxyInFront(cluster, TWO, folder, checks=False) as front, StayingClients(front, 8) as crowd:
        there = crowd.at("d1")
        cluster["d1"].suspend()
        for guest in there:
            guest.send(b"a1 NOOP\r\n")
        wait_until(lambda: unread_at(cluster["d1"]) >= len(there), "the commands have come")
        cluster["d1"].kill()
        for guest in there:
            guest.wait_for_end()
        assert ends_at(front, "d1", len(there)) == ["SD"] * len(there)
