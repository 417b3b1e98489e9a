"""Loops: servers that are binds of the same process, through which sessions come back to where they began.

A session in a loop connects to the proxy again and again, until there is no session left for other clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address

from attrs import frozen

from mailproxy.address import DescriptorAddress, TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.check_plan import matches_all, may_match
from mailproxy.config.lint.acceptance import conditions_to_accept
from mailproxy.config.path import ConfigPath, bind_path, server_path

_Node = tuple[str, int]  # a frontend's name and the index of one of its binds
IsLocal = Callable[[str], bool]
"""A function that returns whether an IP address is one of this machine."""
_REDIRECTED = ", or, where NAT redirects this one, the address that it leads to"


@frozen
class Loop:
    """A server through which sessions come back.

    Attributes:
        path: The path of the server.
        fact: What happens, and what to change.
        conditions: In words, the conditions under which it happens; empty if it always does.
    """

    path: ConfigPath
    fact: str
    conditions: tuple[str, ...]

    @property
    def is_certain(self) -> bool:
        """Whether every session that goes to the server comes back, whatever its client."""
        return not self.conditions


@frozen
class _Edge:
    """A connection from one bind to another: through a server whose address is that of the other bind.

    Attributes:
        target: The other bind.
        path: The path of the server.
        conditions: In words, the conditions under which sessions go there.
        may_be_redirected: Whether NAT may lead the server's address to another machine.
    """

    target: _Node
    path: ConfigPath
    conditions: tuple[str, ...]
    may_be_redirected: bool


def is_loopback(host: str) -> bool:
    """Whether connections to an address stay on the machine; those to the unspecified address do, too."""
    ip = ip_address(host)
    return ip.is_loopback or ip.is_unspecified


def find_loops(
    frontends: Mapping[str, model.Frontend],
    backends: Mapping[str, model.Backend],
    is_local: IsLocal = is_loopback,
) -> Iterable[Loop]:
    """Return one loop for each server that closes at least one, a certain loop if there is one.

    Args:
        frontends: All frontends.
        backends: All backends.
        is_local: Whether an address is one of this machine, so that a bind to all addresses listens there.
    """
    binds = _index(frontends)
    all_edges = {
        (name, index): list(_edges(frontend, index, binds, backends, is_local))
        for name, frontend in frontends.items()
        for index in range(len(frontend.bind))
    }
    certain = {node: [edge for edge in edges if not edge.conditions] for node, edges in all_edges.items()}
    loops: dict[ConfigPath, Loop] = {}
    for edges in (certain, all_edges):
        nodes = list(edges)
        for index, start in enumerate(nodes):
            for loop in _loops_from(start, edges, excluded=nodes[:index]):
                loops.setdefault(loop.path, loop)
    return loops.values()


def _loops_from(
    start: _Node, edges: Mapping[_Node, list[_Edge]], excluded: Iterable[_Node]
) -> Iterator[Loop]:
    """Yield the loops through a bind that pass none of the excluded binds, whose loops are found already."""
    stack: list[tuple[list[_Node], tuple[_Edge, ...]]] = [([start], ())]
    visited = {start, *excluded}
    while stack:
        chain, taken = stack.pop()
        for edge in edges[chain[-1]]:
            if edge.target == start:
                yield _loop(chain, (*taken, edge))
            elif edge.target not in visited:
                visited.add(edge.target)
                stack.append(([*chain, edge.target], (*taken, edge)))


def _loop(chain: list[_Node], edges: tuple[_Edge, ...]) -> Loop:
    conditions = tuple(dict.fromkeys(each for edge in edges for each in edge.conditions))
    first, *between = [str(bind_path(*node)) for node in chain]
    through = f" through {' and '.join(between)}" if between else ""
    condition = f", {' and '.join(conditions)}" if conditions else ""
    elsewhere = _REDIRECTED if edges[-1].may_be_redirected else ""
    return Loop(
        edges[-1].path,
        f"sessions of {first} come back to it{through}, without end{condition}: give the address of another server{elsewhere}",
        conditions,
    )


_Key = int | UnixAddress | DescriptorAddress | None


def _index(frontends: Mapping[str, model.Frontend]) -> Mapping[_Key, list[tuple[_Node, model.Bind]]]:
    """Return all binds by port, or by address for Unix sockets. So a server is compared with few of them."""
    binds: dict[_Key, list[tuple[_Node, model.Bind]]] = {}
    for frontend in frontends.values():
        for number, own in enumerate(frontend.bind):
            key = own.address.port if isinstance(own.address, TcpAddress) else own.address
            binds.setdefault(key, []).append(((frontend.name, number), own))
    return binds


def _edges(
    frontend: model.Frontend,
    index: int,
    binds: Mapping[_Key, list[tuple[_Node, model.Bind]]],
    backends: Mapping[str, model.Backend],
    is_local: IsLocal,
) -> Iterator[_Edge]:
    """Yield the connections from one bind of a frontend to the binds of all frontends."""
    bind = frontend.bind[index]
    port = bind.address.port if isinstance(bind.address, TcpAddress) else None
    for name, is_certain in _backends_of(frontend, bind, port or None):
        unrouted = () if is_certain else ("unless a route takes them elsewhere",)
        for server_index, server in enumerate(backends[name].servers if name in backends else ()):
            address = server.address
            key = (address.port or port) if isinstance(address, TcpAddress) else address
            for node, own in binds.get(key, ()):
                if not _is_same(server.address, own, port, is_local):
                    continue
                accepting = conditions_to_accept(server, frontend, bind, own, str(bind_path(*node)))
                yield _Edge(
                    node,
                    server_path(name, server_index),
                    (*unrouted, *_conditions_to_choose(server), *accepting),
                    _may_be_redirected(server.address),
                )


def _conditions_to_choose(server: model.Server) -> Iterator[str]:
    """Yield the conditions, in words, under which sessions go to a server; none if they always may."""
    if server.state != "ready":
        yield f'once its state is no longer "{server.state}"'
    if server.backup:
        yield "while the other servers are down"
    if not server.weight:
        yield "once its weight is above 0"


def _may_be_redirected(address: TcpAddress | UnixAddress) -> bool:
    return isinstance(address, TcpAddress) and address.is_literal and not is_loopback(address.host)


def _backends_of(frontend: model.Frontend, bind: model.Bind, port: int | None) -> Iterator[tuple[str, bool]]:
    """Yield the backends of a bind, and whether sessions that come back certainly go there again."""
    is_certain = True
    for route in frontend.routes:
        if not may_match(route, bind, port):
            continue
        matches_every_session = matches_all(route, bind, port)
        if route.backend is not None:
            yield route.backend, is_certain and matches_every_session
        if matches_every_session:
            return
        is_certain = False
    if frontend.backend is not None:
        yield frontend.backend, is_certain


def _is_same(
    server: TcpAddress | UnixAddress, bind: model.Bind, client_port: int | None, is_local: IsLocal
) -> bool:
    """Whether a connection to the server is one to the bind.

    Args:
        server: The address of the server.
        bind: The bind.
        client_port: The port that the client connected to, for servers without a port of their own.
        is_local: As in ``find_loops``.
    """
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
