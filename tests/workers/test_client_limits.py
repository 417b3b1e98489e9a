"""Limits per client over two workers: counted together, given back when a worker dies, known to one that starts later."""

from __future__ import annotations

from pathlib import Path

from tests.support.worker_group import (
    Client,
    GreetingServer,
    WorkerGroup,
    configuration,
    greeting_servers,
    wait_until,
)

CLIENT, OTHER = "192.0.2.1", "2001:db8::1"
MOST, CROWD = 10, 60


def limited(*servers: GreetingServer, keys: str) -> str:
    """Clients say who they are behind their connection, so that a test can choose their worker before they count."""
    text = configuration(*servers, more='[log]\nformat = "json"')
    bind = 'bind = [{ address = "127.0.0.1:0", accept_proxy = ["127.0.0.0/8"] }, { address = "127.0.0.1:0" }]'
    return text.replace('bind = [{ address = "127.0.0.1:0" }]', f"{bind}\n{keys}")


def come(group: WorkerGroup, worker: int, client: str = CLIENT) -> Client:
    guest = group.connect_to_worker(worker)
    family, own = ("TCP6", "2001:db8::2") if ":" in client else ("TCP4", "192.0.2.2")
    guest.sock.sendall(f"PROXY {family} {client} {own} 40000 993\r\n".encode())
    return guest


def served(group: WorkerGroup, worker: int, client: str = CLIENT) -> Client:
    guest = come(group, worker, client)
    assert guest.greeting == "s1"
    return guest


def refused(group: WorkerGroup, worker: int, client: str = CLIENT) -> None:
    assert come(group, worker, client).is_closed()


def leave(group: WorkerGroup, guest: Client) -> None:
    """And wait until the proxy knows."""
    before = len(group.lines("client-closed"))
    guest.close()
    wait_until(lambda: len(group.lines("client-closed")) > before)


def test_sessions_of_a_client_are_counted_over_both(tmp_path: Path) -> None:
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(limited(*servers, keys="max_sessions_per_client = 3"), tmp_path) as group,
    ):
        guests = [served(group, worker) for worker in (0, 1, 0)]
        for worker in (0, 1):
            refused(group, worker)
            assert served(group, worker, OTHER).echoes()
        group.wait_for(f'"detail": ?"{CLIENT} has 3 sessions, max_sessions_per_client is 3"')
        leave(group, guests.pop(1))
        guests.append(served(group, 0))
        refused(group, 1)
        leave(group, guests.pop(0))
        guests.append(served(group, 1))
        refused(group, 0)
        assert all(guest.echoes() for guest in guests)
        wait_until(lambda: len(group.lines("client-limit")) >= 4)
        assert len(group.lines("client-limit")) == 4


def test_dead_workers_sessions_are_given_back(tmp_path: Path) -> None:
    """Its own and no others: the next one in its place knows those of the other worker."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(limited(*servers, keys="max_sessions_per_client = 2"), tmp_path) as group,
    ):
        lost, kept = served(group, 0), served(group, 1)
        refused(group, 1)
        group.kill_and_wait("worker 1")
        assert lost.is_closed()
        again = served(group, 0)
        for worker in (0, 1):
            refused(group, worker)
        group.kill_and_wait("worker 2")
        assert kept.is_closed()
        assert served(group, 1).echoes()
        assert again.echoes()
        for worker in (0, 1):
            refused(group, worker)


def test_rate_of_a_client_is_counted_over_both(tmp_path: Path) -> None:
    keys = 'max_session_rate_per_client = { count = 4, per = "1d" }'
    with greeting_servers("s1") as servers, WorkerGroup(limited(*servers, keys=keys), tmp_path) as group:
        for worker in (0, 1, 1, 0):
            served(group, worker).close()
        for worker in (1, 0):
            refused(group, worker)
            served(group, worker, OTHER).close()
        group.wait_for(
            f'"detail": ?"{CLIENT} made 5 connections in 1d, max_session_rate_per_client is 4 in 1d"'
        )


def test_dead_worker_takes_its_rates_with_it(tmp_path: Path) -> None:
    keys = 'max_session_rate_per_client = { count = 2, per = "1d" }'
    with greeting_servers("s1") as servers, WorkerGroup(limited(*servers, keys=keys), tmp_path) as group:
        served(group, 0)
        served(group, 1)
        group.kill_and_wait("worker 1")
        served(group, 1)
        refused(group, 0)


def test_crowd_from_one_address_has_its_sessions_and_no_more(tmp_path: Path) -> None:
    """All at once, each at the worker that the kernel chooses: as many as the limit, and one more where both looked at once."""
    with (
        greeting_servers("s1") as servers,
        WorkerGroup(limited(*servers, keys=f"max_sessions_per_client = {MOST}"), tmp_path) as group,
    ):
        crowd = [group.connect(bind=1) for _ in range(CROWD)]
        wait_until(lambda: len(group.lines("client-limit")) >= CROWD - MOST - 1)
        closed = [guest for guest in crowd if not guest.is_greeted_within(5.0)]
        assert MOST <= CROWD - len(closed) <= MOST + 1
        assert all(guest.is_closed() for guest in closed)
        assert group.connect("127.0.0.2", bind=1).greeting == "s1"
