"""Server blocks of the mail module: frontends without a backend, because the login decides the server."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.importers.context import Context
from mailproxy.importers.draft import new_table
from mailproxy.importers.names import name_of_port, unused_name
from mailproxy.importers.nginx.reader import Directive
from mailproxy.importers.nginx.scope import Scope
from mailproxy.importers.nginx.stream import read_listens, write_binds
from mailproxy.importers.nginx.tls import client_tls
from mailproxy.importers.place import Origin
from mailproxy.importers.ports import guess_protocol

_PROXY_TIMEOUT = "1d"  # nginx's default: 24h
_TIMEOUT = "1m"
_PROTOCOLS = ("imap", "pop3", "smtp")


def translate_mail(block: Directive, around: Sequence[Directive], context: Context) -> None:
    """Translate a server block of the mail module."""
    scope = Scope(context, [block, *around])
    listens = read_listens(scope)
    if not listens:
        context.report.loss(
            block.place, "server", "has no address to listen on that mailproxy can have: left out"
        )
        for each in block.block or ():
            context.settle(each.place)
        return
    frontends = context.draft.table("frontends")
    ports = [listen.port for listen in listens]
    frontend = new_table(block)
    name = unused_name(name_of_port(ports[0]), frontends.keys)
    frontends.keys[name] = frontend
    write_binds(frontend, listens, scope)
    given = scope.last("protocol")
    protocol = guess_protocol(ports, [], name)
    if (
        given is not None
        and given.arguments[0] in _PROTOCOLS
        and (given.arguments[0] != "smtp" or protocol != "submission")
    ):
        protocol = given.arguments[0]
    frontend.set("protocol", protocol, given)
    timeout = scope.duration("proxy_timeout")
    frontend.table("timeouts").set(
        "client", _PROXY_TIMEOUT if timeout is None else timeout[0], None if timeout is None else timeout[1]
    )
    _starttls(scope, name)
    _dialogue(scope, name, protocol)
    _servers(scope)
    for name in (
        "server_name",
        "resolver",
        "ssl",
        "smtp_capabilities",
        "imap_capabilities",
        "pop3_capabilities",
        "smtp_greeting_delay",
    ):
        scope.all(name)


def _starttls(scope: Scope, name: str) -> None:
    switch = scope.last("starttls")
    frontend = scope.context.draft.table("frontends").table(name)
    timeout = scope.duration("timeout")
    if switch is None or switch.arguments[0] not in ("on", "only"):
        if timeout is not None:
            scope.context.report.note(
                timeout[1].place,
                "timeout",
                "the server limits the time before the login, where the proxy does not speak itself",
            )
        return
    for row in frontend.rows("bind"):
        if "mode" not in row:
            row.set("mode", "starttls", switch)
            row.set("starttls_required", switch.arguments[0] == "only", Origin(switch.place))
    if "tls" not in frontend:
        frontend.keys["tls"] = client_tls(scope)
    frontend.table("timeouts").set(
        "negotiation", _TIMEOUT if timeout is None else timeout[0], None if timeout is None else timeout[1]
    )


def _dialogue(scope: Scope, name: str, protocol: str) -> None:
    """Translate what nginx says to clients before the login."""
    frontend = scope.context.draft.table("frontends").table(name)
    if protocol in ("smtp", "submission"):
        delay = scope.duration("smtp_greeting_delay")
        if delay is not None:
            frontend.set("greeting_delay", delay[0], delay[1])
    errors = scope.number("max_errors")
    if errors is not None:
        frontend.set("max_errors", errors[0], errors[1])
    directive = scope.last(f"{'smtp' if protocol == 'submission' else protocol}_capabilities")
    if directive is not None:
        if any(row.get("mode") == "starttls" for row in frontend.rows("bind")):
            frontend.set("capabilities", list(directive.arguments), directive)
        else:
            scope.context.report.note(
                directive.place, directive.name, "not needed: the client asks the server"
            )


def _servers(scope: Scope) -> None:
    """Report what belongs to servers, which are not in the file."""
    auth = scope.last("auth_http")
    if auth is None:
        scope.context.report.note(
            scope.block.place, "server", "has no auth_http, which nginx refuses: give the frontend a backend"
        )
    else:
        scope.context.report.loss(
            auth.place,
            "auth_http",
            "the login decides the server, and mailproxy reads no login: give the frontend a backend",
        )
    header = scope.last("proxy_protocol")
    if header is not None and header.arguments[0] != "off":
        scope.context.report.loss(
            header.place,
            "proxy_protocol",
            'the servers are not in the file: give their backend send_proxy = "v1"',
        )
    xclient = scope.last("xclient")
    if xclient is not None and xclient.arguments[0] == "on":
        scope.context.report.loss(
            xclient.place,
            "xclient",
            'the servers are not in the file: give their backend send_proxy = "v2", or identity = "xclient"',
        )
