"""The messages: a frozen class for each."""

from __future__ import annotations

from attrs import frozen

from mailproxy.errors import Fault
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.drain import DrainStatus, DrainTarget, Purpose
from mailproxy.workers.messages.admin import (
    ClearMaxima,
    EndSession,
    FollowRecords,
    FrontendUpdates,
    RecentRecords,
    Records,
    RemoveStickEntries,
    RequestCounters,
    RequestRecent,
    RequestSessions,
    Sessions,
)
from mailproxy.workers.reload.messages import ReloadMessage

StickEntries = tuple[tuple[int, int], ...]
"""Client keys, each with the number of its server (`ServerCounters`)."""

AgedStickEntries = tuple[tuple[int, int, int], ...]
"""Client key, number of the server, and milliseconds until the entry expires, since clocks differ."""


@frozen
class IndexedSnapshot:
    """A server, by the name of its backend and its number (`ServerCounters`), and what is known of it."""

    backend: str
    number: int
    snapshot: ServerSnapshot


# From the supervisor


@frozen
class WorkerChannel:
    """A worker was started. The socket that comes along is the control process's end of the channel to it."""

    slot: int
    pid: int


@frozen
class ControlChannel:
    """The socket that comes along is the worker's end of the channel to a new control process."""


@frozen
class SignalReceived:
    """The supervisor received a signal. The control process decides what it means."""

    number: int


@frozen(kw_only=True)
class ProcessExit:
    """A child of the supervisor has exited. The control process logs it.

    Attributes:
        slot: The worker's slot; None for the control process.
        pid: Its process id.
        reason: How it ended, in words.
        sessions: The number of sessions that were lost with it.
        is_replaced: Whether the supervisor starts another one.
    """

    slot: int | None
    pid: int
    reason: str
    sessions: int
    is_replaced: bool


@frozen
class ReloadFailed:
    """The supervisor could not load the changed TLS files. It keeps the old ones."""

    reason: str


@frozen
class HandoverFailed:
    """The proxy that this one replaces may still accept."""

    reason: str


# To the supervisor


@frozen
class PassSockets:
    """Send all listening sockets on the socket that comes along, to the process that is to replace this proxy."""

    successor: int


@frozen
class HandedOver:
    """That process accepts now, but at these addresses."""

    unused: tuple[str, ...]


# To a worker


@frozen
class Drain:
    """Accept no more connections, and close the sessions that are still open after this many seconds.

    Attributes:
        seconds: Until when sessions have to end.
        closed: Addresses at which no other proxy listens. What waits there is accepted first.
    """

    seconds: float
    closed: tuple[str, ...] = ()


@frozen
class Stop:
    """Close all sessions now, and exit."""


@frozen
class DrainSessions:
    """End these sessions within this many seconds. The state of the server comes with ServerUpdates."""

    target: DrainTarget
    purpose: Purpose
    seconds: float
    ack: int | None = None


@frozen
class CancelDrain:
    """Let these sessions go on."""

    target: DrainTarget
    ack: int | None = None


@frozen
class StartServing:
    """All that is known of the servers has been sent: accept connections now."""


@frozen
class ServerUpdates:
    """What is known of these servers now. ``ack`` is the number of the Ack to send, None for none."""

    servers: tuple[IndexedSnapshot, ...]
    ack: int | None = None


@frozen
class ReopenLog:
    """Open the log files again, because they were rotated."""

    ack: int | None = None


@frozen(kw_only=True)
class ReloadCertificates:
    """Load the TLS files that have changed.

    Attributes:
        is_forced: Load the files also where they look unchanged.
        faults: What the control process has logged. The worker logs only what differs from it.
        ack: As in ``ServerUpdates``.
    """

    is_forced: bool
    faults: tuple[Fault, ...]
    ack: int | None = None


@frozen
class RequestStickTable:
    """Send the stick tables of all backends."""


# From a worker


@frozen
class Register:
    """The worker is there.

    Attributes:
        is_new: Whether it knows nothing of the servers yet and waits for StartServing.
        generation: The number of the configuration that it uses.
    """

    is_new: bool
    generation: int = 1


@frozen
class Ready:
    """The worker listens on all binds."""


@frozen
class ServerSnapshots:
    """What the worker knows of these servers, for a control process that has just started."""

    servers: tuple[IndexedSnapshot, ...]


@frozen
class Ack:
    """A message was handled. ``requeued``: how many sessions changed their queue or got a slot by it."""

    number: int
    requeued: int = 0


@frozen
class ConnectFailure:
    """A session could not be connected to a server. ``host`` is the address of its client."""

    backend: str
    number: int
    host: str
    reason: str


@frozen
class DrainProgress:
    """How far the drains of this worker have come: all that there are, once a second while there are any."""

    drains: tuple[DrainStatus, ...]


# In both directions


@frozen
class StickUpdates:
    """New entries of a stick table."""

    backend: str
    entries: StickEntries


@frozen
class StickTablePart:
    """Some entries of a whole stick table."""

    backend: str
    entries: AgedStickEntries


@frozen
class StickTableEnd:
    """All entries of all stick tables have been sent."""


AckedMessage = (
    ServerUpdates
    | ReopenLog
    | ReloadCertificates
    | RequestCounters
    | FrontendUpdates
    | RequestSessions
    | RequestRecent
    | ClearMaxima
    | EndSession
    | DrainSessions
    | CancelDrain
)
"""Messages that a worker acknowledges."""

Message = (
    WorkerChannel | ControlChannel | SignalReceived | ProcessExit | ReloadFailed
    | Drain | Stop | StartServing | AckedMessage | RequestStickTable
    | Register | Ready | ServerSnapshots | Ack | ConnectFailure
    | StickUpdates | StickTablePart | StickTableEnd | RemoveStickEntries | Sessions
    | FollowRecords | Records | RecentRecords | DrainProgress | ReloadMessage | PassSockets | HandedOver | HandoverFailed
)  # fmt: skip

MESSAGES: dict[str, type[Message]] = {kind.__name__: kind for kind in Message.__args__}
"""Every message by its ``type``."""
