"""Events of epoll, and what gets them. Without epoll the events are 0."""

from __future__ import annotations

import select
from typing import Protocol

IN, PRI, OUT, RDHUP, ERR, HUP, ET = (
    getattr(select, name, 0) for name in ("EPOLLIN", "EPOLLPRI", "EPOLLOUT", "EPOLLRDHUP", "EPOLLERR", "EPOLLHUP", "EPOLLET")
)  # fmt: skip
READING = IN | PRI | RDHUP | ET
BOTH_WAYS = READING | OUT
GONE = RDHUP | ERR | HUP


class EventHandler(Protocol):
    """Gets the events of a descriptor. ``on_events`` is synchronous and raises nothing."""

    def on_events(self, events: int) -> None: ...


class Deferred(Protocol):
    """Work for the end of a turn, after all events. ``run`` is synchronous and raises nothing."""

    def run(self) -> None: ...
