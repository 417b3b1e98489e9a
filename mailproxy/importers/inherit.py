"""Write shared values once: in ``[defaults]``, or in a profile for each section of defaults of the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from attrs import frozen

from mailproxy.config import model
from mailproxy.config.fields import Key, keys_of
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, Value, plain
from mailproxy.importers.trim import is_default

_SHARED = {
    "frontend": (
        *(("timeouts", name) for name in keys_of(model.FrontendTimeouts)),
        *(("tls", name) for name in keys_of(model.FrontendTls)),
        ("max_sessions",),
        ("log_null",),
        ("log_start",),
    ),
    "backend": (
        *(
            (name,)
            for name in (
                "balance",
                "retries",
                "redispatch",
                "send_proxy",
                "on_marked_down",
                "observe",
                "error_limit",
            )
        ),
        *((name,) for name in ("keepalive", "source", "resolve_interval", "resolve_prefer")),
        *(("timeouts", name) for name in keys_of(model.BackendTimeouts)),
        *(
            ("check", name)
            for name in (
                "type",
                "interval",
                "fast_interval",
                "down_interval",
                "rise",
                "fall",
                "jitter",
                "timeout",
            )
        ),
    ),
}
_MODELS = {"frontend": model.Frontend, "backend": model.Backend}


@frozen
class _Member:
    """A frontend or backend, with the section of defaults that it belongs to."""

    name: str
    table: Table
    group: str
    protocol: str | None


@frozen
class _Group:
    """Frontends or backends that share values.

    Attributes:
        members: All of them.
        conditional: Those with TLS towards clients, and those with checks. Only they have keys in these tables.
    """

    members: Sequence[_Member]
    conditional: Mapping[str, Sequence[_Member]]

    @classmethod
    def of(cls, members: Sequence[_Member]) -> _Group:
        """Return the group of these members."""
        conditional = {
            name: [member for member in members if isinstance(member.table.keys.get(name), Table)]
            for name in ("tls", "check")
        }
        return cls(members, conditional)

    def holders(self, path: Sequence[str]) -> Sequence[_Member]:
        """Return the members that a key applies to; none if for one of them its absence means something."""
        holders = self.conditional.get(path[0], self.members) if len(path) > 1 else self.members
        is_given = all(isinstance(_find(member.table, path), (Value, list)) for member in holders)
        return holders if is_given else []


def share(context: Context) -> None:
    """Move values that several frontends or backends have to ``[defaults]`` and to profiles."""
    for kind in ("frontend", "backend"):
        tables = context.draft.table(f"{kind}s")
        members = [
            _Member(name, table, context.profiles.get((kind, name), ""), _text(table.get("protocol")))
            for name, table in tables.keys.items()
            if isinstance(table, Table)
        ]
        named: dict[str, list[_Member]] = {}
        for member in members:
            named.setdefault(member.group, []).append(member)
        everything = _Group.of(members)
        groups = [_Group.of(those) for name, those in named.items() if name and len(named) > 1]
        for path in _SHARED[kind]:
            common = _share(kind, path, everything, context.draft.table("defaults"))
            for group in groups:
                _share_in_profile(kind, path, group, common, context.draft.table("profiles"))


def _share(kind: str, path: Sequence[str], group: _Group, defaults: Table) -> object:
    """Move the most frequent value of a key to the defaults; return it, or None if there is none."""
    holders = group.holders(path)
    value = _most_frequent(path, holders)
    if value is None or _is_default_for_all(kind, path, value, holders):
        return None
    _move(path, value, holders, defaults.table(kind))
    return value


def _share_in_profile(kind: str, path: Sequence[str], group: _Group, common: object, profiles: Table) -> None:
    holders = [member for member in group.holders(path) if member.table.get(*path) is not None]
    value = _most_frequent(path, holders)
    if (
        value is None
        or value == common
        or (common is None and _is_default_for_all(kind, path, value, holders))
    ):
        return
    _move(path, value, holders, profiles.table(group.members[0].group).table(kind))
    for member in group.members:
        member.table.set_default("profile", member.group)


def _find(table: Table, path: Sequence[str]) -> object:
    item: object = table
    for name in path:
        item = item.keys.get(name) if isinstance(item, Table) else None
    return item


def _most_frequent(path: Sequence[str], holders: Sequence[_Member]) -> object:
    values = [member.table.get(*path) for member in holders]
    if len(values) < 2:
        return None
    ((text, count),) = Counter(map(_fingerprint, values)).most_common(1)
    if count < 2 or count * 2 <= len(values):
        return None
    return next(value for value in values if _fingerprint(value) == text)


def _fingerprint(value: object) -> str:
    """Return a text that equal values share, wherever they come from."""
    return (
        repr([plain(row) for row in value if isinstance(row, Table)] or value)
        if isinstance(value, list)
        else repr(value)
    )


def _is_default_for_all(kind: str, path: Sequence[str], value: object, holders: Sequence[_Member]) -> bool:
    key = _key(kind, path)
    protocols = {member.protocol for member in holders if member.table.get(*path) == value}
    return all(is_default(value, key, protocol) for protocol in protocols)


def _key(kind: str, path: Sequence[str]) -> Key:
    key = keys_of(_MODELS[kind])[path[0]]
    for name in path[1:]:
        assert key.table is not None  # noqa: S101 - the paths above lead through tables
        key = keys_of(key.table)[name]
    return key


def _move(path: Sequence[str], value: object, holders: Sequence[_Member], target: Table) -> None:
    for name in path[:-1]:
        target = target.table(name)
    for member in holders:
        item = _find(member.table, path)
        if isinstance(item, (Value, list)) and member.table.get(*path) == value:
            owner = _find(member.table, path[:-1])
            assert isinstance(owner, Table)  # noqa: S101 - it has the value
            del owner.keys[path[-1]]
            target.keys.setdefault(path[-1], item)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
