"""Load what was written, and take out what mailproxy refuses. So the result of an import always loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice

from mailproxy.config import load_stream
from mailproxy.config.fields import Key, keys_of
from mailproxy.config.path import ROOT_PATH
from mailproxy.errors import ConfigError, Fault
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Path, Table, Value
from mailproxy.importers.models import owners
from mailproxy.importers.place import Place, has_variable, show
from mailproxy.importers.writer import write

_ROUNDS_MAX = 20  # each round takes out at least one value, mostly all of them
# Keys without which a row of binds, servers or certificates is refused, too.
_REQUIRED = ("address", "certificate")
# Loading takes half a millisecond a server. Of larger configurations each value is checked by itself, which is
# nearly all that mailproxy refuses; mailproxy check finds the rest.
_TABLES_MAX = 1_000
_OF_THE_ENVIRONMENT = "the environment has no"
_NO_FRONTEND = "has no frontend"


def take_out_refused(context: Context) -> str:
    """Return the draft as TOML, without the values that mailproxy refuses; each of them is reported."""
    if next(islice(_tables(context.draft), _TABLES_MAX, None), None) is not None:
        _check_values(context)
        return write(context.draft)
    for _ in range(_ROUNDS_MAX):
        text = write(context.draft)
        faults = _faults(text)
        if not faults:
            return text
        if not _take_out_all(faults, context):
            break
    return write(context.draft)


def _tables(table: Table) -> Iterator[Table]:
    for item in table.keys.values():
        for each in [item] if isinstance(item, Table) else item if isinstance(item, list) else []:
            yield each
            yield from _tables(each)


def _check_values(context: Context) -> None:
    for _, table, kind in owners(context.draft):
        _check_table(table, kind, context)


def _check_table(table: Table, kind: type, context: Context) -> None:
    keys = keys_of(kind)
    for name, item in list(table.keys.items()):
        key = keys.get(name)
        if key is None:
            continue
        if not isinstance(item, Value):
            if key.table is not None:
                for each in [item] if isinstance(item, Table) else item:
                    _check_table(each, key.table, context)
        elif not _is_valid(item, key):
            del table.keys[name]
            if (place := item.place or table.place) is not None:
                context.report.loss(
                    place,
                    context.name_of(place),
                    f"mailproxy refuses {show(str(item.value))} for {name}: it is left out",
                )


def _is_valid(item: Value, key: Key) -> bool:
    if key.value_type is None or (item.value is False and key.table is not None):
        return True
    values = item.value if key.is_list and isinstance(item.value, list) else [item.value]
    for value in values:
        if has_variable(str(value)):
            continue
        try:
            key.value_type.structure(value)
        except ValueError:
            return False
    return True


def _depends_on_environment(item: Value | Table | list[Table]) -> bool:
    """Whether a value, or any value of a table, has a variable. Without its value, nothing is known about it."""
    tables = [Table({"": item})] if isinstance(item, Value) else [item] if isinstance(item, Table) else item
    values = [value.value for table in tables for _, value in table.values()]
    texts = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return any(has_variable(str(text)) for text in texts)


def _faults(text: str) -> list[Fault]:
    try:
        load_stream(BytesIO(text.encode("utf-8", "surrogatepass")))
    except ConfigError as error:
        return [fault for fault in error.faults if not _is_expected(fault)]
    return []


def _is_expected(fault: Fault) -> bool:
    """Whether a fault is of the machine, or of a part of a configuration."""
    return fault.fact.startswith(_OF_THE_ENVIRONMENT) or _NO_FRONTEND in fault.fact


def _take_out_all(faults: Sequence[Fault], context: Context) -> bool:
    """Take out the values and tables that faults are about; return False if there are none."""
    paths = {str(ROOT_PATH.joinpath(*path)): path for path in _paths(context.draft, ())}
    found = [(path, fault) for fault in faults if (path := _nearest(fault.path, paths)) is not None]
    found = [(path[:-1] if _is_required(path) else path, fault) for path, fault in found]
    chosen = dict(reversed(found))  # the first fault of each
    outermost = [path for path in chosen if not any(path[:end] in chosen for end in range(1, len(path)))]
    # From the end: the indexes of rows before one that is taken out stay valid.
    ordered = sorted(
        outermost, key=lambda path: [(isinstance(step, int), step) for step in path], reverse=True
    )
    return any([_take_out(path, chosen[path], context) for path in ordered])  # noqa: C419 - all of them


def _is_required(path: Path) -> bool:
    return len(path) > 1 and isinstance(path[-2], int) and path[-1] in _REQUIRED


def _nearest(text: str, paths: Mapping[str, Path]) -> Path | None:
    """Return the path of the value or table that a fault's path names, or is below; no whole section."""
    if text in paths:
        return paths[text]
    while (cut := max(text.rfind("."), text.rfind("["))) >= 0:
        text = text[:cut]
        if text in paths:
            return paths[text] if len(paths[text]) > 1 else None
    return None


def _take_out(path: Path, fault: Fault, context: Context) -> bool:
    """Take out what is at a path; return False if it depends on the environment."""
    owner, item = _parent(context.draft, path)
    if _depends_on_environment(item):
        return False
    place = _place(item) or _place(owner)
    if isinstance(owner, list):
        owner.pop(int(path[-1]))
    else:
        del owner.keys[str(path[-1])]
    if place is not None:
        context.report.loss(
            place, context.name_of(place), f"mailproxy refuses it ({fault.path} {fault.fact}): it is left out"
        )
    return True


def _paths(table: Table, above: Path) -> list[Path]:
    found: list[Path] = []
    for key, item in table.keys.items():
        found.append((*above, key))
        if isinstance(item, Table):
            found += _paths(item, (*above, key))
        elif isinstance(item, list):
            for index, row in enumerate(item):
                found.append((*above, key, index))
                found += _paths(row, (*above, key, index))
    return found


def _parent(table: Table, path: Path) -> tuple[Table | list[Table], Value | Table | list[Table]]:
    owner: Table | list[Table] = table
    item: Value | Table | list[Table] = table
    for step in path:
        assert not isinstance(item, Value)  # noqa: S101 - the path was made by walking the draft
        owner = item
        item = owner[int(step)] if isinstance(owner, list) else owner.keys[str(step)]
    return owner, item


def _place(item: Value | Table | list[Table]) -> Place | None:
    if isinstance(item, Value):
        return item.place
    tables = item if isinstance(item, list) else [item]
    return next((each.place for each in tables if each.place is not None), None) or next(
        (place for each in tables for place in each.places()), None
    )
