"""Leave out what a person would not write: values that are inherited, or mailproxy's defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mailproxy.config.build import default_idle_timeout
from mailproxy.config.fields import Key, keys_of
from mailproxy.importers.draft import Table, Value
from mailproxy.importers.models import owners

# Tables that mean something when they are empty.
_MEANINGFUL = ("tls", "connect", "stick")
_STRENGTHS = {"profiles": 1, "defaults": 2}
_IDLE_TIMEOUTS = ("client", "server")


def trim(draft: Table) -> None:
    """Leave out inherited values, defaults, and tables that are empty afterwards."""
    protocols = _protocols(draft)
    layers = {path: table for path, table, _ in owners(draft) if path[0] in ("profiles", "defaults")}
    # From strong to weak: a value is compared with those of weaker layers while these are still complete.
    for path, table, kind in sorted(owners(draft), key=lambda owner: _strength(owner[0])):
        if kind is None:
            continue
        weaker: list[Table] = []
        if path[0] in ("frontends", "backends"):
            name = str(path[0]).removesuffix("s")
            profile = table.get("profile")
            weaker = [
                layers[key] for key in (("profiles", str(profile), name), ("defaults", name)) if key in layers
            ]
        elif path[0] == "profiles":
            weaker = [layers[key] for key in (("defaults", path[2]),) if key in layers]
        protocol = table.get("protocol")
        if protocol is None and path[0] in ("frontends", "backends"):
            protocol = protocols.get(str(path[1]), "tcp") if path[0] == "backends" else "tcp"
        _trim(table, kind, weaker, None if protocol is None else str(protocol))
    _drop_empty(draft)


def _strength(path: Sequence[str | int]) -> int:
    return _STRENGTHS.get(str(path[0]), 0)


def _protocols(draft: Table) -> Mapping[str, str | None]:
    """Return the protocol that each backend has without a key of its own; None if its frontends have several."""
    spoken: dict[str, str | None] = {}
    for frontend in draft.table("frontends").keys.values():
        if isinstance(frontend, Table):
            protocol = str(frontend.get("protocol") or "tcp")
            for backend in backends_of(frontend):
                spoken[backend] = protocol if spoken.get(backend, protocol) == protocol else None
    return spoken


def backends_of(frontend: Table) -> list[str]:
    """Return the names of the backends that a frontend names."""
    routes = frontend.keys.get("routes", [])
    rows = [frontend, *(routes if isinstance(routes, list) else [])]
    return [str(row.get("backend")) for row in rows if row.get("backend") is not None]


def _trim(table: Table, kind: type, weaker: Sequence[Table], protocol: str | None) -> None:
    keys = keys_of(kind)
    for name, item in list(table.keys.items()):
        key = keys.get(name)
        if key is None:
            continue
        below = [each.keys[name] for each in weaker if name in each.keys]
        if isinstance(item, Table) and key.table is not None:
            _trim(item, key.table, [each for each in below if isinstance(each, Table)], protocol)
        elif isinstance(item, list) and key.table is not None:
            for row in item:
                _trim(row, key.table, [], protocol)
        elif isinstance(item, Value) and _is_redundant(item, key, below, protocol):
            del table.keys[name]


def _is_redundant(item: Value, key: Key, below: Sequence[object], protocol: str | None) -> bool:
    if below:
        inherited = below[0]
        return isinstance(inherited, Value) and inherited.value == item.value
    return is_default(item.value, key, protocol)


def is_default(value: object, key: Key, protocol: str | None) -> bool:
    """Whether a value is what mailproxy takes without it.

    Args:
        value: The value.
        key: Its key.
        protocol: The protocol of the frontend or backend, on which some defaults depend; None if not known.
    """
    if key.is_list:
        return value == [] and key.default == ()
    if key.value_type is None or key.required or (key.name == "protocol" and key.default_text):
        return False  # without its protocol, a backend has that of its frontends
    try:
        structured = key.value_type.structure(value)
    except ValueError:
        return False
    default = key.default
    if default is None and key.name in _IDLE_TIMEOUTS and key.default_text:
        default = None if protocol is None else float(default_idle_timeout(protocol))
    if value == "none" and default is None and key.default_text == "none":
        return True
    return (
        default is not None
        and structured == default
        and isinstance(structured, bool) == isinstance(default, bool)
    )


def _drop_empty(table: Table, *, of_client: bool = False) -> None:
    """Drop tables that are empty. An empty ``tls`` means something towards servers only."""
    for name, item in list(table.keys.items()):
        if isinstance(item, Table):
            _drop_empty(item, of_client=of_client or name in ("frontends", "frontend"))
            if name == "stick" and not item.keys:
                item.set("on", "source")
            if not item.keys and (of_client or name not in _MEANINGFUL):
                del table.keys[name]
        elif isinstance(item, list):
            for row in item:
                _drop_empty(row, of_client=of_client)
            if not item:
                del table.keys[name]
