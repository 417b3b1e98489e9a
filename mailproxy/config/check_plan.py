"""What a health check does, worked out: the connections that it makes, and what it speaks on each.

A check that takes a healthy server down is worse than none. So the protocol's own dialogue is chosen only where it is
known what the server speaks: because the configuration says so, because of the way that sessions come to it, or by a
registered port. Anywhere else the server only has to take the connection.

- Where TLS passes through the proxy, the server speaks TLS; there the proxy verifies nothing, so neither does the check.
- Where TLS ends at the proxy, the server is reached in clear, unless it has ``tls`` itself.
- Where bytes are forwarded nobody looks at them: they may be TLS or not, and only the port can tell.

What ways tell holds for the port that sessions come to, and for no other port that a check may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from attrs import frozen

from mailproxy.address import ServerAddress, TcpAddress, UnixAddress
from mailproxy.config import model

ProbeKind = Literal["tcp", "tls", "imap", "pop3", "smtp", "submission", "lmtp", "sieve", "script"]

# In clear, at least until STARTTLS. LMTP has none of its own (RFC 2033 section 3 only forbids 25); 24 is everybody's habit.
_CLEAR_PORTS: Mapping[model.Protocol, int] = {
    "imap": 143,
    "pop3": 110,
    "submission": 587,
    "smtp": 25,
    "lmtp": 24,
    "sieve": 4190,
}
_TLS_PORTS = frozenset({993, 995, 465})  # TLS from the first byte (RFC 8314), for whichever protocol
_PEEKING_MODES = ("tls", "passthrough")  # modes that wait for a ClientHello, so that a route can choose by it
_UNVERIFIED = model.ServerTls(verify="none")
_INHERIT = model.Connect()

MAIL = frozenset(_CLEAR_PORTS)


@frozen(kw_only=True)
class EntryPath:
    """How sessions come to a backend from one bind; ``bind`` is its place in the frontend's list, from 0.

    ``mode`` is what becomes of them there; ``port`` is the one that clients connected to, None where it cannot be known
    or there is none: a Unix socket, an inherited one, port 0.
    """

    frontend: str
    bind: int
    mode: model.BindMode
    port: int | None


@frozen(kw_only=True)
class Probe:
    """One connection of a check; all of them must pass.

    ``port`` is None for a Unix socket, and where it is not known yet. ``address`` is None for the server's own. Without
    ``tls`` it is in clear. ``steps`` are those of a script behind its connect, ``first`` is the number of the first of
    them in the whole script, in which connects count.
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
    """Every way that leads to this backend, by a frontend's own ``backend`` or by a route.

    ``listening`` has the ports of binds that the text does not tell, by frontend and number of the bind.
    """
    found: list[EntryPath] = []
    for frontend in frontends:
        for index, bind in enumerate(frontend.bind):
            port = (listening or {}).get((frontend.name, index)) or _port_of(bind.address) or None
            found += [
                EntryPath(frontend=frontend.name, bind=index, mode=mode, port=port)
                for mode, port in _entry_paths_from(frontend, bind, backend, port)
            ]
    return tuple(dict.fromkeys(found))


def _entry_paths_from(
    frontend: model.Frontend, bind: model.Bind, backend: str, port: int | None
) -> Iterator[tuple[model.BindMode, int | None]]:
    """The modes and ports in which sessions of this bind come to the backend."""
    for route in frontend.routes:
        if not may_fit(route, bind, port):
            continue
        if route.backend == backend:
            mode = route.mode if route.mode is not None and bind.mode in _PEEKING_MODES else bind.mode
            # a PROXY header may name another port than the bind's, and here it must have
            named = bool(route.port) and bool(bind.accept_proxy) and port not in route.port
            for each in route.port if named else (port,):
                yield mode, each
        if takes_all(route, bind, port):
            return  # and nothing is left for those behind it
    if frontend.backend == backend:
        yield bind.mode, port


def may_fit(route: model.Route, bind: model.Bind, port: int | None) -> bool:
    """Whether a route can match sessions of this bind. ``port``: that of the bind, None where it is not known."""
    if route.needs_client_hello and bind.mode not in _PEEKING_MODES:
        return False
    if not route.port or bind.accept_proxy:
        return True
    return port in route.port if port else not isinstance(bind.address, UnixAddress)


def takes_all(route: model.Route, bind: model.Bind, port: int | None) -> bool:
    """Whether a route that can match matches every session of this bind."""
    if route.needs_client_hello or route.client:
        return False
    return not route.port or (port in route.port and not bind.accept_proxy)


def probes(server: model.Server, protocol: model.Protocol, ways: Sequence[EntryPath]) -> tuple[Probe, ...]:
    """What a check of this server does, none without a check. ``protocol`` and ``ways`` are its backend's."""
    if server.check is None or server.check.type == "none":
        return ()
    planner = _Planner(server, server.check, protocol, tuple(ways))
    if server.check.type == "script":
        return tuple(planner.script())
    return tuple(map(planner.probe, planner.ports()))


def is_as_ended_sessions(
    server: model.Server, protocol: model.Protocol, ways: Sequence[EntryPath], probe: Probe
) -> bool:
    """Does the server see this connection as it sees sessions whose TLS ends at the proxy?

    Not where PROXY headers tell of the client's TLS, since a check's header tells of no client; and not where the check
    upgrades itself. ``protocol`` and ``ways`` are the backend's.
    """
    if server.check is None or probe.kind not in MAIL or probe.address is not None:
        return False
    sent = server.send_proxy or "none"
    tells_tls = (
        sent.startswith("v2-ssl")
        or server.forward_tlvs
        or any(tlv.startswith(("ssl-", "cert-", "client-")) for tlv in server.send_proxy_tlvs)
    )
    if tells_tls or probe.send_proxy != sent or probe.tls != server.tls:
        return False
    led = _Planner(server, server.check, protocol, tuple(ways)).ways_to(probe.port)
    return any(way.mode in ("tls", "starttls") for way in led)


def tls_of_checks(
    server: model.Server, protocol: model.Protocol, ways: Sequence[EntryPath]
) -> dict[model.ServerTls, str]:
    """The TLS that checks of this server use, each with its key in the server's table, ``check.tls`` where none is written.

    Those that name files are the same whatever the ways are.
    """
    places = {} if server.tls is None else {server.tls: "tls"}
    if server.check is not None:
        if isinstance(server.check.tls, model.ServerTls):
            places.setdefault(server.check.tls, "check.tls")
        for index, step in enumerate(server.check.steps):
            if step.connect is not None and isinstance(step.connect.tls, model.ServerTls):
                places.setdefault(step.connect.tls, f"check.steps[{index}].connect.tls")
    used = [probe.tls for probe in probes(server, protocol, ways) if probe.tls is not None]
    return {tls: places.get(tls, "check.tls") for tls in used}


@frozen
class _Planner:
    """The check of one server with all that it hangs on."""

    server: model.Server
    check: model.Check
    protocol: model.Protocol
    ways: tuple[EntryPath, ...]

    def ports(self) -> Sequence[int | None]:
        """Where an ordinary check connects to; None where there is no port, or none is known."""
        target, port = self._place(_INHERIT)
        if port is not None or isinstance(target or self.server.address, UnixAddress):
            return (port,)
        known = dict.fromkeys(way.port for way in self.ways if way.port is not None)
        return tuple(known) or (None,)

    def probe(self, port: int | None) -> Probe:
        """An ordinary check of one port."""
        check = self.check
        kind = self._default_kind(port) if check.type is None or check.type == "none" else check.type
        tls = self._tls(check.tls, port)
        send_proxy = check.send_proxy or self.server.send_proxy or "none"
        if (
            kind == "tcp"
        ):  # no more than a connection, but for what it is told; who is introduced then speaks as sessions do
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
        """The protocol's own dialogue, where it is known whether the server speaks it in clear or over TLS; else tcp."""
        if self.protocol == "tcp":
            return "tcp"
        is_known = self.check.tls is not None or self._tls(None, port) is not None
        is_clear = port == _CLEAR_PORTS[self.protocol] or any(
            way.mode in ("tls", "starttls") for way in self.ways_to(port)
        )
        return self.protocol if is_known or is_clear else "tcp"

    def script(self) -> Iterator[Probe]:
        """One connection for each connect; what stands before the first has one, too."""
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
        address, port = self._place(connect)
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

    def _place(self, connect: model.Connect) -> tuple[ServerAddress | None, int | None]:
        """The address, None for the server's, and the port."""
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

    def _tls(self, given: model.ServerTls | bool | None, port: int | None) -> model.ServerTls | None:
        """The TLS of a connection to this port, for which ``given`` is written."""
        if given is False:
            return None
        if isinstance(given, model.ServerTls):
            return given
        if given or self.server.tls is not None:
            return self.server.tls or model.ServerTls()
        modes = {way.mode for way in self.ways_to(port)}
        return _UNVERIFIED if modes == {"passthrough"} or port in _TLS_PORTS else None

    def ways_to(self, port: int | None) -> Sequence[EntryPath]:
        """The ways on which sessions come to this port of the server."""
        if isinstance(self.server.address, UnixAddress):
            return self.ways
        if self.server.address.port is not None:
            return self.ways if port == self.server.address.port else ()
        return [way for way in self.ways if way.port == port]


def _port_of(address: object) -> int | None:
    return address.port if isinstance(address, TcpAddress) else None
