"""From valid tables to frozen values: merges layers, fills in defaults, checks the rules between keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import cattrs
from attrs import evolve

from mailproxy.address import UnixAddress, parse_bind, parse_server
from mailproxy.config import model
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.fields import keys_of
from mailproxy.config.layers import Layer, MergedTable, Table, interleave, merge
from mailproxy.config.path import ROOT_PATH, ConfigPath, backend_path, frontend_path
from mailproxy.config.rules import (
    acme_rules,
    address_rules,
    admin_rules,
    check_rules,
    frontend_rules,
    log_rules,
    reference_rules,
    server_rules,
)
from mailproxy.config.source.source_map import SourceMap
from mailproxy.config.values import as_name

_T = TypeVar("_T")

# Default idle timeouts. IMAP: RFC 9051 section 5.4 asks for at least 30 minutes, and a client in IDLE sends
# something every 29 (RFC 2177). POP3: at least 10 minutes (RFC 1939 section 3). SMTP: 5 to 10 per command
# (RFC 5321 4.5.3.2).
_LONG_IDLE_TIMEOUT_S = 31 * 60
_SHORT_IDLE_TIMEOUT_S = 10 * 60


def default_idle_timeout(protocol: str) -> int:
    """Return the default of ``timeouts.client`` and ``timeouts.server``, in seconds."""
    return _LONG_IDLE_TIMEOUT_S if protocol in ("imap", "tcp") else _SHORT_IDLE_TIMEOUT_S


def build(
    tables: Table, diagnostics: Diagnostics, converter: cattrs.Converter, source_map: SourceMap
) -> model.Config | None:
    """Build the configuration; return None if it has faults.

    Args:
        tables: Every table of the file, validated (``validate``).
        diagnostics: The faults found so far. Gets those of missing keys, and of keys that do not fit each
            other.
        converter: Makes the model's classes of tables.
        source_map: What the configuration was read from.
    """
    builder = _Builder(tables, diagnostics, converter)
    acme = {name: built for name in tables["acme"] if (built := builder.acme(name)) is not None}
    built_frontends = {name: builder.frontend(name) for name in tables["frontends"]}
    frontends = {name: frontend for name, frontend in built_frontends.items() if frontend}
    protocols = _protocols(frontends.values())
    built_backends = {name: builder.backend(name, protocols.get(name, ())) for name in tables["backends"]}
    backends = {name: backend for name, backend in built_backends.items() if backend}
    log = builder.log()
    admin = builder.admin()
    reference_rules.check_references(tables, diagnostics)
    acme_rules.check_storages(acme, diagnostics)
    check_rules.check_steps(tables, diagnostics)
    check_rules.check_stick_tables(tables, diagnostics)
    for name, frontend in frontends.items():
        frontend_rules.check_certificates(frontend, builder.binds[name], diagnostics)
        acme_rules.check_tls(frontend, builder.binds[name], tables["acme"], acme, diagnostics)
    address_rules.check_listeners(frontends, diagnostics)
    address_rules.check_ports(frontends, backends, diagnostics)
    address_rules.check_loops(frontends, backends, diagnostics)
    if not tables["frontends"] and not diagnostics.is_invalid(ROOT_PATH / "frontends", subtree=True):
        diagnostics.add(ROOT_PATH / "frontends", "has no frontend: at least one is needed")
    if diagnostics.faults or log is None or admin is None:
        return None
    return model.Config(
        process=converter.structure(tables["process"], model.Process),
        log=log,
        tracing=converter.structure(tables["tracing"], model.Tracing),
        admin=admin,
        metrics=converter.structure(tables["metrics"], model.Metrics),
        acme=acme,
        frontends=frontends,
        backends=backends,
        source=source_map.file,
        source_map=source_map,
    )


def build_admin(table: Table, diagnostics: Diagnostics, converter: cattrs.Converter) -> model.Admin | None:
    """Build the ``admin`` table alone. Arguments and result as for `build`."""
    return _Builder({"admin": table}, diagnostics, converter).admin()


def _protocols(frontends: Iterable[model.Frontend]) -> dict[str, list[str]]:
    """Return the protocols of the frontends that use each backend."""
    protocols: dict[str, list[str]] = {}
    for frontend in frontends:
        for name in frontend.backend_names:
            protocols.setdefault(name, []).append(frontend.protocol)
    return protocols


class _Builder:
    """Merges the layers of each table of a file, and makes the model's classes of them.

    Attributes:
        binds: The merged tables of each frontend's binds, by the frontend's name.
    """

    def __init__(self, tables: Table, diagnostics: Diagnostics, converter: cattrs.Converter) -> None:
        self.tables = tables
        self.diagnostics = diagnostics
        self.converter = converter
        self.binds: dict[str, list[MergedTable]] = {}

    def log(self) -> model.Log | None:
        """Build the log; return None if a required key of a target is missing."""
        table = self.tables["log"]
        targets = [
            self._structure(model.LogOutput, target, ROOT_PATH / "log" / "targets" / index)
            for index, target in enumerate(table.get("targets", ()))
        ]
        log_rules.check_targets(table, self.diagnostics)
        if None in targets:
            return None
        log: model.Log = self.converter.structure(table, model.Log)
        log_rules.check_outputs(log, table, self.diagnostics)
        return log

    def admin(self) -> model.Admin | None:
        """Build the admin sockets; return None if they cannot be structured."""
        table = self.tables["admin"]
        sockets = [
            self._structure(model.AdminSocket, each, ROOT_PATH / "admin" / "sockets" / index)
            for index, each in enumerate(table.get("sockets", ()))
        ]
        if None in sockets:
            return None
        if table.get("tls") is False:
            table = {key: value for key, value in table.items() if key != "tls"}
        admin: model.Admin = self.converter.structure(table, model.Admin)
        admin_rules.check_sockets(admin, table, self.diagnostics)
        admin_rules.check_http(admin, table, self.diagnostics)
        return admin

    def acme(self, name: str) -> model.Acme | None:
        """Build an authority; return None if a required key is missing."""
        path, table = ROOT_PATH / "acme" / name, self.tables["acme"][name]
        # The innermost tables first: a table of which one cannot be structured cannot be, either.
        dns, dns_path = table.get("dns", {}), path / "dns"
        nested: tuple[tuple[type[object], Table | None, ConfigPath], ...] = (
            (model.Rfc2136, dns.get("rfc2136"), dns_path / "rfc2136"),
            (model.AcmeEab, table.get("eab"), path / "eab"),
        )
        for kind, inner, inner_path in nested:
            if inner is not None and self._structure(kind, inner, inner_path) is None:
                return None
        built = self._structure(model.Acme, {**table, "name": name}, path)
        if built is not None:
            acme_rules.check_acme(built, table, self.diagnostics)
        return built

    def frontend(self, name: str) -> model.Frontend | None:
        """Build a frontend with its binds; return None if a required key of it or of a bind is missing."""
        own = Layer(frontend_path(name), self.tables["frontends"][name])
        profile = self._profile(own, "frontend")
        merged = merge([*self._outer_layers("frontend", profile), own])
        inner_layers = interleave(merged.layers, self._outer_layers("bind", profile), ["tls"])
        merged_binds = [merge([*inner_layers, bind]) for bind in self._items(merged, "bind")]
        self.binds[name] = merged_binds
        binds = [self._bind(bind) for bind in merged_binds]
        self._complete_frontend(merged, has_binds=bool(binds))
        frontend = self._structure(model.Frontend, {**merged.values, "name": name}, own.path)
        if frontend is None or None in binds:
            return None
        frontend = evolve(frontend, bind=tuple(bind for bind in binds if bind is not None))
        frontend = acme_rules.with_names(frontend)
        if not self.diagnostics.is_any_invalid((own.path / "bind", own.path / "routes"), subtree=True):
            frontend_rules.check_greeting_delay(frontend, own, self.diagnostics)
            frontend_rules.check_starttls(frontend, merged_binds, self.diagnostics)
            frontend_rules.check_unused_tls(frontend, own, merged_binds, self.diagnostics)
            for bind, merged_bind in zip(frontend.bind, merged_binds, strict=True):
                if frontend.terminates_tls(bind):
                    frontend_rules.check_tls(bind.tls, merged_bind, self.diagnostics)
        frontend_rules.check_routes(frontend, merged, merged_binds, self.diagnostics)
        return frontend

    def _bind(self, merged: MergedTable) -> model.Bind | None:
        frontend_rules.check_own_bind(merged.own, self.diagnostics)
        bind = self._structure(model.Bind, _with_bind_name(merged.values), merged.path)
        if bind is not None:
            frontend_rules.check_bind(bind, merged.own, self.diagnostics)
        return bind

    def _complete_frontend(self, merged: MergedTable, *, has_binds: bool) -> None:
        """Fill in the idle timeout; leave out a rate limit that cannot be structured."""
        values, own = merged.values, merged.path
        if not has_binds and not self.diagnostics.is_any_invalid((own, own / "bind")):
            self.diagnostics.add(own, f"has no bind: at least one [[{own}.bind]] is needed")
        timeout = default_idle_timeout(values.get("protocol", "tcp"))
        values["timeouts"] = {"client": timeout, **values.get("timeouts", {})}
        if not frontend_rules.check_session_rate(merged, self.diagnostics):
            del values["max_session_rate_per_client"]

    def backend(self, name: str, protocols: Sequence[str]) -> model.Backend | None:
        """Build a backend with its servers; return None if a required key of it or of a server is missing.

        Args:
            name: The backend's name.
            protocols: The protocols of the frontends that use it, for its default.
        """
        own = Layer(backend_path(name), self.tables["backends"][name])
        profile = self._profile(own, "backend")
        merged = merge([*self._outer_layers("backend", profile), own])
        server_tables = list(self._items(merged, "servers"))
        self._complete_backend(merged, protocols, has_servers=bool(server_tables))
        backend = self._structure(model.Backend, {**merged.values, "name": name}, own.path)
        if backend is None:
            return None
        inner_layers = interleave(
            merged.layers, self._outer_layers("server", profile), model.INHERITED_BY_SERVERS
        )
        built_servers = [self._server(backend, merge([*inner_layers, table])) for table in server_tables]
        servers = tuple(server for server in built_servers if server is not None)
        server_rules.check_names(servers, own.path / "servers", self.diagnostics)
        backend = evolve(backend, servers=servers)
        check_rules.check_stick_size(backend, merged, self.diagnostics)
        return None if None in built_servers else backend

    def _complete_backend(self, merged: MergedTable, protocols: Sequence[str], *, has_servers: bool) -> None:
        """Fill in the protocol, if its frontends agree on one, and the idle timeout."""
        values, own = merged.values, merged.path
        if "protocol" not in values:
            if len(set(protocols)) > 1:
                names = " and ".join(sorted(set(protocols)))
                fact = f"protocol is missing: its frontends have {names}"
                self.diagnostics.add(own, fact)
            values["protocol"] = protocols[0] if protocols else "tcp"
        if not has_servers and not self.diagnostics.is_any_invalid((own, own / "servers")):
            self.diagnostics.add(own, "has no servers: at least one is needed")
        timeout = default_idle_timeout(values["protocol"])
        values["timeouts"] = {"server": timeout, **values.get("timeouts", {})}

    def _server(self, backend: model.Backend, merged: MergedTable) -> model.Server | None:
        values = merged.values
        values.setdefault("check", {})  # checks are on by default
        server = self._structure(model.Server, _with_server_name(values), merged.path)
        if server is None:
            return None
        server = server_rules.with_identity(server, merged, self.diagnostics)
        server_rules.check_server(server, merged, self.diagnostics)
        server_rules.check_identity(server, backend.protocol, merged, self.diagnostics)
        server_rules.check_starttls(server, backend.protocol, merged, self.diagnostics)
        server = _with_port(server, backend.port)
        if server.check is not None and server.check.type == "none":
            server = evolve(server, check=None)
        check_rules.check_check(server, backend.protocol, merged, self.diagnostics)
        return server

    def _items(self, merged: MergedTable, key: str) -> Iterable[Layer]:
        """Take the tables of a list out of a merged table."""
        tables = merged.values.pop(key, [])
        return Layer(merged.origin(key), {key: tables}).items(key)

    def _profile(self, own: Layer, owner: str) -> str | None:
        default = self.tables["defaults"].get(owner, {}).get("profile")
        name: str | None = own.table.get("profile", default)
        return name if name in self.tables["profiles"] else None

    def _outer_layers(self, kind: str, profile: str | None) -> list[Layer]:
        """Return the layers of the defaults and of the profile, which is empty if there is none.

        There are always two, so that those of a bind or server can be paired with those of its frontend or
        backend.
        """
        defaults = self.tables["defaults"].get(kind, {})
        profiled = self.tables["profiles"].get(profile, {}).get(kind, {}) if profile else {}
        return [
            Layer(ROOT_PATH / "defaults" / kind, defaults),
            Layer(ROOT_PATH / "profiles" / (profile or "") / kind, profiled),
        ]

    def _structure(self, table_type: type[_T], table: Table, path: ConfigPath) -> _T | None:
        """Make a class of a table; return None if a required key is missing or was left out."""
        keys = keys_of(table_type)
        table = {
            name: value
            for name, value in table.items()
            if not (value is False and keys[name].table is not None and keys[name].value_type is None)
        }
        missing = [key for key in keys.values() if key.required and key.name not in table]
        for key in missing:
            if not self.diagnostics.is_any_invalid((path, path / key.name)):
                self.diagnostics.add(path, f"{key.name} is missing: {key.description}")
        return None if missing else self.converter.structure(table, table_type)


def _with_bind_name(table: Table) -> Table:
    """Return a bind's table with the default of its name."""
    if "address" not in table:
        return table
    return {"name": as_name(str(parse_bind(table["address"]))), **table}


def _with_server_name(table: Table) -> Table:
    """Return a server's table with the default of its name."""
    if "address" not in table:
        # Without an address there is no default. Its absence is the fault; that of the name would be a second
        # one.
        return {"name": "", **table}
    address = parse_server(table["address"])
    if isinstance(address, UnixAddress):
        text = address.path.rstrip("/").rpartition("/")[2] or "/"
    else:
        text = str(address)
    return {"name": as_name(text), **table}


def _with_port(server: model.Server, port: int | None) -> model.Server:
    """Return the server with its backend's port, if it has none of its own."""
    if port is None or isinstance(server.address, UnixAddress) or server.address.port is not None:
        return server
    return evolve(server, address=evolve(server.address, port=port))
