"""Listening on the binds of a configuration, as the program does at its start."""

from __future__ import annotations

from mailproxy.config import Config
from mailproxy.net.listener import Listener, Slots
from mailproxy.net.passing.adopt import open_slots
from mailproxy.net.passing.sockets import PassedSockets


def open_listeners(config: Config) -> list[Listener]:
    """Listen on every bind, in one process."""
    (listeners,) = open_for_workers(config, 1)
    return listeners


def open_for_workers(config: Config, workers: int) -> Slots:
    """Listen on every bind, for this many processes."""
    return open_slots(config, {}, workers, PassedSockets([]))
