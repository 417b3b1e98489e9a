"""What a health check does: the connections that it makes, and what it sends and expects on each.

A check that takes a healthy server down is worse than none. So the protocol's own dialogue is chosen only
where it is known what the server speaks. That is known from the configuration, from the entry paths of
sessions, or from a registered port. Anywhere else a check only connects.

- Where TLS passes through the proxy, the server speaks TLS. The proxy verifies nothing there, so neither does
  the check.
- Where TLS is terminated at the proxy, the server is reached in clear, unless it has ``tls`` itself.
- Where bytes are forwarded, the proxy does not look at them. They may be TLS or not, and only the port tells
  which.

An entry path tells about the port that its sessions go to, and about no other port that a check may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from attrs import frozen

from mailproxy.address import ServerAddress, TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.path import ROOT_PATH, ConfigPath

ProbeKind = Literal["tcp", "tls", "imap", "pop3", "smtp", "submission", "lmtp", "sieve", "script"]

# In clear, at least until STARTTLS. LMTP has no registered port (RFC 2033 section 3 only forbids 25); 24 is
# customary.
_CLEAR_PORTS: Mapping[model.Protocol, int] = {
    "imap": 143,
    "pop3": 110,
    "submission": 587,
    "smtp": 25,
    "lmtp": 24,
    "sieve": 4190,
}
_TLS_PORTS = frozenset({993, 995, 465})  # TLS from the first byte (RFC 8314), whatever the protocol
_PEEKING_MODES = ("tls", "passthrough")  # modes that wait for a ClientHello, so that a route can choose by it
_UNVERIFIED = model.ServerTls(verify="none")
_INHERIT = model.Connect()

MAIL = frozenset(_CLEAR_PORTS)


@frozen(kw_only=True)
class EntryPath:
    """A way in which sessions get to a backend: through one bind of a frontend.

    Attributes:
        frontend: The frontend's name.
        bind: The index of the bind in the frontend's list.
        mode: What happens to the bytes of these sessions.
        port: The port that clients connected to. None where there is none or it is not known: a Unix socket,
            an inherited socket, port 0.
    """

    frontend: str
    bind: int
    mode: model.BindMode
    port: int | None


@frozen(kw_only=True)
class Probe:
    """One connection of a check. A check passes if all of its connections pass.

    Attributes:
        kind: What is done on the connection.
        protocol: The backend's.
        port: None for a Unix socket, and while the port is not known.
        address: None for the server's own.
        tls: None for a connection in clear.
        send_proxy: The PROXY header to send.
        steps: The steps of a script on this connection, without its connect.
        first: The number of the first of these steps in the whole script, from 1; connects count.
        hello: The name for EHLO or LHLO; None for the default.
    """

    kind: ProbeKind
    protocol: model.Protocol
    port: int | None
    address: ServerAddress | None
    tls: model.ServerTls | None
    send_proxy: model.SendProxy
    steps: tuple[model.Step, ...] = ()
    first: int = 1
    hello: str | None = None


def entry_paths(
    frontends: Iterable[model.Frontend],
    backend: str,
    listening: Mapping[tuple[str, int], int] | None = None,
) -> tuple[EntryPath, ...]:
    """Return every entry path to a backend, through a frontend's own ``backend`` or through a route.

    Args:
        frontends: All frontends.
        backend: The backend's name.
        listening: The ports of listeners where the configuration has none, by frontend and index of the bind.
    """
    entries: list[EntryPath] = []
    for frontend in frontends:
        for index, bind in enumerate(frontend.bind):
            port = (listening or {}).get((frontend.name, index)) or _port_of(bind.address) or None
            entries += [
                EntryPath(frontend=frontend.name, bind=index, mode=mode, port=port)
                for mode, port in _entry_paths_from(frontend, bind, backend, port)
            ]
    return tuple(dict.fromkeys(entries))


def _entry_paths_from(
    frontend: model.Frontend, bind: model.Bind, backend: str, port: int | None
) -> Iterator[tuple[model.BindMode, int | None]]:
    """Yield mode and port of sessions that come from this bind to the backend."""
    for route in frontend.routes:
        if not may_match(route, bind, port):
            continue
        if route.backend == backend:
            mode = route.mode if route.mode is not None and bind.mode in _PEEKING_MODES else bind.mode
            # A PROXY header may name another port than the bind's. Sessions that match have one of the
            # route's ports.
            named = bool(route.port) and bool(bind.accept_proxy) and port not in route.port
            for each in route.port if named else (port,):
                yield mode, each
        if matches_all(route, bind, port):
            return  # no session is left for the routes after it
    if frontend.backend == backend:
        yield bind.mode, port


def may_match(route: model.Route, bind: model.Bind, port: int | None) -> bool:
    """Whether a route can match sessions of this bind.

    Args:
        route: A route of the bind's frontend.
        bind: The bind.
        port: Its port; None where it is not known.
    """
    if route.needs_client_hello and bind.mode not in (*_PEEKING_MODES, "starttls"):
        return False
    if not route.port or bind.accept_proxy:
        return True
    return port in route.port if port else not isinstance(bind.address, UnixAddress)


def matches_all(route: model.Route, bind: model.Bind, port: int | None) -> bool:
    """Whether a route that may match sessions of this bind matches each of them."""
    if route.needs_client_hello or route.client:
        return False
    return not route.port or (port in route.port and not bind.accept_proxy)


def plan_probes(
    server: model.Server, protocol: model.Protocol, entries: Sequence[EntryPath]
) -> tuple[Probe, ...]:
    """Return the connections of a server's check; none if it has no check.

    Args:
        server: The server.
        protocol: Its backend's.
        entries: The entry paths to its backend.
    """
    if server.check is None or server.check.type == "none":
        return ()
    planner = _Planner(server, server.check, protocol, tuple(entries))
    if server.check.type == "script":
        return tuple(planner.script())
    return tuple(map(planner.probe, planner.ports()))


def is_like_terminated_session(
    server: model.Server, protocol: model.Protocol, entries: Sequence[EntryPath], probe: Probe
) -> bool:
    """Whether a check looks to the server like a session whose TLS is terminated at the proxy.

    It does not if PROXY headers have facts of the client's TLS, because a check's header has none. Nor does
    it if the check makes other TLS than sessions, such as STARTTLS.

    Args:
        server: The server.
        protocol: Its backend's.
        entries: The entry paths to its backend.
        probe: The connection.
    """
    if server.check is None or probe.kind not in MAIL or probe.address is not None:
        return False
    is_same_header = probe.send_proxy == (server.send_proxy or "none") and not server.sends_tls_facts
    if not is_same_header or probe.tls != server.tls:
        return False
    planner = _Planner(server, server.check, protocol, tuple(entries))
    return any(entry.mode in ("tls", "starttls") for entry in planner.entries_to(probe.port))


def tls_of_checks(
    server: model.Server, protocol: model.Protocol, entries: Sequence[EntryPath]
) -> dict[model.ServerTls, ConfigPath]:
    """Return the TLS of each connection of a server's check, with its path in the server's table.

    The path is ``check.tls`` where none is written. TLS that names files does not depend on the entry paths.

    Args:
        server: The server.
        protocol: Its backend's.
        entries: The entry paths to its backend.
    """
    default = ROOT_PATH / "check" / "tls"
    paths = {} if server.tls is None else {server.tls: ROOT_PATH / "tls"}
    if server.check is not None:
        if isinstance(server.check.tls, model.ServerTls):
            paths.setdefault(server.check.tls, default)
        for index, step in enumerate(server.check.steps):
            if step.connect is not None and isinstance(step.connect.tls, model.ServerTls):
                paths.setdefault(
                    step.connect.tls, ROOT_PATH.joinpath("check", "steps", index, "connect", "tls")
                )
    used = [probe.tls for probe in plan_probes(server, protocol, entries) if probe.tls is not None]
    return {tls: paths.get(tls, default) for tls in used}


@frozen
class _Planner:
    """Plans the check of one server, with everything that the plan depends on."""

    server: model.Server
    check: model.Check
    protocol: model.Protocol
    entries: tuple[EntryPath, ...]

    def ports(self) -> Sequence[int | None]:
        """Return the ports that a check without script connects to; None is a port that is not known."""
        address, port = self._target(_INHERIT)
        if port is not None or isinstance(address or self.server.address, UnixAddress):
            return (port,)
        known = dict.fromkeys(entry.port for entry in self.entries if entry.port is not None)
        return tuple(known) or (None,)

    def probe(self, port: int | None) -> Probe:
        """Return the connection of a check without script to one port."""
        check = self.check
        kind = self._default_kind(port) if check.type is None or check.type == "none" else check.type
        tls = self._tls(check.tls, port)
        send_proxy = check.send_proxy or self.server.send_proxy or "none"
        if kind == "tcp":
            # Such a check only connects, unless it has TLS or a PROXY header of its own. A server that gets a
            # header expects TLS next, as in sessions.
            tls = None if check.tls is None and check.send_proxy in (None, "none") else tls
            send_proxy = check.send_proxy or "none"
        if kind == "tls" and tls is None:
            tls = model.ServerTls()
        return Probe(
            kind=kind,
            protocol=self.protocol,
            port=port,
            address=check.address,
            tls=tls,
            send_proxy=send_proxy,
            hello=check.hello,
        )

    def _default_kind(self, port: int | None) -> ProbeKind:
        """Return the protocol's dialogue if it is known whether the port has TLS, else ``tcp``."""
        if self.protocol == "tcp":
            return "tcp"
        is_known = self.check.tls is not None or self._tls(None, port) is not None
        is_clear = port == _CLEAR_PORTS[self.protocol] or any(
            entry.mode in ("tls", "starttls") for entry in self.entries_to(port)
        )
        return self.protocol if is_known or is_clear else "tcp"

    def script(self) -> Iterator[Probe]:
        """Yield one connection for each connect of a script, and one for steps before the first connect."""
        connections: list[tuple[int, model.Connect, list[model.Step]]] = []
        for number, step in enumerate(self.check.steps, 1):
            if step.connect is not None:
                connections.append((number + 1, step.connect, []))
                continue
            if not connections:
                connections.append((number, _INHERIT, []))
            connections[-1][2].append(step)
        for first, connect, steps in connections:
            yield self._connection(connect, tuple(steps), first)

    def _connection(self, connect: model.Connect, steps: tuple[model.Step, ...], first: int) -> Probe:
        check = self.check
        address, port = self._target(connect)
        tls = check.tls if connect.tls is None else connect.tls
        return Probe(
            kind="script",
            protocol=self.protocol,
            port=port,
            address=address,
            tls=self._tls(tls, port),
            send_proxy=connect.send_proxy or check.send_proxy or self.server.send_proxy or "none",
            steps=steps,
            first=first,
        )

    def _target(self, connect: model.Connect) -> tuple[ServerAddress | None, int | None]:
        """Return the address to connect to, None for the server's, and the port."""
        address = connect.address or self.check.address
        target = address or self.server.address
        if isinstance(target, UnixAddress):
            return address, None
        ports = (
            connect.port,
            _port_of(connect.address),
            self.check.port,
            target.port,
            _port_of(self.server.address),
        )
        return address, next((port for port in ports if port is not None), None)

    def _tls(self, value: model.ServerTls | bool | None, port: int | None) -> model.ServerTls | None:
        """Return the TLS of a connection to this port, by the value of its ``tls``."""
        if value is False:
            return None
        if isinstance(value, model.ServerTls):
            return value
        if value or self.server.tls is not None:
            return self.server.tls or model.ServerTls()
        modes = {entry.mode for entry in self.entries_to(port)}
        return _UNVERIFIED if modes == {"passthrough"} or port in _TLS_PORTS else None

    def entries_to(self, port: int | None) -> Sequence[EntryPath]:
        """Return the entry paths whose sessions go to this port of the server."""
        if isinstance(self.server.address, UnixAddress):
            return self.entries
        if self.server.address.port is not None:
            return self.entries if port == self.server.address.port else ()
        return [entry for entry in self.entries if entry.port == port]


def _port_of(address: object) -> int | None:
    return address.port if isinstance(address, TcpAddress) else None
