"""The pool: which server takes a session. Pure: time and chance come in as arguments."""

from mailproxy.pool.balance import LeastConn
from mailproxy.pool.server import Server, State

__all__ = ["LeastConn", "Server", "State"]
