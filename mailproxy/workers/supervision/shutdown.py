"""The supervisor's shutdown plan: what it does itself if the control process does not end the workers.

    SIGTERM                             SIGINT, or a second SIGTERM
    ----------------------------------  ---------------------------
    after 2 s: Drain to the workers     after 2 s: Stop to the workers
    drain_timeout + 6 s: Stop           after 8 s: SIGKILL to all
    drain_timeout + 12 s: SIGKILL

Where the control process works, the workers have drained or stopped long before, and a second Drain or Stop
changes nothing.
"""

from __future__ import annotations

from attrs import frozen

from mailproxy.workers.messages import Drain, Stop

_CONTROL_TIMEOUT_S = 2.0  # for the control process to pass on that the proxy stops
_EXIT_TIMEOUT_S = 6.0  # for children to exit after Stop


@frozen
class ShutdownStep:
    """One step. ``order`` is what the workers are sent when it is ``due``; None kills all children."""

    due: float
    order: Drain | Stop | None


def plan_drain(now: float, drain_timeout: float) -> list[ShutdownStep]:
    """Return the steps after the first SIGTERM."""
    stop = now + drain_timeout + _EXIT_TIMEOUT_S
    return [
        ShutdownStep(now + _CONTROL_TIMEOUT_S, Drain(drain_timeout)),
        ShutdownStep(stop, Stop()),
        ShutdownStep(stop + _EXIT_TIMEOUT_S, None),
    ]


def plan_stop(now: float) -> list[ShutdownStep]:
    """Return the steps after SIGINT, or a second SIGTERM."""
    stop = now + _CONTROL_TIMEOUT_S
    return [ShutdownStep(stop, Stop()), ShutdownStep(stop + _EXIT_TIMEOUT_S, None)]
