"""What the supervisor gives a control process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from mailproxy.ipc.board import SharedBoard
from mailproxy.ipc.channel import Channel
from mailproxy.workers.messages import Message
from mailproxy.workers.scoreboard import Scoreboard


@frozen(kw_only=True)
class ControlSlot:
    """What makes a control process one of several processes.

    Attributes:
        scoreboard: The shared memory.
        boards: The boards of all processes, that of the control process last.
        supervisor: The channel to the supervisor.
        wake_supervisor: Tells the supervisor to look at ``counters``.
        workers: The number of workers that there are to be.
        running: The number of workers that served already when this control process was started.
        generation: The number of the configuration.
    """

    scoreboard: Scoreboard
    boards: Sequence[SharedBoard]
    supervisor: Channel[Message]
    wake_supervisor: Callable[[], None]
    workers: int
    running: int
    generation: int
