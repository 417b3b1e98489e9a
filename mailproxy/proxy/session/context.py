"""What the sessions of one frontend share: configuration, backends, limits, relay, log."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define

from mailproxy import config
from mailproxy.log import Log
from mailproxy.log.record import SessionRecord
from mailproxy.metrics.sessions import SessionCounter
from mailproxy.net.poller import AnyPoller
from mailproxy.net.relay import Relay
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.limits import SessionLimits
from mailproxy.proxy.session.negotiation import Greetings
from mailproxy.proxy.session.registry import SessionRegistry
from mailproxy.proxy.session.routing import Routes


@define(kw_only=True, eq=False)
class SessionContext:
    """What the sessions of one frontend share.

    Attributes:
        config: The frontend's configuration.
        backends: All backends by name.
        routes: The frontend's routes.
        greetings: What the proxy says to clients that it greets itself.
        limits: Counts each session from accepting until its line is written.
        clients: Counts the sessions of each client; None without limits per client.
        registry: Has each session until its end.
        relay: Relays the tunnels.
        poller: Watches the sockets until a tunnel opens.
        log: Gets the lines.
        counter: Counts what they come to.
        record_type: What the facts of a session are collected in.
        refusing: Sessions in a TLS handshake that only a refusal in words needs.
    """

    config: config.Frontend
    backends: Mapping[str, Backend]
    routes: Routes
    greetings: Greetings
    limits: SessionLimits
    clients: Clients | None
    registry: SessionRegistry
    relay: Relay
    poller: AnyPoller
    log: Log
    counter: SessionCounter
    record_type: type[SessionRecord] = SessionRecord
    refusing: int = 0
