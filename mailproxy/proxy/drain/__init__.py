"""Drain: end the sessions of a server, of a frontend or of the whole process until a deadline, not all at once.

Modules, in reading order:
    target: Which sessions, why, and what is left of them.
    pace: How many of them end in a second.
    drainer: The drains of one process at work.
    commands: What an operator's commands call.
"""

from mailproxy.proxy.drain.commands import DrainCommands, LocalDrains
from mailproxy.proxy.drain.drainer import Drainer
from mailproxy.proxy.drain.pace import Pace
from mailproxy.proxy.drain.target import PROCESS, DrainStatus, DrainTarget, Purpose

__all__ = [
    "PROCESS", "DrainCommands", "DrainStatus", "DrainTarget", "Drainer", "LocalDrains", "Pace", "Purpose",
]  # fmt: skip
