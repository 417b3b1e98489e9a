"""Faults of mailproxy itself, as the log shows them: what was raised, and in which line."""

from __future__ import annotations

import traceback

from mailproxy.log import Log
from mailproxy.log.events import Event


def log_fault(log: Log, event: Event, subject: str, fault: BaseException, **fields: object) -> None:
    """Write ``event``: a fault ended the subject, such as ``session 1f``. ``fields`` come first in it."""
    cause, location = locate(fault)
    log.event(
        event,
        f"a fault of mailproxy ended {subject}: {cause!r} at {location}",
        **fields,
        fault=repr(cause),
        place=location,
    )


def locate(fault: BaseException) -> tuple[BaseException, str]:
    """Return the first exception in nested groups, and ``FILE:LINE`` of where it was raised."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    frames = traceback.extract_tb(fault.__traceback__)
    return fault, f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
