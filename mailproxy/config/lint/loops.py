"""Chains of binds and servers in one process that return to where they began.

A session of such a chain connects to the proxy again and again, until no session is left for anybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address

from attrs import frozen

from mailproxy.address import TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.check_plan import may_fit, takes_all
from mailproxy.config.lint.acceptance import conditions_to_accept
from mailproxy.config.path import ROOT_PATH, ConfigPath

_Node = tuple[str, int]  # a frontend's name and the place of one of its binds
IsLocal = Callable[[str], bool]
"""Tells whether an IP address is one of this machine."""
_REDIRECTED = ", or, where NAT redirects this one, the address that it leads to"


@frozen
class Loop:
    """A server by which sessions return; ``conditions`` in words under which they do, none where they do in any case."""

    path: ConfigPath
    fact: str
    conditions: tuple[str, ...]

    @property
    def is_certain(self) -> bool:
        """Whether each session that gets there returns, whatever client it has."""
        return not self.conditions


@frozen
class _Edge:
    """A way from a bind to another one: the server that is that bind, and the conditions under which sessions take it."""

    target: _Node
    path: ConfigPath
    conditions: tuple[str, ...]
    may_be_redirected: bool


def is_loopback(host: str) -> bool:
    """Whether an address stays on its machine, whichever that is; connections to the unspecified address do, too."""
    ip = ip_address(host)
    return ip.is_loopback or ip.is_unspecified


def find_loops(
    frontends: Mapping[str, model.Frontend],
    backends: Mapping[str, model.Backend],
    is_local: IsLocal = is_loopback,
) -> Iterable[Loop]:
    """One loop for each server that closes some, a certain one if there is one.

    ``is_local`` decides which servers a bind to all addresses is.
    """
    ways = {
        (name, index): list(_edges(frontend, index, frontends, backends, is_local))
        for name, frontend in frontends.items()
        for index in range(len(frontend.bind))
    }
    certain = {node: [edge for edge in edges if not edge.conditions] for node, edges in ways.items()}
    loops: dict[ConfigPath, Loop] = {}
    for edges in (certain, ways):
        nodes = list(edges)
        for place, start in enumerate(nodes):
            for loop in _loops_from(start, edges, before=nodes[:place]):
                loops.setdefault(loop.path, loop)
    return loops.values()


def _loops_from(start: _Node, ways: Mapping[_Node, list[_Edge]], before: Iterable[_Node]) -> Iterator[Loop]:
    """Those that return to ``start`` without passing the binds ``before`` it, from which they were found already."""
    stack: list[tuple[list[_Node], tuple[_Edge, ...]]] = [([start], ())]
    visited = {start, *before}
    while stack:
        chain, taken = stack.pop()
        for edge in ways[chain[-1]]:
            if edge.target == start:
                yield _loop(chain, (*taken, edge))
            elif edge.target not in visited:
                visited.add(edge.target)
                stack.append(([*chain, edge.target], (*taken, edge)))


def _loop(chain: list[_Node], edges: tuple[_Edge, ...]) -> Loop:
    conditions = tuple(dict.fromkeys(each for edge in edges for each in edge.conditions))
    first, *between = [str(_bind_path(node)) for node in chain]
    by_way = f" by way of {' and '.join(between)}" if between else ""
    when = f", {' and '.join(conditions)}" if conditions else ""
    elsewhere = _REDIRECTED if edges[-1].may_be_redirected else ""
    return Loop(
        edges[-1].path,
        f"sessions of {first} come back to it{by_way}, without end{when}: give the address of another server{elsewhere}",
        conditions,
    )


def _bind_path(node: _Node) -> ConfigPath:
    name, index = node
    return ROOT_PATH / "frontends" / name / "bind" / index


def _edges(
    frontend: model.Frontend,
    index: int,
    frontends: Mapping[str, model.Frontend],
    backends: Mapping[str, model.Backend],
    is_local: IsLocal,
) -> Iterator[_Edge]:
    bind = frontend.bind[index]
    port = bind.address.port if isinstance(bind.address, TcpAddress) else None
    for name, is_certain in _backends_of(frontend, bind, port or None):
        unrouted = () if is_certain else ("unless a route takes them elsewhere",)
        for place, server in enumerate(backends[name].servers if name in backends else ()):
            for other in frontends.values():
                for number, own in enumerate(other.bind):
                    if not _is_same(server.address, own, port, is_local):
                        continue
                    target = str(_bind_path((other.name, number)))
                    yield _Edge(
                        (other.name, number),
                        ROOT_PATH / "backends" / name / "servers" / place,
                        (
                            *unrouted,
                            *_conditions_to_choose(server),
                            *conditions_to_accept(server, frontend, bind, own, target),
                        ),
                        _may_be_redirected(server.address),
                    )


def _conditions_to_choose(server: model.Server) -> Iterator[str]:
    """In words, when sessions go to a server; nothing where they always may."""
    if server.state != "ready":
        yield f'once its state is no longer "{server.state}"'
    if server.backup:
        yield "while the other servers are down"
    if not server.weight:
        yield "once its weight is above 0"


def _may_be_redirected(address: TcpAddress | UnixAddress) -> bool:
    return isinstance(address, TcpAddress) and address.is_literal and not is_loopback(address.host)


def _backends_of(frontend: model.Frontend, bind: model.Bind, port: int | None) -> Iterator[tuple[str, bool]]:
    """The backends of a bind's sessions; with whether the sessions that come back get there again for certain."""
    is_certain = True
    for route in frontend.routes:
        if not may_fit(route, bind, port):
            continue
        takes_every_session = takes_all(route, bind, port)
        if route.backend is not None:
            yield route.backend, is_certain and takes_every_session
        if takes_every_session:
            return
        is_certain = False
    if frontend.backend is not None:
        yield frontend.backend, is_certain


def _is_same(
    server: TcpAddress | UnixAddress, bind: model.Bind, client_port: int | None, is_local: IsLocal
) -> bool:
    """Whether a connection to the server is one to the bind. ``client_port`` is that of a server without one."""
    own = bind.address
    if isinstance(server, UnixAddress) or not isinstance(own, TcpAddress):
        return server == own
    port = server.port or client_port
    if not port or own.port != port or bind.interface is not None:
        return False
    hosts = ("127.0.0.1", "::1") if server.host == "localhost" else (server.host,)
    if not server.is_literal and server.host != "localhost":
        return False
    return any(_takes(own.host, host, bind.v6only, is_local) for host in hosts)


def _takes(own: str, host: str, v6only: bool, is_local: IsLocal) -> bool:
    if own == host:
        return True
    if own in ("*", "0.0.0.0"):
        return ":" not in host and is_local(host)
    return own == "::" and (":" in host or not v6only) and is_local(host)
