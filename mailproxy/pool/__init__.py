"""The pool: which server takes a session. Pure: time and chance come in as arguments."""

from mailproxy.pool.balance import Balance, First, LeastConn
from mailproxy.pool.health import Health
from mailproxy.pool.queue import Queue
from mailproxy.pool.random import Chance, Random
from mailproxy.pool.roundrobin import RoundRobin
from mailproxy.pool.server import Server, State
from mailproxy.pool.service import in_service, ramp
from mailproxy.pool.source import Source
from mailproxy.pool.stick import StickTable, host_of, key_of

__all__ = [
    "Balance",
    "Chance",
    "First",
    "Health",
    "LeastConn",
    "Queue",
    "Random",
    "RoundRobin",
    "Server",
    "Source",
    "State",
    "StickTable",
    "host_of",
    "in_service",
    "key_of",
    "ramp",
]
