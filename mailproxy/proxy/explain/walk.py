"""The walk of a client from the bind to the backend, in the order of ``Session.run``."""

from __future__ import annotations

import socket
from typing import cast

from mailproxy import config
from mailproxy.address import TcpAddress
from mailproxy.config.path import ConfigPath, bind_path, frontend_path
from mailproxy.config.units import write_duration
from mailproxy.errors import Fault
from mailproxy.log import end_reasons
from mailproxy.net.listener import Listener
from mailproxy.net.tls.handshake import TlsInfo
from mailproxy.protocol.client_hello import ClientHello
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.explain.connection import describe_timeouts
from mailproxy.proxy.explain.explanation import Explanation
from mailproxy.proxy.explain.question import Bound, Question, View
from mailproxy.proxy.explain.server_choice import choose_server
from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.session.routing import Route, Routes, terminates_tls

_CONDITIONS = ("sni", "alpn", "client", "port")


def explain(view: View, question: Question) -> Explanation:
    """Walk a client through the proxy.

    Raises:
        NoBindError: No bind fits the question, or several do.
    """
    bound = view.find_bind(question)
    return _Walk(view, question, bound).run()


class _Walk:
    def __init__(self, view: View, question: Question, bound: Bound) -> None:
        self._view = view
        self._question = question
        self._place = (bound.frontend, bound.number - 1)
        self._bind = view.bind_of(bound)
        self._frontend = view.config.frontends[bound.frontend]
        self._answer = Explanation(bound.frontend, bound.name)
        self._client = _client(view, question, bound)

    def run(self) -> Explanation:
        answer = self._answer
        if not self._accept():
            return answer
        self._receive_proxy_header()
        if not self._count_client():
            return answer
        if self._bind.mode == "starttls":
            self._upgrade()
        if self._bind.mode in ("tls", "passthrough", "starttls"):
            self._receive_client_hello()
        route = self._select_route()
        if answer.end is None and self._client.hello is not None:
            self._handshake(terminates_tls(self._bind, route))
        if answer.end is None:
            self._choose_server(route)
        return answer

    def _accept(self) -> bool:
        """Describe the bind. Return False if it refuses connections."""
        answer, bind, place = self._answer, self._bind, self._where(bind_path(*self._place))
        answer.add_step(
            f"The client {self._client.host or 'without an address'} connects to bind {answer.bind} of frontend "
            f"{answer.frontend}, {_mode(bind)} ({place})."
        )
        frontends = self._view.frontends
        if frontends is None:
            if self._frontend.max_sessions:
                answer.add_step(
                    f"With {self._frontend.max_sessions} sessions of the frontend (max_sessions), it would wait to be "
                    "accepted."
                )
            return True
        now, view = frontends[answer.frontend], self._view
        if now.state is not FrontendState.OPEN:
            how = "paused" if now.state is FrontendState.PAUSED else "shut down"
            answer.add_step(
                f"The operator has {how} the frontend, so the connection is refused and nothing is logged."
            )
            return False
        if 0 < now.limit <= now.sessions or 0 < view.max_sessions <= view.sessions:
            answer.add_step(
                f"The frontend has {now.sessions} sessions (limit {now.limit or 'none'}), the proxy {view.sessions} "
                f"(limit {view.max_sessions}): the connection waits in the accept queue until one ends."
            )
        return True

    def _receive_proxy_header(self) -> None:
        bind = self._bind
        if not bind.accept_proxy:
            return
        networks = ", ".join(map(str, bind.accept_proxy))
        others = "are clients themselves" if bind.proxy_optional else "are rejected"
        seconds = write_duration(self._frontend.timeouts.proxy_header)
        self._answer.add_step(
            f"Connections from {networks} must begin with a PROXY header within {seconds} "
            f"(timeouts.proxy_header), which names the client. Others {others} (accept_proxy)."
        )

    def _count_client(self) -> bool:
        """Describe the limits per client. Return False if one is reached."""
        answer, frontend = self._answer, self._frontend
        if not frontend.limits_clients:
            return True
        limits = []
        if frontend.max_sessions_per_client:
            limits.append(f"{frontend.max_sessions_per_client} sessions at once (max_sessions_per_client)")
        if (rate := frontend.max_session_rate_per_client) is not None:
            limits.append(f"{rate.count} in {write_duration(rate.per)} (max_session_rate_per_client)")
        answer.add_step(f"A client may have {' and '.join(limits)}.")
        frontends = self._view.frontends
        clients = frontends[answer.frontend].clients if frontends is not None else None
        if clients is not None and (reached := clients.limit_reached(self._client)):
            answer.refuse(end_reasons.CLIENT_LIMIT, reached)
            return False
        return True

    def _upgrade(self) -> None:
        """Tell of the greeting, and of STARTTLS. The client of the question upgrades."""
        bind, seconds = self._bind, write_duration(self._frontend.timeouts.negotiation)
        others = (
            "cannot log in"
            if self._frontend.requires_starttls(bind)
            else "is joined to a server in clear text"
        )
        self._answer.add_step(
            f"The proxy greets it in clear text. It has {seconds} for STARTTLS (timeouts.negotiation). A client that "
            f"does not upgrade {others} (starttls_required)."
        )

    def _receive_client_hello(self) -> None:
        """Describe the ClientHello. Only TLS binds read one, so elsewhere no route can go by it."""
        question, seconds = self._question, write_duration(self._frontend.timeouts.handshake)
        name = question.sni.lower().rstrip(".") if question.sni else None
        self._client.set_client_hello(
            ClientHello(
                server_name=name, authority=question.sni, alpn=tuple(each.encode() for each in question.alpn)
            )
        )
        offers = f", and offers {', '.join(question.alpn)} (ALPN)" if question.alpn else ""
        asks = f"asks for {name} (SNI)" if name else "asks for no server name"
        self._answer.add_step(
            f"Its ClientHello {asks}{offers}. It has {seconds} for TLS (timeouts.handshake)."
        )

    def _select_route(self) -> config.Route | None:
        """Select the route as a session does, and describe why the ones before it do not match."""
        answer, frontend = self._answer, self._frontend
        if self._client.hello is None and (self._question.sni or self._question.alpn):
            answer.add_step(
                f"A bind of mode {self._bind.mode} reads no ClientHello, so SNI and ALPN do not count."
            )
        routes = Routes(frontend.routes, frontend.name)
        selected = routes.select(self._client)
        path = frontend_path(frontend.name) / "routes"
        for index, route in enumerate(frontend.routes):
            if route is selected:
                answer.route = index
                keys = [key for key in _CONDITIONS if getattr(route, key) not in (None, ())]
                by = f" by {' and '.join(keys)}" if keys else ", which has no condition"
                goes = "rejects it" if route.reject else f"leads to backend {route.backend}"
                answer.add_step(f"Route {index} matches{by}, and {goes} ({self._where(path / index)}).")
                break
            unmet = " and ".join(self._unmet(route))
            answer.add_step(f"Route {index} does not match: {unmet} ({self._where(path / index)}).")
        if (refusal := routes.refusal(frontend, selected)) is not None:
            answer.refuse(*refusal)
        elif selected is None:
            none = "No route matches, so it" if frontend.routes else "It"
            where = self._where(frontend_path(frontend.name) / "backend")
            answer.add_step(f"{none} goes to the frontend's backend {frontend.backend} ({where}).")
        return selected

    def _unmet(self, route: config.Route) -> list[str]:
        """Return the conditions of a route that do not hold, each tried alone."""
        values = {key: getattr(route, key) for key in _CONDITIONS}
        return [
            key
            for key, value in values.items()
            if value not in (None, ()) and not Route(config.Route(**{key: value})).matches(self._client)
        ]

    def _handshake(self, terminates: bool) -> None:
        """Describe where TLS ends, and with which certificate."""
        answer, name = self._answer, cast("ClientHello", self._client.hello).server_name
        if not terminates:
            answer.add_step(
                "TLS is passed through: the server makes the handshake, with its own certificate."
            )
            return
        terminator = self._view.terminators.get(self._place)
        if terminator is None:
            answer.add_step("TLS ends here, but the certificates of the bind cannot be loaded.")
            return
        selection = terminator.select(name)
        if selection is None:
            request = "no name" if name is None else f"{name}, which no certificate has"
            answer.refuse(end_reasons.HANDSHAKE_FAILED, f"the client asks for {request} (strict_sni)")
            return
        first = selection.certificates[0]
        if first.placeholder == "refuse":
            fact = f"the certificate {first.path} has not been obtained yet (until_ready = refuse)"
            answer.refuse(end_reasons.HANDSHAKE_FAILED, fact)
            return
        answer.certificate = str(first.path)
        files = " or ".join(
            f"{each.path} ({each.key_algorithm or 'other key'})" for each in selection.certificates
        )
        names = {label for each in selection.certificates for label in each.names}
        is_named = name is not None and (name in names or f"*.{name.partition('.')[2]}" in names)
        why = (
            f"because it has the name {name}"
            if is_named
            else "the default, because no certificate has the name"
        )
        if name is None:
            why = "the default, because the client asks for no name"
        answer.add_step(f"TLS ends here, with the certificate {files}: {why}.")
        if first.placeholder is not None:
            answer.add_step("That one is self-signed, until ACME has obtained the certificate (until_ready).")
        self._agree_on_protocol()

    def _agree_on_protocol(self) -> None:
        """Describe ALPN and client certificates. What the handshake yields decides nothing later."""
        tls = self._bind.tls
        assert tls is not None  # noqa: S101 - it has a terminator
        agreed = next((each for each in tls.alpn if each in self._question.alpn), None)
        if agreed is not None:
            self._answer.add_step(f"The application protocol is {agreed} (ALPN).")
        if tls.client_verify != "none":
            how = "must" if tls.client_verify == "required" else "may"
            self._answer.add_step(f"The client {how} have a certificate of {tls.client_ca} (client_verify).")
        self._client.tls = TlsInfo(version=None, cipher=None, alpn=agreed)

    def _choose_server(self, route: config.Route | None) -> None:
        name = (route and route.backend) or self._frontend.backend
        assert name is not None  # noqa: S101 - else it was refused
        self._answer.backend = name
        backend = self._view.backends[name]
        choose_server(self._answer, backend, self._client, self._view)
        if self._answer.end is None:
            describe_timeouts(self._answer, self._frontend, backend.config)

    def _where(self, path: ConfigPath) -> str:
        """Return a key with its line in the file."""
        fault = self._view.config.source_map.locate(Fault(path, ""))
        return str(path) if fault.line is None else f"{path}, line {fault.line}"


def _mode(bind: config.Bind) -> str:
    match bind.mode:
        case "tls":
            return "which terminates TLS"
        case "passthrough":
            return "which passes TLS through"
        case "starttls":
            return "which terminates TLS after STARTTLS"
        case _:
            return f"mode {bind.mode}"


def _client(view: View, question: Question, bound: Bound) -> ClientInfo:
    """Return what sessions would know of the client.

    There is no listener and no socket. What decides reads neither, because the destination is known.
    """
    bind = view.bind_of(bound)
    host = bind.address.host if isinstance(bind.address, TcpAddress) else ""
    if host in ("", "*", "::"):  # the address of this machine that the client connects to is not known
        host = "::" if ":" in question.client else "0.0.0.0"
    return ClientInfo(
        cast("Listener", None),
        (question.client, 0) if view.has_address(bound) else None,
        cast("socket.socket", None),
        destination=(host, question.port),
    )
