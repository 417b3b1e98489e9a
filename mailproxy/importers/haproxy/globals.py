"""The global section, and sections beside the proxies: ``[process]``, ``[log]`` and ``[admin]``."""

from __future__ import annotations

import re
from collections.abc import Callable

from attrs import define

from mailproxy.importers.context import Context
from mailproxy.importers.directive import Directive, Group, index, loss, note
from mailproxy.importers.draft import Table
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.settings import Settings
from mailproxy.importers.haproxy.tls import set_curves, set_suites
from mailproxy.importers.haproxy.values import duration, number
from mailproxy.importers.place import Origin, Word

_HIDDEN_STATE = "/var/lib/mailproxy/state"


@define
class Global:
    """The global section in translation."""

    context: Context
    settings: Settings

    @property
    def process(self) -> Table:
        """The table ``[process]``."""
        return self.context.draft.table("process")

    def loss(self, line: Line, fact: str) -> None:
        """Report a directive that is not translated."""
        self.context.report.loss(line.place, self.context.name_of(line.place), fact)


Handler = Callable[[Global, Line], None]


def read_global(section: Global, line: Line) -> None:
    """Translate a line of the global section."""
    words = [word.text for word in line.words]
    name = words[0]
    directive = GLOBAL_DIRECTIVES.get(" ".join(words[:2])) or GLOBAL_DIRECTIVES.get(name)
    if directive is None and name.startswith("tune."):
        directive = GLOBAL_DIRECTIVES["tune."]
    if directive is None:
        section.loss(line, "is no word of the global section, and HAProxy refuses it: left out")
    elif directive.handle is None:
        report = section.context.report.note if directive.kind == "note" else section.context.report.loss
        report(line.place, section.context.name_of(line.place), directive.fact)
    elif directive.arguments > len(words) - 1:
        section.loss(line, "has no value, which HAProxy refuses: left out")
    else:
        directive.handle(section, line)
        section.context.settle(line.place)


def _number(key: str) -> Handler:
    def handle(section: Global, line: Line) -> None:
        value = number(line.arguments[0])
        if value is None or value == 0:
            section.loss(line, f"{line.arguments[0]} is no number that mailproxy can have: left out")
        else:
            section.process.set(key, value, line)

    return handle


def _processes(section: Global, line: Line) -> None:
    section.context.report.note(
        line.place, "nbproc", "HAProxy refuses it since 2.5: workers are processes here"
    )
    _number("workers")(section, line)


def _account(key: str, mark: str = "") -> Handler:
    def handle(section: Global, line: Line) -> None:
        section.process.set(key, f"{mark}{line.arguments[0]}", line)

    return handle


def _drain(section: Global, line: Line) -> None:
    value = duration(line.arguments[0])
    if value is None:
        section.loss(line, f"{line.arguments[0]} is no time: left out")
    else:
        section.process.set("drain_timeout", value, line)


def _pid_file(section: Global, line: Line) -> None:
    section.process.set("pid_file", line.arguments[0], line)


def _state_file(section: Global, line: Line) -> None:
    section.process.set("state_file", _HIDDEN_STATE, line)
    section.context.report.note(
        line.place,
        "server-state-file",
        f"mailproxy's file is another one, with stick tables, too: {_HIDDEN_STATE}",
    )


def _base(attribute: str) -> Handler:
    def handle(section: Global, line: Line) -> None:
        setattr(section.settings, attribute, line.arguments[0])

    return handle


def _default_tls(side: str, key: str) -> Handler:
    def handle(section: Global, line: Line) -> None:
        tls = section.settings.bind_tls if side == "bind" else section.settings.server_tls
        scratch, word = Table(), Word(line.words[0].text, line.place)
        value = line.arguments[0]
        if key == "ciphersuites":
            set_suites(scratch, section.context, word, value)
        elif key == "curves":
            set_curves(scratch, section.context, word, value)
        else:
            scratch.set(key, value)
        if key in scratch:
            tls[key] = (value, line)

    return handle


def _options(side: str) -> Handler:
    def handle(section: Global, line: Line) -> None:
        words = section.settings.bind_options if side == "bind" else section.settings.server_options
        words += line.words[1:]

    return handle


def _server_verify(section: Global, line: Line) -> None:
    section.settings.verifies_servers = line.arguments[0] != "none"


def _log(section: Global, line: Line) -> None:
    section.settings.log.append(line)


def _log_tag(section: Global, line: Line) -> None:
    section.settings.log_tag = line


def _spread(section: Global, line: Line) -> None:
    section.settings.spread_checks = line


def _stats_socket(section: Global, line: Line) -> None:
    words = line.arguments[1:]
    if not words:
        section.loss(line, "has no address, which HAProxy refuses: left out")
        return
    row = Table(place=line.place, comments=line.take_comments())
    address = re.sub(r"^(unix|ipv4|ipv6|tcp|tcp4|tcp6)@", "", words[0])
    if address.startswith("/"):
        row.set("path", address, Origin(line.place))
    elif re.fullmatch(r"(127\.[0-9.]+|\[::1\]|localhost):[0-9]+", address):
        row.set("address", address.replace("localhost", "127.0.0.1"), Origin(line.place))
    else:
        section.loss(line, f"{words[0]}: an admin socket over TCP is on a loopback address here: left out")
        return
    given = {words[at]: words[at + 1] for at in range(1, len(words) - 1)}
    _socket_mode(section, line, row, given.get("mode"))
    for key in ("user", "group"):
        if key in given:
            row.set(key, given[key], Origin(line.place))
    for key, name in (("uid", "user"), ("gid", "group")):
        if key in given:
            row.set(name, f"#{given[key]}", Origin(line.place))
    row.set("level", given.get("level", "operator"), Origin(line.place))
    section.context.draft.table("admin").rows("sockets").append(row)


def _socket_mode(section: Global, line: Line, row: Table, text: str | None) -> None:
    if text is None or "path" not in row:
        return
    mode = text.rjust(4, "0")
    if re.fullmatch(r"0[0-7]{3}", mode) and int(mode[-1]) & 2:
        section.loss(line, f"mode {text} lets every user of the machine control the proxy: 0660 is written")
        mode = "0660"
    row.set("mode", mode, Origin(line.place))


def _nothing(_section: Global, _line: Line) -> None:
    """Do nothing, since the meaning is mailproxy's own."""


def fold_admin_socket(draft: Table) -> None:
    """Write a single admin socket with level admin in its short form."""
    admin = draft.table("admin")
    rows = admin.rows("sockets")
    if (
        len(rows) != 1
        or set(rows[0].keys) - {"path", "mode", "level"}
        or rows[0].get("level") != "admin"
        or "path" not in rows[0]
    ):
        return
    (row,) = rows
    del admin.keys["sockets"]
    admin.comments = row.comments
    admin.keys["socket"] = row.keys["path"]
    if "mode" in row:
        admin.keys["mode"] = row.keys["mode"]
    admin.place = row.place


GLOBAL = Group[Handler]("Process", (
    Directive(("maxconn",), "`max_sessions` of the process", _number("max_sessions"), shown="`maxconn` in `global`", arguments=1),
    Directive(("nbthread",), "`workers` of the process: [processes](workers.md), not threads", _number("workers"), arguments=1),
    Directive(("nbproc",), "`workers` of the process", _processes, arguments=1),
    note("thread-groups", "thread-group", meaning="not needed: `workers` are processes"),
    note("cpu-map", meaning="not here: `CPUAffinity=` in the unit pins all processes"),
    note("ulimit-n", "fd-hard-limit", meaning="`LimitNOFILE=` in the unit; `raise_descriptor_limit` raises the soft limit to the hard one"),
    Directive(("user",), "`user` of the process", _account("user"), arguments=1),
    Directive(("group",), "`group` of the process", _account("group"), arguments=1),
    Directive(("uid",), '`user` of the process: `"80"` is a name, `"#80"` a number', _account("user", "#"), arguments=1),
    Directive(("gid",), '`group` of the process, as `"#80"`', _account("group", "#"), arguments=1),
    note("chroot", meaning="not needed: `ProtectSystem=strict` in the [unit](install.md#the-unit)"),
    note("daemon", "master-worker", "no daemon", meaning="not needed: mailproxy runs in the foreground, below a service manager", shown="`daemon`, `master-worker`, `-W`, `-D`"),
    Directive(("pidfile",), "`pid_file` of the process; a service manager does not need it", _pid_file, arguments=1),
    Directive(("hard-stop-after",), "`drain_timeout` of the process, 30 seconds by default", _drain, arguments=1),
    note("grace", meaning="not needed: binds listen until the sessions end; `drain_timeout`"),
    note("tune.", meaning="nothing to tune: splice and buffers are automatic", shown="`tune.*`"),
    note("tune.ssl.default-dh-param", meaning="not needed: key exchange is ECDHE, or OpenSSL selects the parameters"),
    note("tune.ssl.cachesize", "tune.ssl.lifetime", meaning="not here: sessions resume by tickets, which all workers accept"),
    note("nosplice", "noepoll", "nokqueue", "nopoll", "noevports", "noreuseport", "nogetaddrinfo", "maxpipes", "busy-polling", "numa-cpu-mapping",
         "no numa-cpu-mapping", "cpu-policy", "cpu-set", "profiling.tasks", "profiling.memory", "profiling.tasks.automatic",
         meaning="nothing to tune"),
    Directive(("ca-base",), "folded into the paths of CAs", _base("ca_base"), arguments=1),
    Directive(("crt-base",), "folded into the paths of certificates", _base("crt_base"), arguments=1),
    Directive(("ssl-default-bind-ciphers",), "`ciphers` of `tls` in `[defaults.frontend]`", _default_tls("bind", "ciphers"), arguments=1),
    Directive(("ssl-default-bind-ciphersuites",), "`ciphersuites`, which needs Python 3.15", _default_tls("bind", "ciphersuites"), arguments=1),
    Directive(("ssl-default-bind-curves",), "`curves`", _default_tls("bind", "curves"), arguments=1),
    Directive(("ssl-default-bind-options",), "`min_version`, `max_version`, `tickets`, `strict_sni`", _options("bind"), arguments=1),
    Directive(("ssl-default-server-ciphers",), "`ciphers` of `tls` in the backends", _default_tls("server", "ciphers"), arguments=1),
    Directive(("ssl-default-server-ciphersuites",), "`ciphersuites`, which needs Python 3.15", _default_tls("server", "ciphersuites"), arguments=1),
    Directive(("ssl-default-server-curves",), "`curves`", _default_tls("server", "curves"), arguments=1),
    Directive(("ssl-default-server-options",), "`min_version`, `max_version`", _options("server"), arguments=1),
    Directive(("ssl-server-verify",), "`verify` of `tls` in the backends", _server_verify, arguments=1),
    note("max-spread-checks", meaning="not here"),
    note("ssl-dh-param-file", "ssl-mode-async", "ssl-engine", "ssl-propquery", "ssl-provider", "ssl-provider-path", "ssl-security-level", "ssl-default-bind-sigalgs",
         "ssl-default-bind-client-sigalgs", "ssl-default-server-sigalgs", "ssl-default-server-client-sigalgs", "ssl-skip-self-issued-ca",
         "ssl-load-extra-files", "ssl-load-extra-del-ext", "issuers-chain-path",
         meaning="not needed: key exchange is ECDHE, or OpenSSL selects the parameters"),
    Directive(("stats socket",), "`[admin] socket`, or `[[admin.sockets]]` with `path`, `mode`, `user`, `group`, `level`", _stats_socket, shown="`stats socket … mode … level …`", arguments=1),
    note("stats timeout", "stats maxconn", "stats bind-process", meaning="10 seconds; `set timeout cli` for one conversation"),
    Directive(("server-state-file", "server-state-base"), "`state_file` of the process; also keeps stick tables, and needs no script", _state_file, arguments=1),
    Directive(("spread-checks",), "`jitter` of a check, which only shortens the interval", _spread, arguments=1),
    Directive(("log",), '`to = "syslog:/dev/log"`, `"syslog:HOST:514"`, `"stdout"`, with `facility` and `level`; several lines: `[[log.targets]]`', _log, shown="`log /dev/log local0`, `log 10.0.0.1:514 mail info`, `log stdout format raw local0`", arguments=1),
    Directive(("log-tag",), "`tag`", _log_tag, arguments=1),
    note("log-send-hostname", meaning="not here"),
    Directive(("setenv", "presetenv", "unsetenv", "resetenv"), "replaced by the import; other variables stay, as `${NAME}` in strings", _nothing),
    note("description", "node", "localpeer", "quiet", "debug", "zero-warning", "set-dumpable", "strict-limits", "no strict-limits", "default-path", "unix-bind",
         "insecure-fork-wanted", "insecure-setuid-wanted", "expose-experimental-directives", "expose-deprecated-directives", "pp2-never-send-local",
         "cluster-secret", "anonkey", "hash-seed", "external-check", "prealloc-fd", "set-var", "set-var-fmt", "presetenv-file", "limited-quic", "no-quic", "mworker-max-reloads",
         "close-spread-time", "httpclient.ssl.verify", "httpclient.ssl.ca-file", "httpclient.resolvers.id", "httpclient.resolvers.prefer", "httpclient.resolvers.disabled",
         "httpclient.retries", "httpclient.timeout.connect", "h1-case-adjust", "h1-case-adjust-file", "h2-workaround-bogus-websocket-clients", "wurfl-data-file",
         "51degrees-data-file", "deviceatlas-json-file", "harden.reject-privileged-ports.tcp", "harden.reject-privileged-ports.quic",
         meaning="not needed", shown="`description`, `node`, `unix-bind`, `quiet`, `default-path` and others"),
    loss("lua-load", "lua-load-per-thread", "lua-prepend-path", "maxconnrate", "maxsessrate", "maxsslconn", "maxsslrate", "maxcomprate", "maxzlibmem", "maxcompcpuusage",
         meaning="not here", shown="`lua-load`, `maxconnrate`, `maxsessrate`, `maxsslconn`"),
))  # fmt: skip
GLOBAL_DIRECTIVES = index(GLOBAL)
