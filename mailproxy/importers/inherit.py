"""Write shared values once: in ``[defaults]``, or in a profile for each section of defaults of the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from attrs import define, frozen

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

    def holders(self, path: Sequence[str]) -> Sequence[_Holder]:
        """Return the values of the members that a key applies to; none if for one of them its absence means something."""
        members = self.conditional.get(path[0], self.members) if len(path) > 1 else self.members
        holders = []
        for member in members:
            owner = _owner(member.table, path)
            item = None if owner is None else owner.keys.get(path[-1])
            if owner is None or not isinstance(item, (Value, list)):
                return []
            holders.append(_Holder(member.protocol, owner, item, _fingerprint(item)))
        return holders


@define
class _Holder:
    """A value that is possibly shared.

    Attributes:
        protocol: The protocol of the frontend or backend.
        owner: The table that has the value.
        item: The value, or a list of tables.
        text: A text that equal values share, wherever they come from.
    """

    protocol: str | None
    owner: Table
    item: Value | list[Table]
    text: str

    @property
    def value(self) -> object:
        """What is equal for equal values."""
        return self.item.value if isinstance(self.item, Value) else self.item


def _fingerprint(item: Value | list[Table]) -> str:
    return repr(item.value) if isinstance(item, Value) else repr([plain(row) for row in item])


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


def _share(kind: str, path: Sequence[str], group: _Group, defaults: Table) -> str | None:
    """Move the most frequent value of a key to the defaults; return its text, or None if there is none."""
    holders = _most_frequent(group.holders(path))
    if not holders or _is_default_for_all(kind, path, holders):
        return None
    _move(path, holders, defaults.table(kind))
    return holders[0].text


def _share_in_profile(
    kind: str, path: Sequence[str], group: _Group, common: str | None, profiles: Table
) -> None:
    holders = _most_frequent(group.holders(path))
    if (
        not holders
        or holders[0].text == common
        or (common is None and _is_default_for_all(kind, path, holders))
    ):
        return
    _move(path, holders, profiles.table(group.members[0].group).table(kind))
    for member in group.members:
        member.table.set_default("profile", member.group)


def _owner(table: Table, path: Sequence[str]) -> Table | None:
    """Return the table that a key is in; None if there is none."""
    for name in path[:-1]:
        inner = table.keys.get(name)
        if not isinstance(inner, Table):
            return None
        table = inner
    return table


def _most_frequent(holders: Sequence[_Holder]) -> Sequence[_Holder]:
    """Return the holders of the most frequent value; none if less than two, or not more than half, have it."""
    if len(holders) < 2:
        return []
    ((text, count),) = Counter(holder.text for holder in holders).most_common(1)
    if count < 2 or count * 2 <= len(holders):
        return []
    return [holder for holder in holders if holder.text == text]


def _is_default_for_all(kind: str, path: Sequence[str], holders: Sequence[_Holder]) -> bool:
    key, value = _key(kind, path), holders[0].value
    return all(is_default(value, key, protocol) for protocol in {holder.protocol for holder in holders})


def _key(kind: str, path: Sequence[str]) -> Key:
    key = keys_of(_MODELS[kind])[path[0]]
    for name in path[1:]:
        assert key.table is not None  # noqa: S101 - the paths above lead through tables
        key = keys_of(key.table)[name]
    return key


def _move(path: Sequence[str], holders: Sequence[_Holder], target: Table) -> None:
    for name in path[:-1]:
        target = target.table(name)
    target.keys.setdefault(path[-1], holders[0].item)
    for holder in holders:
        del holder.owner.keys[path[-1]]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
