"""Leave out what a person would not write: values that are inherited, or mailproxy's defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mailproxy.config.build import default_idle_timeout
from mailproxy.config.fields import Key, keys_of
from mailproxy.importers.draft import Path, Table, Value
from mailproxy.importers.models import owners

# Tables that mean something when they are empty.
_MEANINGFUL = ("tls", "connect", "stick")
_IDLE_TIMEOUTS = ("client", "server")


def trim(draft: Table) -> None:
    """Leave out inherited values, defaults, and tables that are empty afterwards."""
    protocols = _protocols(draft)
    # From the end, which is from strong to weak: backends, frontends, profiles, defaults. A value is compared
    # with those of weaker layers while these are still complete.
    for path, table, kind in reversed(owners(draft)):
        protocol = table.get("protocol")
        if protocol is None and path[0] in ("frontends", "backends"):
            protocol = protocols.get(str(path[1]), "tcp") if path[0] == "backends" else "tcp"
        _trim(table, kind, _weaker(draft, path, table), None if protocol is None else str(protocol))
    _drop_empty(draft)


def _weaker(draft: Table, path: Path, table: Table) -> list[Table]:
    """Return the tables that a table inherits from, the nearest first."""
    if path[0] == "profiles":
        layers = [_find(draft, "defaults", str(path[2]))]
    elif path[0] in ("frontends", "backends"):
        name = str(path[0]).removesuffix("s")
        profile = table.get("profile")
        layers = [
            None if profile is None else _find(draft, "profiles", str(profile), name),
            _find(draft, "defaults", name),
        ]
    else:
        return []
    return [layer for layer in layers if layer is not None]


def _find(table: Table, *path: str) -> Table | None:
    """Return a nested table; None if there is none."""
    found = table.get(*path)
    return found if isinstance(found, Table) else None


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
    return [str(backend) for row in rows if (backend := row.get("backend")) is not None]


def _trim(table: Table, kind: type, weaker: Sequence[Table], protocol: str | None) -> None:
    keys = keys_of(kind)
    redundant = []
    for name, item in table.keys.items():
        key = keys.get(name)
        if key is None:
            continue
        below = [each.keys[name] for each in weaker if name in each.keys] if weaker else []
        if isinstance(item, Value):
            if _is_redundant(item, key, below, protocol):
                redundant.append(name)
        elif key.table is None:
            continue
        elif isinstance(item, Table):
            _trim(item, key.table, [each for each in below if isinstance(each, Table)], protocol)
        else:
            for row in item:
                _trim(row, key.table, [], protocol)
    for name in redundant:
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
    default = key.default
    if default is None and key.name in _IDLE_TIMEOUTS and key.default_text:
        default = None if protocol is None else float(default_idle_timeout(protocol))
    if default is None and (value != "none" or key.default_text != "none"):
        return False
    try:
        structured = key.value_type.structure(value)
    except ValueError:
        return False
    return default is None or (
        structured == default and isinstance(structured, bool) == isinstance(default, bool)
    )


def _drop_empty(table: Table, *, of_client: bool = False) -> None:
    """Drop tables that are empty. An empty ``tls`` means something towards servers only."""
    for name, item in list(table.keys.items()):
        if isinstance(item, Value):
            continue
        if isinstance(item, Table):
            _drop_empty(item, of_client=of_client or name in ("frontends", "frontend"))
            if name == "stick" and not item.keys:
                item.set("on", "source")
            if not item.keys and (of_client or name not in _MEANINGFUL):
                del table.keys[name]
        else:
            for row in item:
                _drop_empty(row, of_client=of_client)
            if not item:
                del table.keys[name]
