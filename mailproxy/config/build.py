"""From checked tables to frozen values: layers merged, defaults of the protocol filled in, missing keys and rules found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import cattrs
from attrs import evolve

from mailproxy.address import UnixAddress, parse_bind, parse_server
from mailproxy.config import model
from mailproxy.config.fields import keys_of
from mailproxy.config.key_paths import join
from mailproxy.config.layers import Layer, merge, origin_path
from mailproxy.config.rules import check_rules, log_rules, rules
from mailproxy.config.source.origin import Origin
from mailproxy.config.validate import Diagnostics, Table
from mailproxy.config.values import as_name

_T = TypeVar("_T")

# How long a side may be silent. IMAP: RFC 9051 section 5.4 asks for 30 minutes at least, and a client in IDLE speaks
# every 29 (RFC 2177). POP3: 10 minutes at least (RFC 1939 section 3). SMTP: 5 to 10 per command (RFC 5321 4.5.3.2).
_LONG_SILENCE_S = 31 * 60
_SHORT_SILENCE_S = 10 * 60


def silence_limit(protocol: str) -> int:
    """The default of ``timeouts.client`` and ``timeouts.server``, in seconds."""
    return _LONG_SILENCE_S if protocol in ("imap", "tcp") else _SHORT_SILENCE_S


def build(
    tables: Table, found: Diagnostics, converter: cattrs.Converter, origin: Origin
) -> model.Config | None:
    """The configuration, or None where faults leave none. Adds what it finds to ``found``."""
    builder = _Builder(tables, found, converter)
    frontends = {name: builder.frontend(name) for name in tables["frontends"]}
    protocols = _protocols(frontends.values())
    backends = {name: builder.backend(name, protocols.get(name, ())) for name in tables["backends"]}
    log = builder.log()
    rules.check_references(tables, found)
    rules.check_server_tls(tables, found)
    check_rules.check_steps(tables, found)
    check_rules.check_own_stick(tables, found)
    rules.check_listeners({name: frontend for name, frontend in frontends.items() if frontend}, found)
    rules.check_reachability(frontends, backends, found)
    rules.loops(frontends, backends, found)
    if not tables["frontends"] and not any(path.startswith("frontends") for path in found.invalid_paths):
        found.add("frontends", "has no frontend: at least one is needed")
    if found.faults or log is None:
        return None
    return model.Config(
        process=converter.structure(tables["process"], model.Process),
        log=log,
        admin=converter.structure(tables["admin"], model.Admin),
        frontends={name: frontend for name, frontend in frontends.items() if frontend},
        backends={name: backend for name, backend in backends.items() if backend},
        source=origin.file,
        origin=origin,
    )


def _protocols(frontends: Iterable[model.Frontend | None]) -> dict[str, list[str]]:
    """The protocols of the frontends that lead to each backend."""
    protocols: dict[str, list[str]] = {}
    for frontend in frontends:
        if frontend is None:
            continue
        for name in frontend.backend_names:
            protocols.setdefault(name, []).append(frontend.protocol)
    return protocols


class _Builder:
    """Merges the layers of one file and structures what comes out."""

    def __init__(self, tables: Table, found: Diagnostics, converter: cattrs.Converter) -> None:
        self.tables = tables
        self.found = found
        self.converter = converter

    def log(self) -> model.Log | None:
        table = self.tables["log"]
        targets = [
            self._table(model.LogOutput, each, f"log.targets[{index}]")
            for index, each in enumerate(table.get("targets", ()))
        ]
        log_rules.together(table, self.found)
        if None in targets:
            return None
        log: model.Log = self.converter.structure(table, model.Log)
        log_rules.outputs(log, table, self.found)
        return log

    def frontend(self, name: str) -> model.Frontend | None:
        path, own = join("frontends", name), self.tables["frontends"][name]
        profile = self._profile(own, "frontend")
        layers = self._layers("frontend", profile, Layer(path, own))
        merged = merge(layers)
        bind_layers = _interleave(layers, self._layers("bind", profile), ["tls"])
        binds, own_binds = [], []
        for index, table in enumerate(merged.pop("bind", [])):
            here = Layer(f"{join(origin_path(layers, 'bind'), 'bind')}[{index}]", table)
            rules.check_own_bind(here, self.found)
            bind = self._table(model.Bind, merge([*bind_layers, here]), here.path, _name_bind)
            rules.check_bind(bind, here, self.found)
            binds.append(bind)
            own_binds.append(here)
        if not binds and not self.found.invalid_paths & {path, join(path, "bind")}:
            self.found.add(path, f"has no bind: at least one [[{path}.bind]] is needed")
        silence = silence_limit(merged.get("protocol", "tcp"))
        merged["timeouts"] = {"client": silence, **merged.get("timeouts", {})}
        rules.session_rate(merged, layers, self.found)
        frontend = self._table(model.Frontend, {**merged, "name": name}, path)
        if frontend is None or None in binds:
            return None
        frontend = evolve(frontend, bind=tuple(bind for bind in binds if bind is not None))
        if not any(_blamed(join(path, part), self.found) for part in ("bind", "routes")):
            rules.check_terminated_tls(frontend, Layer(path, own), own_binds, self.found)
            for bound, here in zip(frontend.bind, own_binds, strict=True):
                if frontend.terminates_tls(bound):
                    rules.check_frontend_tls(bound.tls, [*bind_layers, here], self.found)
        rules.check_routes(frontend, origin_path(layers, "routes"), self.found)
        return frontend

    def backend(self, name: str, protocols: Sequence[str]) -> model.Backend | None:
        path, own = join("backends", name), self.tables["backends"][name]
        profile = self._profile(own, "backend")
        layers = self._layers("backend", profile, Layer(path, own))
        merged = merge(layers)
        if "protocol" not in merged:
            if len(set(protocols)) > 1:
                said = " and ".join(sorted(set(protocols)))
                self.found.add(path, f"protocol is missing: the frontends that lead here speak {said}")
            merged["protocol"] = protocols[0] if protocols else "tcp"
        server_layers = _interleave(layers, self._layers("server", profile), model.INHERITED_BY_SERVERS)
        tables = merged.pop("servers", [])
        if not tables and not self.found.invalid_paths & {path, join(path, "servers")}:
            self.found.add(path, "has no servers: at least one is needed")
        merged["timeouts"] = {"server": silence_limit(merged["protocol"]), **merged.get("timeouts", {})}
        backend = self._table(model.Backend, {**merged, "name": name}, path)
        if backend is None:
            return None
        servers = []
        for index, table in enumerate(tables):
            here = Layer(f"{join(origin_path(layers, 'servers'), 'servers')}[{index}]", table)
            servers.append(self._server(backend, [*server_layers, here]))
        rules.check_same_names([server.name for server in servers if server], f"{path}.servers", self.found)
        backend = evolve(backend, servers=tuple(server for server in servers if server is not None))
        check_rules.check_stick(backend, layers, self.found)
        return None if None in servers else backend

    def _server(self, backend: model.Backend, layers: Sequence[Layer]) -> model.Server | None:
        merged = merge(layers)
        merged.setdefault("check", {})  # checks are on where nobody says otherwise
        server = self._table(model.Server, merged, layers[-1].path, _name_server)
        if server is None:
            return None
        rules.check_server(server, layers, self.found)
        server = _with_port(server, backend.port)
        if server.check is not None and server.check.type == "none":
            server = evolve(server, check=None)
        check_rules.check_check(server, backend.protocol, layers, self.found)
        return server

    def _profile(self, own: Table, owner: str) -> str | None:
        name: str | None = own.get("profile", self.tables["defaults"].get(owner, {}).get("profile"))
        return name if name in self.tables["profiles"] else None

    def _layers(self, kind: str, profile: str | None, *own: Layer) -> list[Layer]:
        """Always the defaults, the profile (empty if none), then the own ones, so that layers can be paired by place."""
        defaults = Layer(join("defaults", kind), self.tables["defaults"].get(kind, {}))
        profiled = self.tables["profiles"].get(profile, {}).get(kind, {}) if profile else {}
        return [defaults, Layer(join(join("profiles", profile or ""), kind), profiled), *own]

    def _table(self, table_type: type[_T], table: Table, path: str, complete: Any = None) -> _T | None:
        """One structured table; None where a key is missing (and then said) or was dropped."""
        if complete is not None:
            complete(table)
        table = {
            name: value for name, value in table.items() if not _is_switched_off(table_type, name, value)
        }
        unfit = False
        for key in keys_of(table_type).values():
            if key.required and key.name not in table:
                unfit = True
                if (
                    join(path, key.name) not in self.found.invalid_paths
                    and path not in self.found.invalid_paths
                ):
                    self.found.add(path, f"{key.name} is missing: {key.description}")
        return None if unfit else self.converter.structure(table, table_type)


def _blamed(path: str, found: Diagnostics) -> bool:
    """Was something there dropped?"""
    return any(bad.startswith(path) for bad in found.invalid_paths)


def _interleave(outer: Sequence[Layer], inner: Sequence[Layer], handed_down: Iterable[str]) -> list[Layer]:
    """The layers of a bind or server: at each strength what surrounds it, reduced to what is handed down, then its own."""
    handed_down = tuple(handed_down)
    layers = []
    for index, layer in enumerate(outer):
        layers.append(layer.only(handed_down))
        layers.extend(inner[index : index + 1])
    return layers


def _is_switched_off(table_type: type, name: str, value: object) -> bool:
    key = keys_of(table_type)[name]
    return value is False and key.table is not None and key.kind is None


def _name_bind(table: Table) -> None:
    if "address" in table:
        table.setdefault("name", as_name(str(parse_bind(table["address"]))))


def _name_server(table: Table) -> None:
    if "address" not in table:
        table.setdefault("name", "")  # what is missing is the address; the name would only be said twice
    else:
        address = parse_server(table["address"])
        text = (
            address.path.rstrip("/").rpartition("/")[2] if isinstance(address, UnixAddress) else str(address)
        )
        table.setdefault("name", as_name(text or "/"))


def _with_port(server: model.Server, port: int | None) -> model.Server:
    if port is None or isinstance(server.address, UnixAddress) or server.address.port is not None:
        return server
    return evolve(server, address=evolve(server.address, port=port))
