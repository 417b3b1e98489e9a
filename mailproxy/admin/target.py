"""What a running proxy can be asked and what it can change, whether it has one process or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from attrs import frozen

from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.log import EventRecord, Follower, Record, SessionRecord
from mailproxy.metrics.figures import Figures
from mailproxy.metrics.traffic import Traffic
from mailproxy.net.tls.certificate import Certificate
from mailproxy.pool import Counts
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.drain import DrainCommands
from mailproxy.proxy.explain import View
from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.reload.result import Reload, ReloadHistory
from mailproxy.proxy.session.summary import SessionFilter, SessionSummary


@frozen(kw_only=True)
class FrontendFigures:
    """A frontend now.

    Attributes:
        state: Whether it accepts.
        sessions: Its open sessions.
        limit: The most sessions that it may have, 0 for no limit of its own.
        traffic: What its sessions have come to.
    """

    state: FrontendState
    sessions: int
    limit: int
    traffic: Traffic


@frozen
class ProcessState:
    """A process that serves.

    Attributes:
        name: What the log calls it.
        pid: Its process id.
        is_ready: Whether it accepts sessions.
        is_responsive: Whether it answers the control process.
    """

    name: str
    pid: int
    is_ready: bool
    is_responsive: bool


@frozen
class Recent:
    """What was logged last.

    Attributes:
        events: Events, the oldest first, as `Log.recent` has them.
        sessions: Sessions that have ended, in no order.
    """

    events: Sequence[EventRecord]
    sessions: Sequence[SessionRecord]

    @classmethod
    def of(cls, records: Iterable[Record], events: int) -> Recent:
        """Sort the records of several processes, and keep this many events."""
        sessions: list[SessionRecord] = []
        found: list[EventRecord] = []
        for record in records:
            if isinstance(record, SessionRecord):
                sessions.append(record)
            else:
                found.append(record)
        found.sort(key=lambda event: event.time)
        return cls(found[-events:], sessions)


class Target(Protocol):
    """A running proxy. Changes of servers go through its backends, and reach all processes from there."""

    @property
    def config(self) -> Config:
        """The configuration."""

    @property
    def backends(self) -> Mapping[str, Backend]:
        """The backends, by name."""

    @property
    def workers(self) -> int:
        """The number of processes that serve."""

    @property
    def sessions(self) -> int:
        """The open sessions of all frontends."""

    @property
    def max_sessions(self) -> int:
        """The limit on them."""

    @property
    def is_stopping(self) -> bool:
        """Whether the proxy drains or stops."""

    @property
    def drains(self) -> DrainCommands:
        """Ends the sessions of servers and frontends."""

    @property
    def certificates(self) -> Sequence[Certificate]:
        """The certificates in use."""

    @property
    def acme(self) -> Sequence[AcmeStatus]:
        """How the certificates are that are obtained by ACME."""

    @property
    def certificate_store(self) -> CertificateStore | None:
        """The TLS files in use; None if the configuration names none."""

    @property
    def view(self) -> View:
        """The proxy as a client would meet it now."""

    def subscribe(self, follower: Follower) -> None:
        """Call ``follower`` with each session that ends and each event, of all processes, from now on."""

    def unsubscribe(self, follower: Follower) -> None:
        """Undo ``subscribe``."""

    @property
    def figures(self) -> Figures:
        """What was counted until the last `sample` or `refresh`. The methods below read it."""

    @property
    def listeners(self) -> Sequence[tuple[str, str]]:
        """The binds: the name of the frontend, and that of the bind."""

    @property
    def is_ready(self) -> bool:
        """Whether every process accepts sessions."""

    def sample(self) -> None:
        """Read what is counted now. The bytes of open sessions are those of the last `refresh`."""

    @property
    def reloads(self) -> ReloadHistory:
        """The reloads of the configuration so far."""

    @property
    def generations(self) -> Mapping[str, int]:
        """The number of the configuration that each serving process uses, by the name of the process."""

    async def reload(self) -> Reload:
        """Read the configuration file again and use it.

        Raises:
            ConfigError: With every fault. Nothing has changed then.
        """

    async def refresh(self) -> None:
        """Have open sessions counted, then `sample`. Waits for workers, a fraction of a second at most."""

    def frontend(self, name: str) -> FrontendFigures:
        """Return the figures of a frontend."""

    def server_counts(self, backend: Backend, server: BackendServer) -> Counts:
        """Return what has happened at a server."""

    @property
    def processes(self) -> Sequence[ProcessState]:
        """The processes that serve."""

    async def recent(self, events: int, *, with_sessions: bool = False) -> Recent:
        """Return what all processes have logged last. Waits for workers, 3 s at most.

        Args:
            events: How many events.
            with_sessions: Whether the last sessions are wanted, too.
        """

    async def set_frontend_state(self, name: str, state: FrontendState) -> None:
        """Pause, resume or shut down a frontend."""

    async def set_frontend_limit(self, name: str, sessions: int) -> None:
        """Set the limit of a frontend; 0 for no limit of its own."""

    async def set_process_limit(self, sessions: int) -> None:
        """Set the limit on sessions of all frontends together."""

    async def clear_maxima(self) -> None:
        """Let the highest values of all figures begin again."""

    async def list_sessions(self, wanted: SessionFilter) -> list[SessionSummary]:
        """Return the sessions that match."""

    async def end_session(self, number: int) -> bool:
        """End the session with this id, with end reason KILLED. Return False if there is no such session."""

    async def clear_table(self, backend: Backend, key: int | None) -> None:
        """Remove an entry of a stick table, or all entries."""

    async def set_table(self, backend: Backend, key: int, server: BackendServer) -> None:
        """Store an entry in a stick table."""
