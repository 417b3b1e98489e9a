"""Which server a session gets, as pure decisions: no sockets, and time and random numbers are arguments.

Modules, in reading order:
    server: one server, with its state and its slots.
    health, passive_health: whether a server is up, by its checks and by failed connections.
    eligibility: which servers may be chosen now, and how much of their weight counts.
    balance: the methods that choose a server.
    queue: the queue of sessions that wait for a slot.
    turn_order: which of the waiters is next.
    pool: all of these as one, the servers of a backend.
    state_change: what a change of a server's state has done to them.
    stick_table: which client had which server.
    retry: what follows after an attempt to connect has failed.
    client_limits: sessions and connection rates per client.
    shared: counters, tables and turn order where several workers share them.

The names here are what other packages use. Import the rest from its module.
"""

from mailproxy.pool.balance.base import Balance, First, LeastConn
from mailproxy.pool.balance.random import Random, RandomSource
from mailproxy.pool.balance.roundrobin import RoundRobin
from mailproxy.pool.balance.source import Source
from mailproxy.pool.client_limits import (
    RATE_CLIENTS_MAX,
    ClientLimits,
    ClientTables,
    LimitReached,
    Published,
    RateCounts,
    SessionCounts,
    client_hash,
)
from mailproxy.pool.health import Health
from mailproxy.pool.passive_health import PassiveHealth, SharedPassiveHealth
from mailproxy.pool.pool import Pool
from mailproxy.pool.queue import Waiter
from mailproxy.pool.retry import RetryDecision, RetryState
from mailproxy.pool.server import AdminState, Counts, Server
from mailproxy.pool.shared.count_table import CountTable, words_for
from mailproxy.pool.shared.counters import (
    BackendCounters,
    LimitCounters,
    ServerCounters,
    SharedCounter,
    SharedSessions,
)
from mailproxy.pool.shared.server_counts import SharedCounts, read_counts
from mailproxy.pool.shared.turn_order import SharedTurnOrder
from mailproxy.pool.state_change import StateChange
from mailproxy.pool.stick_table import StickTable, client_key
from mailproxy.pool.turn_order import TurnOrder

__all__ = [
    "RATE_CLIENTS_MAX",
    "AdminState",
    "BackendCounters",
    "Balance",
    "ClientLimits",
    "ClientTables",
    "CountTable",
    "Counts",
    "First",
    "Health",
    "LeastConn",
    "LimitCounters",
    "LimitReached",
    "PassiveHealth",
    "Pool",
    "Published",
    "Random",
    "RandomSource",
    "RateCounts",
    "RetryDecision",
    "RetryState",
    "RoundRobin",
    "Server",
    "ServerCounters",
    "SessionCounts",
    "SharedCounter",
    "SharedCounts",
    "SharedPassiveHealth",
    "SharedSessions",
    "SharedTurnOrder",
    "Source",
    "StateChange",
    "StickTable",
    "TurnOrder",
    "Waiter",
    "client_hash",
    "client_key",
    "read_counts",
    "words_for",
]
