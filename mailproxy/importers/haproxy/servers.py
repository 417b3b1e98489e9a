"""The server and default-server lines of a backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from attrs import define, field

from mailproxy.importers.context import Context
from mailproxy.importers.directive import Directive, Group, index, loss, note
from mailproxy.importers.draft import Scalar, Table
from mailproxy.importers.haproxy.addresses import AddressError, server_address
from mailproxy.importers.haproxy.binds import read_parameters
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.reader import path_of
from mailproxy.importers.haproxy.settings import Settings
from mailproxy.importers.haproxy.tls import SHARED_TLS, apply_options
from mailproxy.importers.haproxy.values import duration, number
from mailproxy.importers.names import settled_name
from mailproxy.importers.place import Origin, Place, Word, has_variable

_NAME_FETCH = re.compile(r"str\((.*)\)")
_SEND_PROXY = {
    "send-proxy": "v1",
    "send-proxy-v2": "v2",
    "send-proxy-v2-ssl": "v2-ssl",
    "send-proxy-v2-ssl-cn": "v2-ssl-cn",
}
_TLVS = {"crc32c": "crc32c", "unique-id": "unique-id", "authority": "authority", "ssl-cipher": "ssl-cipher", "cert-sig": "cert-sig",
         "cert-key": "cert-key"}  # fmt: skip


@define
class ServerLine:
    """One server line in translation, with what default-server lines before it say.

    Attributes:
        row: Its table.
        keys: The keys that a backend can have for all its servers, such as ``send_proxy``.
        tls: Its TLS, which counts if ``has_tls``.
        names_server: Whether it says which name the certificate must have.
        has_system_ca: Whether it names the system's CAs.
        check: Intervals and counts of its check, which counts if ``is_checked``.
        check_target: Port and address of the check, if they are not the server's.
        check_tls: Whether checks have TLS; None for the default.
        check_sends_proxy: Whether checks send a PROXY header in any case.
        check_name: The server name of checks; empty for none.
        port: The server's own port; None if it has none.
        offset: What is added to the client's port; None for a server without that.
        resolvers: The name of its resolvers section; empty for none.
        track: The server whose health it has; None for its own.
    """

    context: Context
    settings: Settings
    row: Table = field(factory=Table)
    keys: Table = field(factory=Table)
    tls: Table = field(factory=Table)
    has_tls: Word | None = None
    verify: str = ""
    names_server: bool = False
    has_system_ca: bool = False
    is_checked: Word | None = None
    check: Table = field(factory=Table)
    check_target: Table = field(factory=Table)
    check_tls: bool | None = None
    check_sends_proxy: bool = False
    check_name: str = ""
    port: int | None = None
    offset: int | None = None
    resolvers: str = ""
    track: Word | None = None
    place: Place | None = None

    def loss(self, word: Word, fact: str) -> None:
        """Report a parameter that is not translated."""
        self.context.report.loss(word.place, f"server {word.text}", fact)


Handler = Callable[[ServerLine, Word, Sequence[Word]], None]


def read_server(
    line: Line, defaults: Sequence[Line], context: Context, settings: Settings
) -> ServerLine | None:
    """Translate a server line; return None if mailproxy cannot have that server.

    Args:
        line: The line.
        defaults: The default-server lines that apply to it.
        context: Gets what is to report.
        settings: The global settings.
    """
    if len(line.words) < 3:
        context.report.loss(
            line.place, "server", "has no name or no address, which HAProxy refuses: left out"
        )
        return None
    name, address_word = line.words[1], line.words[2]
    try:
        address = server_address(address_word.text)
    except AddressError as error:
        context.report.loss(
            address_word.place, f"server {name.text}", f"{address_word.text} {error}: left out"
        )
        return None
    if address_word.text in SERVER_PARAMETERS and not has_variable(address_word.text):
        context.report.loss(
            address_word.place,
            f"server {name.text}",
            f"has no address, and HAProxy takes {address_word.text} for it: left out",
        )
        return None
    server = ServerLine(context, settings, port=address.port, offset=address.offset, place=line.place)
    server.row.place, server.row.comments = line.place, line.take_comments()
    server.row.set("name", settled_name(name.text), Origin(line.place))
    server.row.set("address", address.text, Origin(line.place))
    for default in defaults:
        read_parameters(default.words[1:], SERVER_PARAMETERS, server, context, "server")
    read_parameters(line.words[3:], SERVER_PARAMETERS, server, context, "server")
    if server.has_tls is not None or server.check_tls:
        for key, (value, default_line) in settings.server_tls.items():
            server.tls.set_default(key, value, Origin(default_line.place))
        apply_options(server.tls, context, settings.server_options, settings)
        server.tls.keys.pop("tickets", None)
    _settle_verification(server)
    return server


def _settle_verification(server: ServerLine) -> None:
    """Write what HAProxy verifies: the chain alone, unless a name is given."""
    if server.has_tls is None and not server.check_tls:
        return
    word = server.has_tls
    place = word.place if word is not None else server.place
    source = None if place is None else Origin(place)
    if server.verify == "none" or (not server.verify and not server.settings.verifies_servers):
        server.tls.set("verify", "none", source)
        return
    if "ca" not in server.tls and not server.has_system_ca and place is not None:
        server.context.report.note(
            place,
            "server ssl",
            "is verified by default and has no ca-file, which HAProxy refuses: the system's CAs are used",
        )
    if not server.names_server:
        server.tls.set("verify", "chain", source)
        if place is not None:
            server.context.report.advise(
                place, "server verify", 'HAProxy verifies no name without sni or verifyhost, so any certificate of the CA will do: verify = "chain" here; '
                "give server_name and remove it",
            )  # fmt: skip


# Each function takes the server, the parameter and its arguments.


def _row(key: str, value: Scalar | None = None) -> Handler:
    def handle(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
        if value is not None:
            server.row.set(key, value, Origin(word.place))
        elif (count := number(arguments[0].text)) is None:
            server.loss(word, f"{arguments[0].text} is no number: left out")
        else:
            server.row.set(key, count, Origin(word.place))

    return handle


def _remove(*keys: str) -> Handler:
    def handle(server: ServerLine, _word: Word, _: Sequence[Word]) -> None:
        for key in keys:
            server.row.keys.pop(key, None)
            server.keys.keys.pop(key, None)

    return handle


def _slow_start(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    _time(server.row, "slow_start", server, word, arguments)


def _time(table: Table, key: str, server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    value = duration(arguments[0].text)
    if value is None:
        server.loss(word, f"{arguments[0].text} is no time that mailproxy can have: left out")
    else:
        table.set(key, value, Origin(word.place))


def _interval(key: str) -> Handler:
    return lambda server, word, arguments: _time(server.check, key, server, word, arguments)


def _count(key: str) -> Handler:
    def handle(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
        if (count := number(arguments[0].text)) is None:
            server.loss(word, f"{arguments[0].text} is no number: left out")
        else:
            server.check.set(key, count, Origin(word.place))

    return handle


def _check(server: ServerLine, word: Word, _: Sequence[Word]) -> None:
    server.is_checked = word


def _no_check(server: ServerLine, _word: Word, _: Sequence[Word]) -> None:
    server.is_checked = None


def _check_tls(value: bool) -> Handler:
    def handle(server: ServerLine, _word: Word, _: Sequence[Word]) -> None:
        server.check_tls = value

    return handle


def _check_send_proxy(server: ServerLine, _word: Word, _: Sequence[Word]) -> None:
    server.check_sends_proxy = True


def _check_port(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    if (port := number(arguments[0].text)) is None:
        server.loss(word, f"{arguments[0].text} is no port: left out")
    else:
        server.check_target.set("port", port, Origin(word.place))


def _check_address(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    try:
        address = server_address(arguments[0].text)
    except AddressError as error:
        server.loss(word, f"{arguments[0].text} {error}: left out")
    else:
        server.check_target.set("address", address.text, Origin(word.place))


def _check_sni(server: ServerLine, _word: Word, arguments: Sequence[Word]) -> None:
    server.check_name = arguments[0].text


def _ssl(server: ServerLine, word: Word, _: Sequence[Word]) -> None:
    server.has_tls = word


def _no_ssl(server: ServerLine, _word: Word, _: Sequence[Word]) -> None:
    server.has_tls = None


def _verify(server: ServerLine, _word: Word, arguments: Sequence[Word]) -> None:
    server.verify = arguments[0].text


def _ca(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    path = arguments[0].text
    if path == "@system-ca":
        server.tls.keys.pop("ca", None)
        server.has_system_ca = True
    else:
        server.tls.set("ca", path_of(path, server.settings.ca_base), Origin(word.place))


def _certificate(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    server.tls.set("certificate", path_of(arguments[0].text, server.settings.crt_base), Origin(word.place))


def _verify_host(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    server.names_server = True
    server.tls.set("server_name", arguments[0].text, Origin(word.place))


def _sni(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    text = arguments[0].text
    fixed = _NAME_FETCH.fullmatch(text)
    if fixed is None:
        server.loss(
            word, f"{text}: a name of each session is not here; the server's own name is sent and verified"
        )
        return
    server.names_server = True
    server.tls.set_default("server_name", fixed[1].strip("\"'"), Origin(word.place))


def _send_proxy(server: ServerLine, word: Word, _: Sequence[Word]) -> None:
    server.keys.set("send_proxy", _SEND_PROXY[word.text], Origin(word.place))


def _proxy_options(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    options = [option for option in arguments[0].text.split(",") if option]
    tlvs = [_TLVS[option] for option in options if option in _TLVS]
    unknown = [option for option in options if option not in _TLVS and option not in ("ssl", "cert-cn")]
    if tlvs:
        server.keys.set("send_proxy_tlvs", list(tlvs), Origin(word.place))
    if "cert-cn" in options or "ssl" in options:
        server.keys.set("send_proxy", "v2-ssl-cn" if "cert-cn" in options else "v2-ssl", Origin(word.place))
    elif str(server.keys.get("send_proxy") or "").startswith("v2") is False:
        server.keys.set("send_proxy", "v2", Origin(word.place))
    for option in unknown:
        server.loss(word, f"{option} is no option that mailproxy has: left out")


def _observe(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    if arguments[0].text == "layer4":
        server.keys.set("observe", "connect", Origin(word.place))
    else:
        server.loss(word, f"{arguments[0].text} is for HTTP: left out")


def _error_limit(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    if (count := number(arguments[0].text)) is not None:
        server.keys.set("error_limit", count, Origin(word.place))


def _on_error(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    if arguments[0].text != "fail-check":
        server.loss(
            word,
            f"{arguments[0].text} is not here: error_limit errors count as one failed check, as with fail-check",
        )


def _marked_down(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    server.keys.set("on_marked_down", arguments[0].text, Origin(word.place))


def _source(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    set_source(server.keys, server.context, word, arguments[0].text)


def set_source(table: Table, context: Context, word: Word, text: str) -> None:
    """Set the local address of connections."""
    host, colon, ports = text.rpartition(":") if text.count(":") == 1 else (text, "", "")
    if colon and ports not in ("", "0"):
        context.report.loss(word.place, "source", f"ports {ports} are not here: the kernel takes free ones")
    if host in ("*", "0.0.0.0", ""):
        return
    table.set("source", host.strip("[]"), Origin(word.place))


def _use_source(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    if arguments[0].text in ("clientip", "client"):
        server.keys.set("source", "client", Origin(word.place))
    else:
        server.loss(word, f"{arguments[0].text} is not here: left out")


def _resolvers(server: ServerLine, _word: Word, arguments: Sequence[Word]) -> None:
    server.resolvers = arguments[0].text


def _track(server: ServerLine, _word: Word, arguments: Sequence[Word]) -> None:
    server.track = arguments[0]


def _prefer(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
    server.keys.set("resolve_prefer", arguments[0].text, Origin(word.place))


def _non_stick(server: ServerLine, word: Word, _: Sequence[Word]) -> None:
    server.row.set("stick", False, Origin(word.place))


def _tls(handle: Callable[..., None]) -> Handler:
    def handle_server(server: ServerLine, word: Word, arguments: Sequence[Word]) -> None:
        handle(server.tls, server.context, word, arguments, server.settings)

    return handle_server


def _nothing(_server: ServerLine, _word: Word, _: Sequence[Word]) -> None:
    """Do nothing, since the meaning is mailproxy's own."""


SERVERS = Group[Handler]("Parameters of `server` and `default-server`", (
    Directive(("check",), "on by default; `check = false` switches it off", _check),
    Directive(("no-check",), "`check = false`", _no_check),
    Directive(("inter",), "`interval` of a check", _interval("interval"), arguments=1),
    Directive(("fastinter",), "`fast_interval` of a check", _interval("fast_interval"), arguments=1),
    Directive(("downinter",), "`down_interval` of a check", _interval("down_interval"), arguments=1),
    Directive(("rise",), "`rise`", _count("rise"), arguments=1),
    Directive(("fall",), "`fall`", _count("fall"), arguments=1),
    Directive(("port",), "`port` of a check", _check_port, arguments=1),
    Directive(("addr",), "`address` of a check", _check_address, arguments=1),
    Directive(("check-ssl",), "`tls` of a check. By default it is that of sessions, also on another port", _check_tls(True)),
    Directive(("no-check-ssl",), "`tls = false` of a check", _check_tls(False)),
    Directive(("check-sni",), "`server_name` in `tls` of a check", _check_sni, arguments=1),
    Directive(("check-send-proxy",), "`send_proxy` of a check. By default it is that of sessions", _check_send_proxy),
    Directive(("weight",), "`weight`", _row("weight"), arguments=1),
    Directive(("maxconn",), "`max_sessions` of a server", _row("max_sessions"), arguments=1),
    Directive(("backup",), "`backup`; the first backup that is up gets all sessions, as in HAProxy; `all_backups` of the backend: all of them", _row("backup", value=True)),
    Directive(("no-backup",), "not needed", _remove("backup")),
    Directive(("disabled",), '`state = "maint"` of a server; `"drain"` drains it', _row("state", "maint")),
    Directive(("enabled",), "not needed", _remove("state")),
    Directive(("slowstart",), "`slow_start`", _slow_start, arguments=1),
    Directive(("observe",), '`observe = "connect"`, for `observe layer4`', _observe, arguments=1),
    Directive(("error-limit",), "`error_limit`; it counts as one failed check (`fail-check`)", _error_limit, arguments=1),
    Directive(("on-error",), "always as `fail-check`", _on_error, arguments=1),
    Directive(("on-marked-down",), '`on_marked_down = "shutdown-sessions"`', _marked_down, arguments=1),
    loss("on-marked-up", meaning="not here", arguments=1),
    Directive(("track",), "a check of its own with the `address`, `port` and words of the tracked server's", _track, arguments=1),
    Directive(("ssl",), "`tls` of a backend or server", _ssl),
    Directive(("no-ssl",), "`tls = false`", _no_ssl),
    Directive(("verify",), '`verify = "required"` (chain and name, the default), `"chain"`, `"none"`', _verify, shown="`verify required`, `none`", arguments=1),
    Directive(("ca-file",), "`ca`", _ca, shown="`ca-file` of a server", arguments=1),
    Directive(("crt",), "`certificate`, `key`", _certificate, shown="`crt` of a server", arguments=1),
    Directive(("verifyhost",), "`server_name`", _verify_host, arguments=1),
    Directive(("sni",), "`server_name`, if it is a fixed name", _sni, arguments=1),
    *(Directive(each.names, each.meaning, None if each.handle is None else _tls(each.handle), kind=each.kind, shown=each.shown, arguments=each.arguments)
      for each in SHARED_TLS),
    note("no-verifyhost", "ssl-reuse", "no-ssl-reuse", "tls-tickets", "force-strict-sni", meaning="not needed"),
    Directive(("send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn"),
              '`send_proxy = "v1"`, `"v2"`, `"v2-ssl"`, `"v2-ssl-cn"`', _send_proxy),
    Directive(("no-send-proxy", "no-send-proxy-v2", "no-send-proxy-v2-ssl", "no-send-proxy-v2-ssl-cn"), '`send_proxy = "none"`', _remove("send_proxy")),
    Directive(("proxy-v2-options",), "`send_proxy_tlvs`; `ssl` and `cert-cn` are in `send_proxy`", _proxy_options, arguments=1),
    loss("set-proxy-v2-tlv-fmt", meaning="values of your own are not here", arguments=1),
    Directive(("source",), '`source`; `usesrc clientip`: `source = "client"`', _source, arguments=1),
    Directive(("usesrc",), '`source = "client"`', _use_source, arguments=1),
    Directive(("resolvers",), "`resolve_interval`; the system's resolver is used", _resolvers, arguments=1),
    Directive(("resolve-prefer",), "`resolve_prefer`", _prefer, arguments=1),
    note("init-addr", meaning="not needed: a start without an answer is allowed, and the last known addresses are kept. All addresses of a name belong to one server", arguments=1),
    note("resolve-opts", "resolve-net", meaning="not here: the system's resolver is used", arguments=1),
    Directive(("non-stick",), "`stick = false` of a server", _non_stick),
    Directive(("stick",), "the default", _nothing),
    note("id", "guid", meaning="not here", arguments=1),
    note("init-state", meaning="not here: a server counts as up until its first check fails", arguments=1),
    loss("minconn", meaning="not here: `max_sessions` is fixed", arguments=1),
    loss("maxqueue", meaning="`max_queue`, of the backend", arguments=1),
    loss("agent-check", meaning="not here"),
    note("no-agent-check", meaning="not needed"),
    loss("agent-port", "agent-inter", "agent-addr", "agent-send", meaning="not here", arguments=1),
    loss("check-alpn", "alpn", "npn", meaning="not here", arguments=1),
    loss("check-via-socks4", "tfo", meaning="not here"),
    loss("tcp-ut", "namespace", "socks4", "redir", "crl-file", "check-proto", meaning="not here", arguments=1),
    loss("check-send-proxy-v2", meaning="no parameter of HAProxy"),
    note("cookie", "proto", "pool-low-conn", "pool-max-conn", "pool-purge-delay", "max-reuse", "ws", "shard", "log-proto", "log-bufsize",
         meaning="not needed: HTTP only", arguments=1),
))  # fmt: skip
SERVER_PARAMETERS = index(SERVERS)
