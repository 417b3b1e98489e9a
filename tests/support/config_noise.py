"""Invalid configurations for property tests, composed of valid keys and values and random ones."""

from __future__ import annotations

import copy
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import tomli
from hypothesis import strategies as st

FULL_CONFIG = Path(__file__).with_name("config_noise.toml").read_text(encoding="utf-8")

Step = str | int
Changed = tuple[tuple[Step, ...], Any]


def _walk(value: Any, path: tuple[Step, ...] = ()) -> list[Changed]:
    """Return every path in nested tables and lists, with the value at it."""
    children: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [(path, value), *(entry for key, item in children for entry in _walk(item, (*path, key)))]


_paths = _walk(tomli.loads(FULL_CONFIG))
KEYS = sorted({step for path, _ in _paths for step in path if isinstance(step, str)})
VALUES = [value for _, value in _paths[1:]]

# Values of TOML, and a few that only a mapping can hold.
scalars = st.one_of(
    st.sampled_from([value for value in VALUES if not isinstance(value, (dict, list))]),
    st.sampled_from(["", "${", "${HOME}", "${MAILPROXY_NOWHERE}", "${MAILPROXY_NOWHERE:-5}", "$$", "*:0", "fd:0", "[::]:0"]),
    st.sampled_from(["unix:a b+c", "[fe80::1%eth0]:1", "a\nb", "\0", "\x1b[31m", "0", "1k", "5s", "true", "none", "é" * 200]),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, float("nan"), float("inf"), -0.0, None, b"bytes"]),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.sampled_from([date(2026, 11, 22), datetime(2026, 11, 22, tzinfo=UTC), time(12)]),
)  # fmt: skip
keys = st.sampled_from(KEYS) | st.text(max_size=5)
values = st.recursive(
    scalars | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
).map(copy.deepcopy)

_tables = st.dictionaries(keys, values, max_size=5)
_named = st.dictionaries(
    st.sampled_from(["imap", "dovecot", "exchange", "a b", ""]), _tables | values, max_size=3
)
_layers = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("frontend", "bind", "backend", "server"), _tables | values)
)

noise = st.fixed_dictionaries(
    {},
    optional={
        "process": _tables,
        "log": _tables,
        "admin": _tables,
        "defaults": _layers,
        "profiles": st.dictionaries(st.sampled_from(["exchange", "a\nb"]), _layers, max_size=2) | values,
        "frontends": _named | values,
        "backends": _named | values,
        "noise": values,
    },
)


@st.composite
def _mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Return the full configuration with one to three values replaced, removed or added."""
    tables = tomli.loads(FULL_CONFIG)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path, _ in _walk(tables)[1:]]))
        table: Any = tables
        for step in path[:-1]:
            table = table[step]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                table[path[-1]] = draw(values)
            case "remove":
                del table[path[-1]]
            case "add" if isinstance(table, dict):
                table[draw(keys)] = draw(values)
            case _:
                table.append(draw(values))
    return tables


mutated_mappings = _mutated()


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Return the full file with one to four ranges removed, doubled or replaced."""
    data = FULL_CONFIG.encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        data = data[:start] + draw(st.binary(max_size=8) | st.just(data[start:end] * 2)) + data[end:]
    return data


mutated_files = _damaged()
