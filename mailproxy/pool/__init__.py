"""The pool: which server takes a session. Pure: time and chance come in as arguments."""

from mailproxy.pool.attempts import Attempts, Next
from mailproxy.pool.balance import Balance, First, LeastConn
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
    "Attempts",
    "BackendShare",
    "Balance",
    "Cells",
    "Chance",
    "Change",
    "Counts",
    "First",
    "Health",
    "LeastConn",
    "LimitShare",
    "Next",
    "Observation",
    "Pool",
    "Queue",
    "Random",
    "RoundRobin",
    "Server",
    "ServerShare",
    "SharedObservation",
    "SharedPool",
    "SharedSessions",
    "Source",
    "Standing",
    "State",
    "StickTable",
    "Tally",
    "Waiter",
    "in_service",
    "key_of",
    "ramp",
]
