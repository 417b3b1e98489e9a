"""The pool: which server takes a session. Pure: time and chance come in as arguments."""

from mailproxy.pool.balance.base import Balance, First, LeastConn
from mailproxy.pool.balance.random import Chance, Random
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
from mailproxy.pool.eligibility import in_service, ramp
from mailproxy.pool.health import Health
from mailproxy.pool.passive_health import Observation, SharedObservation
from mailproxy.pool.pool import Change, Pool, Waiter
from mailproxy.pool.queue import Queue
from mailproxy.pool.retry import Attempts, Next
from mailproxy.pool.server import Counts, Server, Standing, State
from mailproxy.pool.shared.count_table import CountTable, words_for
from mailproxy.pool.shared.counters import BackendShare, Cells, LimitShare, ServerShare, SharedSessions, Tally
from mailproxy.pool.shared.pool import SharedPool
from mailproxy.pool.stick_table import StickTable, key_of

__all__ = [
    "RATE_CLIENTS_MAX",
    "Attempts",
    "BackendShare",
    "Balance",
    "Cells",
    "Chance",
    "Change",
    "ClientLimits",
    "ClientTables",
    "CountTable",
    "Counts",
    "First",
    "Health",
    "LeastConn",
    "LimitReached",
    "LimitShare",
    "Next",
    "Observation",
    "Pool",
    "Published",
    "Queue",
    "Random",
    "RateCounts",
    "RoundRobin",
    "Server",
    "ServerShare",
    "SessionCounts",
    "SharedObservation",
    "SharedPool",
    "SharedSessions",
    "Source",
    "Standing",
    "State",
    "StickTable",
    "Tally",
    "Waiter",
    "client_hash",
    "in_service",
    "key_of",
    "ramp",
    "words_for",
]
