"""Layer4 routes as a list of targets, in the order in which mailproxy tries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from attrs import evolve, field, frozen

from mailproxy.importers.caddy.model import Handler, Matcher, Route
from mailproxy.importers.context import Context
from mailproxy.importers.names import PatternError, names_of
from mailproxy.importers.place import Comments, Place

TARGETS_MAX = 2_000  # of one server; routes with "not" are repeated

_PRIVATE = ["192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8", "127.0.0.0/8", "fd00::/8", "::1/128"]
_NOT_HERE = ("throttle", "tee", "echo", "socks5", "postgres_tls", "vars")


@frozen
class Target:
    """Where sessions go that fulfil some conditions.

    Attributes:
        conditions: The values of each key of a route.
        needs_tls: Whether only clients that speak TLS fulfil them.
        tls: The handler that terminates TLS; None if none does.
        header: The handler that reads a PROXY header; None if none does.
        proxy: The handler that connects to a server; None to reject.
        place: The place of the route.
    """

    place: Place
    conditions: Mapping[str, tuple[str, ...]] = field(factory=dict)
    needs_tls: bool = False
    tls: Handler | None = None
    header: Handler | None = None
    proxy: Handler | None = None
    comments: Comments = Comments()


class Walk:
    """Follows the routes of one server."""

    def __init__(self, context: Context) -> None:
        self.targets: list[Target] = []
        self._context = context

    def routes(self, routes: Sequence[Route], state: Target) -> None:
        """Add the targets of routes.

        Args:
            routes: The routes, in order.
            state: What holds for all of them, such as that TLS is terminated already.
        """
        for index, route in enumerate(routes):
            if len(self.targets) > TARGETS_MAX:
                self._context.report.loss(
                    route.place, "route", f"there are more than {TARGETS_MAX} routes: the others are left out"
                )
                return
            following: Target | None = None
            for matchers in route.sets or [[]]:
                try:
                    following = self._set(matchers, route, routes[index + 1 :], state)
                except PatternError as error:
                    self._context.report.loss(route.place, "route", f"{error}: the route is left out")
                    self._settle(route)
            if (
                not route.sets and following is not None
            ):  # handlers without proxy, such as tls, hold for later routes
                state = following

    def _set(
        self, matchers: Sequence[Matcher], route: Route, later: Sequence[Route], state: Target
    ) -> Target:
        """Add the targets of a route for one set of matchers; return what holds for later routes."""
        own = state
        excluded: list[Target] = []
        for matcher in matchers:
            if matcher.name == "not":
                excluded += [self._conditions(list(inner), state) for inner in matcher.sets]
            else:
                own = _joined(self._conditions([matcher], state), own, route.place)
        for each in excluded:
            whole = _joined(each, own, route.place)
            self.routes(later, whole)
            if not (later and _always_ends(later)):
                self.targets.append(evolve(whole, proxy=None, place=route.place, comments=Comments()))
        return self._handlers(route, evolve(own, place=route.place))

    def _conditions(self, matchers: Sequence[Matcher], state: Target) -> Target:
        found = evolve(state, conditions={}, needs_tls=False)
        for matcher in matchers:
            if matcher.name == "tls":
                found = _joined(
                    evolve(found, conditions=self._tls(matcher), needs_tls=True), found, matcher.place
                )
            elif matcher.name in ("remote_ip", "client_ip"):
                networks = tuple(
                    network
                    for option in matcher.options.values()
                    for text in option.values
                    for network in _networks(text)
                )
                found = _joined(evolve(found, conditions={"client": networks}), found, matcher.place)
            elif matcher.name == "proxy_protocol":
                self._context.report.note(
                    matcher.place,
                    "proxy_protocol",
                    "accept_proxy decides by the connection's address, not by the first bytes",
                )
            else:
                raise PatternError(f"the matcher {matcher.name} is not here")
        return found

    def _tls(self, matcher: Matcher) -> Mapping[str, tuple[str, ...]]:
        conditions: dict[str, tuple[str, ...]] = {}
        for name, option in matcher.options.items():
            if name == "sni":
                conditions["sni"] = tuple(
                    dict.fromkeys(each for value in option.values for each in names_of("str", value))
                )
            elif name == "sni_regexp":
                conditions["sni"] = tuple(
                    dict.fromkeys(each for value in option.values for each in names_of("reg", value))
                )
            elif name == "alpn":
                conditions["alpn"] = tuple(option.values)
            else:
                raise PatternError(f"the matcher tls {name} is not here")
        return conditions

    def _handlers(self, route: Route, state: Target) -> Target:
        """Add what the handlers of a route come to; return what holds for later routes."""
        ended = False
        for handler in route.handlers:
            if ended:
                self._context.report.note(
                    handler.place,
                    handler.name,
                    "never runs, since a handler before it ends the route: left out",
                )
            elif handler.name == "tls":
                state = evolve(state, tls=handler)
            elif handler.name == "proxy_protocol":
                state = evolve(state, header=handler)
            elif handler.name == "subroute":
                self.routes(handler.routes, state)
                ended = True
            elif handler.name == "proxy":
                self.targets.append(evolve(state, proxy=handler, comments=route.comments))
                ended = True
            elif handler.name == "close":
                self.targets.append(evolve(state, proxy=None, comments=route.comments))
                ended = True
            elif handler.name in _NOT_HERE:
                self._context.report.loss(handler.place, handler.name, "is not here: left out")
            else:
                self._context.report.loss(
                    handler.place, handler.name, "is no handler of layer4 that is known here: left out"
                )
        return state

    def _settle(self, route: Route) -> None:
        for handler in route.handlers:
            for option in (
                *handler.options.values(),
                *(option for each in handler.upstreams for option in each.options.values()),
            ):
                self._context.settle(option.place)


def _always_ends(routes: Sequence[Route]) -> bool:
    return any(
        not route.sets and any(handler.name in ("proxy", "close") for handler in route.handlers)
        for route in routes
    )


def _joined(one: Target, other: Target, place: Place) -> Target:
    """Return the state in which the conditions of both hold."""
    conditions = dict(other.conditions)
    for key, values in one.conditions.items():
        if key in conditions and conditions[key] != values:
            shared = tuple(value for value in values if value in conditions[key])
            if not shared:
                raise PatternError(f"two conditions about {key} exclude each other")
            conditions[key] = shared
        else:
            conditions[key] = values
    return evolve(other, conditions=conditions, needs_tls=one.needs_tls or other.needs_tls, place=place)


def _networks(text: str) -> list[str]:
    if text == "private_ranges":
        return list(_PRIVATE)
    try:
        return [str(ip_network(text, strict=False))]
    except ValueError:
        raise PatternError(f"{text} is no network") from None
