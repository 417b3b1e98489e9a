"""The messages that the admin sockets need: figures, sessions, frontends. `kinds` has them in its table."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from attrs import fields, frozen
from cattrs import Converter

from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.session.summary import SessionFilter, SessionSummary


@frozen
class RequestCounters:
    """Count what live sessions have moved, and acknowledge: the figures are about to be read."""

    ack: int | None = None


@frozen
class RequestSessions:
    """Send the sessions that match, in parts with the number of this ``ack``, and acknowledge behind them."""

    wanted: SessionFilter
    ack: int | None = None


@frozen
class ClearMaxima:
    """Count what live sessions have moved, let the highest values begin again, and acknowledge."""

    ack: int | None = None


@frozen
class EndSession:
    """End the session with this id. ``requeued`` of the Ack is 1 if this worker has it."""

    number: int
    ack: int | None = None


@frozen
class RemoveStickEntries:
    """Remove the entry of a client key from a stick table; None removes all entries."""

    backend: str
    key: int | None


@frozen
class Sessions:
    """Some of the sessions that were asked for. ``request`` is the number of the Ack that follows."""

    request: int
    sessions: tuple[SessionSummary, ...]


@frozen
class FollowRecords:
    """Send each session and event that is logged from now on, or stop that."""

    is_on: bool


PackedRecord = tuple[Any, ...]
"""A session or an event; see `mailproxy.workers.records`."""


@frozen
class Records:
    """Sessions and events that were logged, and the number of those behind them that could not be sent."""

    records: tuple[PackedRecord, ...]
    lost: int


@frozen
class RequestRecent:
    """Send what you have logged last, in parts with the number of this ``ack``, and acknowledge behind them.

    Attributes:
        events: How many events.
        with_sessions: Whether the last sessions are wanted, too.
        ack: As in ``ServerUpdates``.
    """

    events: int
    with_sessions: bool
    ack: int | None = None


@frozen
class RecentRecords:
    """Some of these sessions and events. ``request`` is the number of the Ack that follows."""

    request: int
    records: tuple[PackedRecord, ...]


@frozen(kw_only=True)
class FrontendUpdates:
    """What the operator wants of all frontends.

    Attributes:
        frontends: The name, whether it accepts, and its limit on sessions.
        max_sessions: The limit on the sessions of all frontends; 0 for that of the configuration.
        ack: As in ``ServerUpdates``.
    """

    frontends: tuple[tuple[str, FrontendState, int], ...]
    max_sessions: int
    ack: int | None = None


def register_admin_hooks(converter: Converter) -> None:
    """Have a converter pack the values of these messages as arrays."""
    converter.register_unstructure_hook(
        SessionSummary, attrgetter(*(field.name for field in fields(SessionSummary)))
    )
    converter.register_structure_hook(SessionSummary, _decode_session)


def _decode_session(value: Sequence[Any], _: object) -> SessionSummary:
    names = [field.name for field in fields(SessionSummary)]
    return SessionSummary(**dict(zip(names, value, strict=True)))
