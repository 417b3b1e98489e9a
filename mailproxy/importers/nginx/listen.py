"""The listen directives of a server block."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import define

from mailproxy.address import TcpAddress
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, new_table
from mailproxy.importers.nginx.reader import Directive
from mailproxy.importers.place import NO_COMMENTS, VARIABLE_START, Origin
from mailproxy.importers.times import duration, number

_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PORTS_MAX = 256
_IGNORED = ("bind", "reuseport", "default_server", "default", "http2", "quic", "setfib", "deferred")
_IGNORED_WITH_VALUE = ("rcvbuf", "sndbuf", "accept_filter", "multipath")


@define
class Listen:
    """One address that a server block listens on.

    Attributes:
        row: The bind.
        port: Its port; None if it has none or it is not known.
        is_tls: Whether it has ``ssl``.
        takes_header: Whether it has ``proxy_protocol``.
    """

    row: Table
    port: int | None
    is_tls: bool
    takes_header: bool
    directive: Directive

    @property
    def address(self) -> str:
        """Its address as mailproxy writes it."""
        return str(self.row.get("address"))


def read_listen(directive: Directive, context: Context) -> list[Listen]:
    """Translate a listen directive: one bind for each port of a range."""
    words = directive.arguments
    context.settle(directive.place)
    if not words:
        context.report.loss(directive.place, "listen", "has no address, which nginx refuses: left out")
        return []
    if "udp" in words:
        context.report.loss(directive.place, "listen udp", "mail is TCP: left out")
        return []
    listens = []
    for address, port in _addresses(directive, context):
        row = new_table(directive)
        row.set("address", address, Origin(directive.place))
        listen = Listen(row, port, "ssl" in words, "proxy_protocol" in words, directive)
        if address.startswith("[") and "ipv6only=off" not in words:
            row.set("v6only", value=True, source=Origin(directive.place))
        for word in words[1:]:
            _parameter(listen, word, context)
        listens.append(listen)
    return listens


def _addresses(directive: Directive, context: Context) -> list[tuple[str, int | None]]:
    text = directive.arguments[0]
    if text.startswith("unix:"):
        return [(text, None)]
    host, _, ports = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if host.startswith("[") and not host.endswith("]"):
        host, ports = text, ""
    host = host or "*"
    if host == "localhost":
        host = "127.0.0.1"
    if host != "*" and VARIABLE_START not in host and not TcpAddress(host.strip("[]"), None).is_literal:
        context.report.loss(directive.place, "listen", f"{text}: a bind takes an IP address: left out")
        return []
    if host == "0.0.0.0":
        host = "*"
    if VARIABLE_START in ports:
        return [(f"{host}:{ports}", None)]
    match = _PORTS.fullmatch(ports)
    if match is None or not 0 <= int(match[2] or match[1]) - int(match[1]) < _PORTS_MAX:
        context.report.loss(directive.place, "listen", f"{text} has no port, or too many: left out")
        return []
    return [(f"{host}:{port}", port) for port in range(int(match[1]), int(match[2] or match[1]) + 1)]


def _parameter(listen: Listen, word: str, context: Context) -> None:
    name, equals, value = word.partition("=")
    row, source = listen.row, Origin(listen.directive.place)
    if name == "backlog" and (count := number(value)) is not None:
        row.set("backlog", count, source)
    elif name == "fastopen":
        row.set("fast_open", value=True, source=source)
    elif name == "so_keepalive":
        set_keepalive(row, value, source)
    elif (
        name in ("ssl", "proxy_protocol", "ipv6only")
        or name in _IGNORED
        or (equals and name in _IGNORED_WITH_VALUE)
    ):
        pass
    else:
        context.report.loss(listen.directive.place, f"listen {word}", "is not here: left out")


def set_keepalive(row: Table, value: str, source: Origin) -> None:
    """Set TCP keep-alive from ``on``, ``off`` or ``IDLE:INTERVAL:COUNT``."""
    if ":" not in value:
        row.set("keepalive", value == "on", source)
        return
    details = Table(place=source.place)
    for text, key in zip(value.split(":"), ("idle", "interval", "count"), strict=False):
        converted = number(text) if key == "count" else duration(text)
        if text and converted is not None:
            details.set(key, converted, source)
    row.keys["keepalive"] = details


def join_families(listens: Sequence[Listen]) -> list[Listen]:
    """Return the binds with ``*:993`` and ``[::]:993`` as one bind that takes both families, where they are alike."""
    twins = {listen.address: listen for listen in reversed(listens)}
    rest: list[Listen] = []
    for listen in listens:
        host, _, port = listen.address.rpartition(":")
        twin = twins.get(f"[::]:{port}") if host == "*" else None
        if twin is None or not _is_alike(listen, twin):
            rest.append(listen)
            continue
        twin.row.keys.pop("v6only", None)
        if listen.row.comments != NO_COMMENTS:
            twin.row.comments = listen.row.comments
    return rest


def _is_alike(listen: Listen, twin: Listen) -> bool:
    own = {key: item for key, item in listen.row.keys.items() if key != "address"}
    other = {key: item for key, item in twin.row.keys.items() if key not in ("address", "v6only")}
    return (twin.is_tls, twin.takes_header, other) == (listen.is_tls, listen.takes_header, own)
