"""What the log says about a session beside its line: that it is connected, and how long each step took."""

from __future__ import annotations

from mailproxy.log import Log
from mailproxy.log.events import SESSION_STARTED, SESSION_STEPS
from mailproxy.log.record import SessionRecord, TimedRecord


def log_start(log: Log, record: SessionRecord) -> None:
    """Log that a session is connected (``log_start``)."""
    log.event(
        SESSION_STARTED,
        f"{record.client} {record.frontend} {record.backend}/{record.server} connected",
        frontend=record.frontend,
        backend=record.backend,
        server=record.server,
        client=record.client,
        server_address=record.server_address,
        id=f"{record.id:x}",
    )


def log_steps(log: Log, record: SessionRecord) -> None:
    """Log how long each step of a session took (``log_steps``)."""
    assert isinstance(record, TimedRecord)  # noqa: S101 - record_type of such a frontend
    steps = record.milliseconds
    times = ", ".join(f"{phase} {_written_ms(value)}" for phase, value in steps.items())
    log.event(
        SESSION_STEPS,
        f"session {record.id:x} of {record.client} in {record.frontend}: {times}",
        frontend=record.frontend,
        backend=record.backend or None,
        server=record.server or None,
        client=record.client,
        id=f"{record.id:x}",
        steps=steps,
    )


def _written_ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.3g} ms"
