"""The invariants of a pool, which the head of `mailproxy.pool.pool` lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mailproxy.pool import Pool, Waiter
from mailproxy.pool.eligibility import eligible_servers
from mailproxy.pool.queue import Queue


def assert_invariants(pool: Pool[Any]) -> None:
    """Raise AssertionError if an invariant is broken."""
    for broken in _broken(pool):
        raise AssertionError(broken)


def _broken(pool: Pool[Any]) -> Iterator[str]:
    queues: list[tuple[Any, Queue[Waiter[Any]]]] = [(None, pool._queue), *pool._server_queues.items()]
    for server, queue in queues:
        waiters = list(queue)
        if any(waiter.required is not server or waiter.server is not None for waiter in waiters):
            yield f"1: a waiter is in the queue of {server} and should not be"
        if waiters != sorted(waiters, key=lambda waiter: waiter.ticket):
            yield f"3: the queue of {server} is out of order"
        if waiters and server is not None and not server.accepts_persistent:
            yield f"4: sessions wait for {server}, which accepts none"
    if pool._waiting != sum(len(queue) for _, queue in queues):
        yield f"2: _waiting is {pool._waiting}"
    if list(pool._eligible) != list(eligible_servers(pool.servers, all_backups=pool.all_backups)):
        yield "6: the eligible servers are out of date"
    for server in pool.servers:
        if not server.is_full and pool._next_queue_for(server) is not None:
            yield f"5: a session waits for the free slot of {server}"
