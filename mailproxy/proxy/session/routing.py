"""Route selection: the first route of a frontend that matches the client. Synchronous, without sockets."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from mailproxy import config
from mailproxy.address import Networks
from mailproxy.config.path import ROOT_PATH
from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.protocol.client_hello import ClientHello
from mailproxy.proxy.client_info import ClientInfo


@frozen
class _Names:
    """Server names and wildcards; a wildcard covers exactly one label (RFC 6125 section 6.4.3).

    Attributes:
        exact: Names without a wildcard.
        parents: The domains of wildcards, without ``*.``.
    """

    exact: frozenset[str]
    parents: frozenset[str]

    @classmethod
    def of(cls, patterns: Sequence[str]) -> _Names:
        stars = [pattern for pattern in patterns if pattern.startswith("*.")]
        return cls(frozenset(patterns) - frozenset(stars), frozenset(star[2:] for star in stars))

    def __contains__(self, name: str) -> bool:
        return name in self.exact or (bool(self.parents) and name.partition(".")[2] in self.parents)


class Route:
    """One route of the configuration, compiled for matching."""

    def __init__(self, route: config.Route) -> None:
        self.config = route
        self._needs_client_hello = route.needs_client_hello
        self._names = _Names.of(route.sni) if route.sni else None
        self._alpn = frozenset(name.encode() for name in route.alpn)
        self._client = Networks(route.client)
        self._port = route.port

    def matches(self, client: ClientInfo) -> bool:
        """Whether every condition of the route holds for the client.

        Without a ClientHello no condition on names holds, not even ``sni = false``: the name is unknown then.
        """
        if self._needs_client_hello and (client.hello is None or not self._matches_hello(client.hello)):
            return False
        if self._port and client.port not in self._port:
            return False
        return not self._client or (client.source is not None and client.source[0] in self._client)

    def _matches_hello(self, hello: ClientHello) -> bool:
        name = hello.server_name
        if self.config.sni is False and name is not None:
            return False
        if self._names is not None and (name is None or name not in self._names):
            return False
        return not self._alpn or not self._alpn.isdisjoint(hello.alpn)


class Routes:
    """The routes of a frontend."""

    def __init__(self, routes: Sequence[config.Route], frontend: str) -> None:
        self._routes = tuple(map(Route, routes))
        self._path = ROOT_PATH / "frontends" / frontend / "routes"

    def select(self, client: ClientInfo) -> config.Route | None:
        """Return the first route that matches.

        Without one, the frontend's backend and the bind's mode apply.
        """
        for route in self._routes:
            if route.matches(client):
                return route.config
        return None

    def refusal(
        self, frontend: config.Frontend, selected: config.Route | None
    ) -> tuple[EndReason, str] | None:
        """Return why a session gets no backend, and the detail; None if it gets one.

        Args:
            frontend: The frontend.
            selected: What ``select`` has returned.
        """
        if selected is not None:
            return (end_reasons.REJECTED, self.describe(selected)) if selected.reject else None
        if frontend.backend is None:
            return end_reasons.NO_SERVER, "no route matches, and the frontend has no backend"
        return None

    def describe(self, selected: config.Route) -> str:
        """Return the path of a route in the configuration, and the keys by which it matched."""
        index = next(index for index, route in enumerate(self._routes) if route.config is selected)
        keys = [key for key in ("sni", "alpn", "client", "port") if getattr(selected, key) not in (None, ())]
        return str(self._path / index) + (f" by {' and '.join(keys)}" if keys else "")


def terminates_tls(bind: config.Bind, route: config.Route | None) -> bool:
    """Whether the TLS of a session ends here. Only for sessions with a ClientHello."""
    return bind.mode == "starttls" or ((route and route.mode) or bind.mode) == "tls"
