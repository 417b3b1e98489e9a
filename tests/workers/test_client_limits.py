"""Limits per client with two workers: counted together, and updated when a worker dies or starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.program import TIMEOUT_S
from tests.support.worker_group import (
    Client,
    GreetingServer,
    WorkerGroup,
    configuration,
    greeting_servers,
    wait_until,
)

pytestmark = pytest.mark.slow

CLIENT, OTHER = "192.0.2.1", "2001:db8::1"
LIMIT, CROWD = 10, 60


def limited_configuration(*servers: GreetingServer, keys: str) -> str:
    """Return a configuration in which clients send a PROXY header.

    So a test can choose the worker of a client before the client counts.
    """
    text = configuration(*servers, more='[log]\nformat = "json"')
    bind = 'bind = [{ address = "127.0.0.1:0", accept_proxy = ["127.0.0.0/8"] }, { address = "127.0.0.1:0" }]'
    return text.replace('bind = [{ address = "127.0.0.1:0" }]', f"{bind}\n{keys}")


def connect(group: WorkerGroup, worker: int, client: str = CLIENT) -> Client:
    connection = group.connect_to_worker(worker)
    family, destination = ("TCP6", "2001:db8::2") if ":" in client else ("TCP4", "192.0.2.2")
    connection.sock.sendall(f"PROXY {family} {client} {destination} 40000 993\r\n".encode())
    return connection


def connect_served(group: WorkerGroup, worker: int, client: str = CLIENT) -> Client:
    connection = connect(group, worker, client)
    assert connection.greeting == "s1"
    return connection


def assert_rejected(group: WorkerGroup, worker: int, client: str = CLIENT) -> None:
    assert connect(group, worker, client).is_closed()


def close_and_wait(group: WorkerGroup, connection: Client) -> None:
    """Close the connection and wait until the proxy has logged its end."""
    before = len(group.lines("client-closed"))
    connection.close()
    wait_until(lambda: len(group.lines("client-closed")) > before)


def test_sessions_are_counted_over_both_workers(tmp_path: Path) -> None:
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(limited_configuration(*servers, keys="max_sessions_per_client = 3"), tmp_path) as group,
    ):
        connections = [connect_served(group, worker) for worker in (0, 1, 0)]
        for worker in (0, 1):
            assert_rejected(group, worker)
            assert connect_served(group, worker, OTHER).echoes()
        group.wait_for(f'"detail": ?"{CLIENT} has 3 sessions, max_sessions_per_client is 3"')
        close_and_wait(group, connections.pop(1))
        connections.append(connect_served(group, 0))
        assert_rejected(group, 1)
        close_and_wait(group, connections.pop(0))
        connections.append(connect_served(group, 1))
        assert_rejected(group, 0)
        assert all(connection.echoes() for connection in connections)
        wait_until(lambda: len(group.lines("client-limit")) >= 4)
        assert len(group.lines("client-limit")) == 4


def test_sessions_of_dead_worker_do_not_count(tmp_path: Path) -> None:
    """Only its own sessions stop counting. Its successor knows those of the other worker."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(limited_configuration(*servers, keys="max_sessions_per_client = 2"), tmp_path) as group,
    ):
        lost, other = connect_served(group, 0), connect_served(group, 1)
        assert_rejected(group, 1)
        group.kill_and_wait("worker 1")
        assert lost.is_closed()
        later = connect_served(group, 0)
        for worker in (0, 1):
            assert_rejected(group, worker)
        group.kill_and_wait("worker 2")
        assert other.is_closed()
        assert connect_served(group, 1).echoes()
        assert later.echoes()
        for worker in (0, 1):
            assert_rejected(group, worker)


def test_rate_is_counted_over_both_workers(tmp_path: Path) -> None:
    keys = 'max_session_rate_per_client = { count = 4, per = "1d" }'
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(limited_configuration(*servers, keys=keys), tmp_path) as group,
    ):
        for worker in (0, 1, 1, 0):
            connect_served(group, worker).close()
        for worker in (1, 0):
            assert_rejected(group, worker)
            connect_served(group, worker, OTHER).close()
        group.wait_for(
            f'"detail": ?"{CLIENT} made 5 connections in 1d, max_session_rate_per_client is 4 in 1d"'
        )


def test_rates_of_dead_worker_do_not_count(tmp_path: Path) -> None:
    keys = 'max_session_rate_per_client = { count = 2, per = "1d" }'
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(limited_configuration(*servers, keys=keys), tmp_path) as group,
    ):
        connect_served(group, 0)
        connect_served(group, 1)
        group.kill_and_wait("worker 1")
        connect_served(group, 1)
        assert_rejected(group, 0)


def test_crowd_from_one_address_is_limited(tmp_path: Path) -> None:
    """All connect at once, each to the worker that the kernel chooses.

    Both workers may count at the same moment, so one session above the limit is possible.
    """
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(
            limited_configuration(*servers, keys=f"max_sessions_per_client = {LIMIT}"), tmp_path
        ) as group,
    ):
        crowd = [group.connect(bind=1) for _ in range(CROWD)]
        wait_until(lambda: len(group.lines("client-limit")) >= CROWD - LIMIT - 1)
        closed = [connection for connection in crowd if not connection.is_greeted_within(TIMEOUT_S)]
        assert LIMIT <= CROWD - len(closed) <= LIMIT + 1
        assert all(connection.is_closed() for connection in closed)
        assert group.connect("127.0.0.2", bind=1).greeting == "s1"
