"""Chains of binds and servers in one process that return to where they began.

A session of such a chain connects to the proxy again and again, until no session is left for anybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address

from attrs import frozen

from mailproxy.address import TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.probes import may_fit, takes_all

_Node = tuple[str, int]  # a frontend's name and the place of one of its binds
IsLocal = Callable[[str], bool]
"""Tells whether an IP address is one of this machine."""


@frozen
class Loop:
    """A server by which sessions return. ``is_certain``: each session that gets there does, whatever client it has."""

    path: str
    fact: str
    is_certain: bool


@frozen
class _Edge:
    """A way from a bind to another one: the server that is that bind."""

    target: _Node
    path: str
    is_certain: bool


def is_loopback(host: str) -> bool:
    """Whether an address stays on its machine, whichever that is; connections to the unspecified address do, too."""
    ip = ip_address(host)
    return ip.is_loopback or ip.is_unspecified


def find_loops(
    frontends: Mapping[str, model.Frontend],
    backends: Mapping[str, model.Backend],
    is_local: IsLocal = is_loopback,
) -> Iterator[Loop]:
    """Every loop once. ``is_local`` decides which servers a bind to all addresses is."""
    edges = {
        (name, index): list(_edges(frontend, index, frontends, backends, is_local))
        for name, frontend in frontends.items()
        for index in range(len(frontend.bind))
    }
    seen: set[frozenset[_Node]] = set()
    for start in edges:
        yield from _loops_from(start, edges, seen)


def _loops_from(
    start: _Node, edges: Mapping[_Node, list[_Edge]], seen: set[frozenset[_Node]]
) -> Iterator[Loop]:
    stack: list[tuple[list[_Node], bool]] = [([start], True)]
    visited = {start}
    while stack:
        chain, is_certain = stack.pop()
        for edge in edges[chain[-1]]:
            if edge.target == start and frozenset(chain) not in seen:
                seen.add(frozenset(chain))
                yield Loop(edge.path, _in_words(chain), is_certain and edge.is_certain)
            elif edge.target not in visited:
                visited.add(edge.target)
                stack.append(([*chain, edge.target], is_certain and edge.is_certain))


def _in_words(chain: list[_Node]) -> str:
    first, *between = [f"frontends.{name}.bind[{index}]" for name, index in chain]
    by_way = f" by way of {' and '.join(between)}" if between else ""
    return f"sessions of {first} come back to it{by_way}, without end: give the address of another server"


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
        for place, server in enumerate(backends[name].servers if name in backends else ()):
            for other in frontends.values():
                for number, own in enumerate(other.bind):
                    if _is_same(server.address, own, port, is_local):
                        yield _Edge(
                            (other.name, number),
                            f"backends.{name}.servers[{place}]",
                            is_certain and not server.backup and server.weight > 0,
                        )


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
