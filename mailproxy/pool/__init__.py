"""The pool: which server takes a session. Pure: time and chance come in as arguments."""

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
from mailproxy.pool.eligibility import eligible_servers, slow_start_factor
from mailproxy.pool.health import Health
from mailproxy.pool.passive_health import PassiveHealth, SharedPassiveHealth
from mailproxy.pool.pool import Pool, StateChange, Waiter
from mailproxy.pool.queue import Queue
from mailproxy.pool.retry import RetryDecision, RetryState
from mailproxy.pool.server import AdminState, Counts, Server, ServerState
from mailproxy.pool.shared.count_table import CountTable, words_for
from mailproxy.pool.shared.counters import (
    BackendCounters,
    Cells,
    LimitCounters,
    ServerCounters,
    SharedCounter,
    SharedSessions,
)
from mailproxy.pool.shared.pool import SharedPool
from mailproxy.pool.stick_table import StickTable, client_key

__all__ = [
    "RATE_CLIENTS_MAX",
    "AdminState",
    "BackendCounters",
    "Balance",
    "Cells",
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
    "Queue",
    "Random",
    "RandomSource",
    "RateCounts",
    "RetryDecision",
    "RetryState",
    "RoundRobin",
    "Server",
    "ServerCounters",
    "ServerState",
    "SessionCounts",
    "SharedCounter",
    "SharedPassiveHealth",
    "SharedPool",
    "SharedSessions",
    "Source",
    "StateChange",
    "StickTable",
    "Waiter",
    "client_hash",
    "client_key",
    "eligible_servers",
    "slow_start_factor",
    "words_for",
]
