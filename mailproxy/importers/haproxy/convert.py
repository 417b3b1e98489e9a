"""HAProxy's files as a draft: sections in order, defaults resolved, frontends, backends, log and admin sockets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.haproxy.backends import translate_backend
from mailproxy.importers.haproxy.certificates import read_store, report_authorities
from mailproxy.importers.haproxy.directives import read_directive
from mailproxy.importers.haproxy.frontends import translate_frontend
from mailproxy.importers.haproxy.globals import Global, fold_admin_socket, read_global
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.log import translate_log
from mailproxy.importers.haproxy.proxies import BACKEND, FRONTEND, Proxy
from mailproxy.importers.haproxy.reader import PROXIES, Section, read_files
from mailproxy.importers.haproxy.servers import ServerLine
from mailproxy.importers.haproxy.settings import Settings
from mailproxy.importers.haproxy.stats import translate_stats
from mailproxy.importers.haproxy.values import duration
from mailproxy.importers.names import settled_name
from mailproxy.importers.place import Origin
from mailproxy.importers.ports import guess_protocol
from mailproxy.importers.trim import backends_of

_OTHER_SECTIONS = {
    "peers": "stick tables of several proxies are not joined here: balance = source gives the same server at each",
    "mailers": "not here: let Prometheus alert on the metrics of [admin] http",
    "resolvers": "the system's resolver is used",
}


def convert(texts: Iterable[tuple[str, str]], context: Context) -> None:
    """Fill the draft of an import from the texts of HAProxy's files.

    Args:
        texts: Name and text of each file, in order.
        context: The import.

    Raises:
        ConfigError: A file cannot be read.
    """
    sections = read_files(texts, context)
    settings = Settings()
    for section in sections:
        if section.kind == "global":
            _read_global(section, context, settings)
        elif section.kind == "resolvers":
            _read_resolvers(section, context, settings)
        elif section.kind == "crt-store":
            read_store(section, settings, context)
        elif section.kind == "acme":
            settings.authorities[section.name] = section
    proxies = _proxies(sections, context)
    _report_other_sections(sections, context)
    _translate(proxies, context, settings)
    report_authorities(settings, context)
    translate_log(proxies, settings, context)
    fold_admin_socket(context.draft)


def _read_global(section: Section, context: Context, settings: Settings) -> None:
    if section.head.comments.above:
        comments = section.head.take_comments()
        draft = context.draft
        draft.comments = type(comments)((*draft.comments.above, *comments.above))
    state = Global(context, settings)
    for line in section.lines:
        read_global(state, line)


def _read_resolvers(section: Section, context: Context, settings: Settings) -> None:
    for line in section.lines:
        if line.arguments[:1] == ["valid"] and line.words[0].text == "hold" and len(line.arguments) > 1:
            value = duration(line.arguments[1])
            if value is not None:
                settings.resolve_intervals[section.name] = (value, line)
                context.settle(line.place)
                continue
        context.report.note(
            line.place, f"resolvers {section.name}", "the system's resolver is used: left out"
        )


def _report_other_sections(sections: Sequence[Section], context: Context) -> None:
    for section in sections:
        if section.kind in ("global", "defaults", "resolvers", "template", "crt-store", "acme", *PROXIES):
            continue
        for line in section.lines:
            context.settle(line.place)
        context.report.loss(
            section.head.place,
            section.kind,
            _OTHER_SECTIONS.get(section.kind, "is not here: the section is left out"),
        )


def _proxies(sections: Sequence[Section], context: Context) -> list[Proxy]:
    """Return the proxy sections with what they inherit; those of HTTP are reported and left out."""
    defaults: dict[str, Proxy] = {}
    current: Proxy | None = None
    found: list[Proxy] = []
    used: set[int] = set()
    taken: set[tuple[str, str]] = set()
    http: list[Section] = []
    count = sum(section.kind == "defaults" for section in sections)
    for section in sections:
        if section.kind == "defaults":
            current = _defaults(section, defaults, count, context)
            defaults[section.name or current.group] = current
        elif section.kind in PROXIES:
            parent = _parent(section, defaults, current, context)
            proxy = _proxy(section, parent, http, context)
            if proxy is not None:
                used.add(id(parent))
                if taken & {(proxy.name, side) for side in proxy.sides}:
                    context.report.loss(
                        section.head.place,
                        section.kind,
                        f"the name {proxy.name} is taken, which HAProxy refuses: left out",
                    )
                    continue
                taken.update((proxy.name, side) for side in proxy.sides)
                found.append(proxy)
    for each in defaults.values():
        if id(each) not in used:
            _leave_out_defaults(each, context)
    names = ", ".join(f"{section.kind} {section.name}" for section in http)
    for section in http:
        context.report.note(
            section.head.place, "", f"HTTP sections are left out, since mailproxy carries mail only: {names}"
        )
    return found


def _defaults(section: Section, known: Mapping[str, Proxy], count: int, context: Context) -> Proxy:
    name = section.name or (f"defaults{len(known) + 1}" if count > 1 else "")
    proxy = Proxy("defaults", section.name, section.head, settled_name(name), is_defaults=True)
    words = [word.text for word in section.head.words]
    if "from" in words[:-1]:
        parent = known.get(words[words.index("from") + 1])
        if parent is not None:
            proxy.inherit(parent)
    for line in section.lines:
        read_directive(proxy, line, context)
    return proxy


def _parent(
    section: Section, defaults: Mapping[str, Proxy], current: Proxy | None, context: Context
) -> Proxy | None:
    words = [word.text for word in section.head.words]
    if "from" not in words[:-1]:
        return current
    name = words[words.index("from") + 1]
    if name not in defaults:
        context.report.loss(
            section.head.place,
            section.kind,
            f"there is no defaults section {name}, which HAProxy refuses: without it",
        )
        return None
    return defaults[name]


def _proxy(section: Section, parent: Proxy | None, http: list[Section], context: Context) -> Proxy | None:
    """Return a proxy section; None if it is left out."""
    if not section.name:
        context.report.loss(section.head.place, section.kind, "has no name, which HAProxy refuses: left out")
        _settle(section, context)
        return None
    name = settled_name(section.name)
    proxy = Proxy(section.kind, section.name, section.head)
    if parent is not None:
        proxy.inherit(parent)
        proxy.group = parent.group
    mode = next(
        (line for line in reversed(section.lines) if line.words[0].text == "mode" and line.arguments),
        proxy.single.get("mode"),
    )
    if mode is not None and mode.arguments[0] not in ("tcp", "spop"):
        translate_stats(section, context)
        http.append(section)
        _settle(section, context)
        return None
    old = next((line for line in section.lines if line.words[0].text == "disabled"), None)
    if old is not None:
        context.report.note(old.place, "disabled", "the section is left out")
        _settle(section, context)
        return None
    if proxy.name != name:
        context.report.note(
            section.head.place,
            section.kind,
            f"{section.name} has characters that names cannot have here: {name}",
        )
    if section.kind == "listen" and len(section.head.words) > 2 and section.head.words[2].text != "from":
        _old_listen(section, proxy, context)
    for line in section.lines:
        read_directive(proxy, line, context)
    return proxy


def _old_listen(section: Section, proxy: Proxy, context: Context) -> None:
    """Read the addresses on a listen line, as HAProxy did until 1.5."""
    context.report.note(
        section.head.place, section.kind, "HAProxy refuses addresses on this line: read as bind"
    )
    proxy.add("bind", Line([section.head.words[0], section.head.words[2]]))


def _settle(section: Section, context: Context) -> None:
    for line in section.lines:
        context.settle(line.place)


def _leave_out_defaults(proxy: Proxy, context: Context) -> None:
    lines = [
        *proxy.single.values(),
        *(line for lines in proxy.lists.values() for line in lines),
        *filter(None, proxy.options.values()),
        *proxy.rules,
    ]
    for line in lines:
        context.settle(line.place)
    context.report.note(proxy.head.place, "defaults", "no section with mode tcp uses it: left out")


def _translate(proxies: Sequence[Proxy], context: Context, settings: Settings) -> None:
    with_servers = {
        proxy.name: proxy
        for proxy in proxies
        if BACKEND in proxy.sides
        and (proxy.all("server") or "stick-table" not in proxy.single or proxy.all("stick"))
    }
    tables_only = {
        proxy.name: proxy for proxy in proxies if BACKEND in proxy.sides and proxy.name not in with_servers
    }
    frontends, backends = context.draft.table("frontends"), context.draft.table("backends")
    known = {**tables_only, **with_servers}
    ports: dict[str, list[int | None]] = {}
    servers: dict[str, list[ServerLine]] = {}
    for proxy in proxies:
        name = settled_name(proxy.name)
        if FRONTEND in proxy.sides:
            frontend, ports[name] = translate_frontend(proxy, known, context, settings)
            frontends.keys[name] = frontend
            context.profiles["frontend", name] = proxy.group
        if proxy.name in with_servers:
            backend, servers[name] = translate_backend(proxy, with_servers, context, settings)
            backends.keys[name] = backend
            context.profiles["backend", name] = proxy.group
        elif proxy.name in tables_only and (table := proxy.single.get("stick-table")) is not None:
            context.settle(table.place)
            for unused in (*proxy.single.values(), *filter(None, proxy.options.values())):
                context.settle(unused.place)
    _protocols(frontends, backends, ports, servers)
    _offsets(frontends, ports, servers, context)


def _users(frontends: Table) -> Mapping[str, list[str]]:
    """Return the names of the frontends that use each backend."""
    users: dict[str, list[str]] = {}
    for name, frontend in frontends.keys.items():
        if isinstance(frontend, Table):
            for backend in backends_of(frontend):
                users.setdefault(backend, []).append(name)
    return users


def _protocols(
    frontends: Table,
    backends: Table,
    ports: Mapping[str, list[int | None]],
    servers: Mapping[str, list[ServerLine]],
) -> None:
    users = _users(frontends)
    for name, frontend in frontends.keys.items():
        assert isinstance(frontend, Table)  # noqa: S101 - frontends are tables
        behind = [server.port for backend in backends_of(frontend) for server in servers.get(backend, ())]
        frontend.set("protocol", guess_protocol(ports[name], behind, name))
    for name, backend in backends.keys.items():
        assert isinstance(backend, Table)  # noqa: S101 - backends are tables
        spoken = {
            str(table.get("protocol"))
            for user in users.get(name, ())
            if isinstance(table := frontends.keys[user], Table)
        }
        if len(spoken) != 1:
            backend.set(
                "protocol",
                guess_protocol([server.port for server in servers.get(name, ())], [], name)
                if not spoken or spoken - {"smtp", "submission"}
                else "smtp",
            )


def _offsets(
    frontends: Table,
    ports: Mapping[str, list[int | None]],
    servers: Mapping[str, list[ServerLine]],
    context: Context,
) -> None:
    """Write the ports of servers that HAProxy counts from the client's port."""
    users = _users(frontends)
    for name, those in servers.items():
        bound = {port for user in users.get(name, ()) for port in ports[user]}
        for server in those:
            if server.offset is None or server.place is None:
                continue
            port = next(iter(bound), None) if len(bound) == 1 else None
            if port is None:
                context.report.loss(
                    server.place,
                    "server",
                    f"a port of {server.offset:+d} from the client's is not here: the client's own port",
                )
            else:
                server.row.set(
                    "address", f"{server.row.get('address')}:{port + server.offset}", Origin(server.place)
                )
                server.row.keys = {
                    "name": server.row.keys.pop("name"),
                    "address": server.row.keys.pop("address"),
                    **server.row.keys,
                }
