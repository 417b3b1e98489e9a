"""The pool: which server takes a session. Pure: time and chance come in as arguments."""

from mailproxy.pool.attempts import Attempts, Next
from mailproxy.pool.balance import Balance, First, LeastConn
from mailproxy.pool.clients import (
    RATE_CLIENTS_MAX,
    ClientLimits,
    ClientTables,
    LimitReached,
    Published,
    RateCounts,
    SessionCounts,
    client_hash,
)
from mailproxy.pool.count_table import CountTable, words_for
from mailproxy.pool.health import Health
from mailproxy.pool.observation import Observation, SharedObservation
from mailproxy.pool.pool import Change, Pool, Waiter
from mailproxy.pool.queue import Queue
from mailproxy.pool.random import Chance, Random
from mailproxy.pool.roundrobin import RoundRobin
from mailproxy.pool.server import Counts, Server, Standing, State
from mailproxy.pool.service import in_service, ramp
from mailproxy.pool.shared import SharedPool
from mailproxy.pool.source import Source
from mailproxy.pool.stick import StickTable, key_of
from mailproxy.pool.tally import BackendShare, Cells, LimitShare, ServerShare, SharedSessions, Tally

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
