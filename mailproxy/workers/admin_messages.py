"""The messages that the admin sockets need: figures, sessions, frontends. `messages` has them in its table."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from attrs import fields, frozen
from cattrs import Converter

from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.session.summary import SessionFilter, SessionSummary
from mailproxy.proxy.stats import Times, Traffic

_TIMES = 3  # the durations in Traffic, its last fields


@frozen
class RequestCounters:
    """Send the counters that have changed, and acknowledge: the admin socket is asked for them."""

    ack: int | None = None


@frozen
class RequestSessions:
    """Send the sessions that match, in parts with the number of this ``ack``, and acknowledge behind them."""

    wanted: SessionFilter
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
class TrafficUpdates:
    """What sessions have come to, where that has changed since the last such message.

    Attributes:
        kind: ``frontend``, ``backend`` or ``server``.
        owner: For servers, the name of their backend; else empty.
        entries: The name with the figures.
    """

    kind: str
    owner: str
    entries: tuple[tuple[str, Traffic], ...]


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
    converter.register_unstructure_hook(Traffic, _encode_traffic)
    converter.register_structure_hook(Traffic, _decode_traffic)


def _encode_traffic(traffic: Traffic) -> list[float]:
    values = [getattr(traffic, field.name) for field in fields(Traffic)]
    numbers: list[float] = []
    for value in values:
        numbers += (value.average, value.longest) if isinstance(value, Times) else (value,)
    return numbers


def _decode_traffic(value: Sequence[float], _: object) -> Traffic:
    times = [
        Times(value[start], int(value[start + 1])) for start in range(len(value) - 2 * _TIMES, len(value), 2)
    ]
    return Traffic(*map(int, value[: -2 * _TIMES]), *times)  # type: ignore[arg-type]  # in the order of its fields


def _decode_session(value: Sequence[Any], _: object) -> SessionSummary:
    names = [field.name for field in fields(SessionSummary)]
    return SessionSummary(**dict(zip(names, value, strict=True)))
