"""The configuration as frozen values: every key with its type, default and description.

This package is the one place that knows the keys. Validation, inheritance, the JSON Schema, the table in the
documentation and the manual page are all made from it (``config.fields`` reads it).

Modules, one for each section of the file:
    setting: How a key is declared.
    process: ``[process]``, ``[admin]`` and ``[metrics]``.
    acme: ``[acme.NAME]``.
    log: ``[log]``.
    tracing: ``[tracing]``.
    frontend: ``[frontends.NAME]`` with binds, routes and limits.
    backend: ``[backends.NAME]`` with servers and stick table.
    check: Health checks.
    tls: TLS towards clients and servers.
    connection: What frontends, backends and checks share.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen

from mailproxy.config.model.acme import Acme, AcmeDns, AcmeEab, KeyType, Rfc2136
from mailproxy.config.model.backend import (
    INHERITED_BY_SERVERS,
    Backend,
    BackendTimeouts,
    Balance,
    Observe,
    OnMarkedDown,
    Server,
    ServerState,
    Stick,
)
from mailproxy.config.model.check import Check, CheckType, Connect, Step
from mailproxy.config.model.connection import KeepAlive, Protocol, SendProxy, Tlv
from mailproxy.config.model.frontend import (
    Bind,
    BindMode,
    Frontend,
    FrontendTimeouts,
    Route,
    SessionRate,
)
from mailproxy.config.model.log import Facility, Log, LogOutput
from mailproxy.config.model.process import Admin, AdminSocket, Metrics, Process
from mailproxy.config.model.setting import setting
from mailproxy.config.model.tls import CertificateFiles, FrontendTls, ServerTls
from mailproxy.config.model.tracing import Tracing
from mailproxy.config.source.source_map import SourceMap
from mailproxy.errors import ConfigError, Fault

__all__ = [
    "INHERITED_BY_SERVERS", "Acme", "AcmeDns", "AcmeEab", "Admin", "AdminSocket", "Backend", "BackendTimeouts", "Balance", "Bind", "BindMode", "CertificateFiles", "Check",
    "CheckType", "Config", "Connect", "Facility", "Frontend", "FrontendTimeouts", "FrontendTls", "KeepAlive", "KeyType", "Log", "LogOutput", "Metrics",
    "Observe", "OnMarkedDown", "Process", "Protocol", "Rfc2136", "Route", "SendProxy", "Server", "ServerState", "ServerTls", "SessionRate",
    "Step", "Stick", "Tlv", "Tracing",
]  # fmt: skip


@frozen(kw_only=True)
class Config:
    """A whole configuration, without faults as far as its text can tell.

    Attributes:
        source: The name of the file.
        source_map: What the configuration was read from, for the lines of later faults.
    """

    process: Process = setting("the processes", Process)
    log: Log = setting("where log lines go", Log)
    tracing: Tracing = setting("sessions as spans of OpenTelemetry", Tracing)
    admin: Admin = setting("admin socket and HTTP", Admin)
    metrics: Metrics = setting("what Prometheus gets", Metrics)
    acme: dict[str, Acme] = setting("where certificates are obtained", dict)
    frontends: dict[str, Frontend] = setting("where clients connect", dict)
    backends: dict[str, Backend] = setting("where sessions go", dict)
    source: str = setting("the file's name", "")
    source_map: SourceMap = field(factory=lambda: SourceMap("", {}), eq=False, repr=False)

    def error(self, faults: Iterable[Fault]) -> ConfigError:
        """Return the error that reports these faults of the configuration, each with its line."""
        return self.source_map.error(faults)

    @property
    def has_tls(self) -> bool:
        """Whether sessions may have TLS that begins or ends in this process."""
        terminates = any(
            frontend.terminates_tls(bind) for frontend in self.frontends.values() for bind in frontend.bind
        )
        return terminates or any(
            backend.tls or any(server.tls for server in backend.servers) for backend in self.backends.values()
        )
