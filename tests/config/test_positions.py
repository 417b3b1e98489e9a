"""Positions: every key of a file has a line and a column, and faults point to where a value is written."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import mailproxy
from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.source.positions import key_offsets
from mailproxy.config.source.source_map import SourceMap
from mailproxy.errors import ConfigError, Fault
from tests.support.config_noise import FULL_CONFIG, mutated_files

ROOT = Path(__file__).parents[2]
KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")

# Every type of value, with characters inside strings that could be mistaken for structure.
SCALARS = (
    "1", "-1.5e3", "0xff", "inf", "nan", "true", "1979-05-27 07:32:00Z", "07:32:00", '""', "''", '"[a]"', "'{ b = 1 }'",
    r'"a\"] # \\"', r"'\'", '"""\n[x]\n"quoted" ""\\"""" # not yet\n"""', '"""a"""""', "'''\nit's = ['''''", '""""""', "''''''",
)  # fmt: skip
SPACING = st.sampled_from(["", " ", "\n", "  # ] } , = [x]\n", "\n\n\t"])
bare_keys = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=3)
keys = st.one_of(
    bare_keys, bare_keys.map(lambda key: f'"{key}"'), st.sampled_from(['"a.b"', "'[c]'", '"\\u00e9"', '""', "'#'", '"= 1"'])
)  # fmt: skip
dotted_keys = st.lists(keys, min_size=1, max_size=3).flatmap(
    lambda parts: st.sampled_from([".", " . "]).map(lambda dot: dot.join(parts))
)


def _lists(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.tuples(SPACING, items, SPACING).map("".join)
    return st.tuples(st.lists(item, max_size=3), st.sampled_from(["", ","]), SPACING).map(
        lambda drawn: f"[{','.join(drawn[0])}{drawn[1] if drawn[0] else ''}{drawn[2]}]"
    )


def _inline_tables(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(dotted_keys, items).map(" = ".join)
    return st.lists(pair, max_size=3).map(lambda pairs: f"{{ {', '.join(pairs)} }}")


values = st.recursive(
    st.sampled_from(SCALARS), lambda items: _lists(items) | _inline_tables(items), max_leaves=6
)
pairs = st.tuples(st.sampled_from(["", "  "]), dotted_keys, st.sampled_from(["=", " = ", "\t="]), values).map(
    "".join
)
headers = dotted_keys.flatmap(
    lambda key: st.sampled_from([f"[{key}]", f"[ {key} ]", f"[[{key}]]", f"[[ {key} ]] # x"])
)
lines = st.one_of(pairs, headers, st.sampled_from(["", "# comment = [", "  "]))


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Lines of TOML. A line is left out if the parser rejects it after the previous lines."""
    text = ""
    for line in draw(st.lists(lines, max_size=12)):
        try:
            tomli.loads(f"{text}{line}\n")
        except tomli.TOMLDecodeError:
            continue
        text += f"{line}\n"
    return text


def paths(value: Any, path: ConfigPath = ROOT_PATH) -> Iterator[tuple[ConfigPath, str | int]]:
    """Yield every path of nested tables and lists, with its last step."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield path / key, key
            yield from paths(item, path / key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield path / index, index
            yield from paths(item, path / index)


def assert_all_keys_located(text: str) -> None:
    offsets = key_offsets(text)
    steps = dict(paths(tomli.loads(text)))
    assert set(offsets) == set(steps)
    for path, step in steps.items():
        offset = offsets[path]
        if isinstance(step, str):
            key = KEY.match(text, offset)
            assert key is not None
            assert step in tomli.loads(f"{key[0]} = 0")
        else:
            assert text[offset] not in " \t\n,#]}="
            assert step == 0 or offset > offsets[ConfigPath((*path.steps[:-1], step - 1))]


@settings(max_examples=400, deadline=None)
@example('[[a]]\n[[a]]\nb.c = [{ "d" = 1 },\n # ]\n { e = """\n"""" }\n]\n[a.f]\ng = 1')
@example("[a.b]\n[a]\n")
@given(documents())
def test_keys_of_generated_documents_are_located(text: str) -> None:
    assert_all_keys_located(text)


@settings(max_examples=150, deadline=None)
@given(mutated_files)
def test_keys_of_mutated_files_are_located(data: bytes) -> None:
    try:
        text = data.decode().replace("\r\n", "\n")
        tomli.loads(text)
    except ValueError:
        assume(False)
    assert_all_keys_located(text)


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.toml")), ids=lambda file: file.name)
def test_keys_of_example_files_are_located(file: Path) -> None:
    assert_all_keys_located(file.read_text(encoding="utf-8"))


def test_own_header_wins_over_dotted_header() -> None:
    assert key_offsets("[a.b]\n[a]\n")[ROOT_PATH / "a"] == 7


LAYERED = """\
[defaults.backend]
timeouts.server = "10m"
[defaults.bind]
backlog = 7
[profiles.site.frontend.timeouts]
client = "10m"
[profiles.site.server]
weight = 3
[profiles.shared.backend]
servers = [{ name = "s1", address = "10.0.0.4" }]

[frontends.imap]
profile = "site"

[[frontends.imap.bind]]
name = "one"
address = "*:143"
[[frontends.imap.bind]]
address = "*:144"
tls = { certificates = [
  "a.pem",
  "b.pem",
] }

[backends."x.y"]
servers = [
  "10.0.0.1",
  { name = "d18", address = "10.0.0.2", check = "imap" },
]
[backends.z]
profile = "site"
servers = ["10.0.0.3"]
[backends.heir]
profile = "shared"
"""


@pytest.mark.parametrize(
    ("path", "line", "column", "name"),
    [
        ("frontends.imap", 12, 12, ""),
        ("frontends.imap.backend", 12, 12, ""),  # the key is missing
        ("frontends.imap.bind[0]", 15, 18, "one"),
        ("frontends.imap.bind[0].address", 17, 1, "one"),
        ("frontends.imap.bind[0].backlog", 4, 1, "one"),  # inherited from the defaults
        ("frontends.imap.bind[1].mode", 18, 18, ""),
        ("frontends.imap.bind[1].tls.certificates[1]", 22, 3, ""),
        ("frontends.imap.timeouts.client", 6, 1, ""),  # inherited from the profile
        ('backends."x.y".servers[0].address', 27, 3, ""),  # in the short form
        ('backends."x.y".servers[1].address', 28, 19, "d18"),
        ('backends."x.y".servers[1].check.type', 28, 41, "d18"),
        ('backends."x.y".timeouts.server', 2, 10, ""),
        ("backends.z.servers[0].weight", 8, 1, ""),
        ("profiles.site.server.weight", 8, 1, ""),
        ("process.user", 1, 1, ""),
        ("", 1, 1, ""),
        ("backends.heir.servers[0]", 10, 12, "s1"),  # the list is inherited from the profile
        ("backends.heir.servers[0].address", 10, 27, "s1"),
    ],
)
def test_fault_is_located(path: str, line: int, column: int, name: str) -> None:
    source_map = SourceMap("mailproxy.toml", tomli.loads(LAYERED), LAYERED)
    fault = source_map.locate(Fault(path, "is odd"))
    assert (fault.line, fault.column, fault.name) == (line, column, name)
    assert source_map.locate(fault) is fault


def test_crlf_counts_as_one_line_end(tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_bytes(FULL_CONFIG.replace("\n", "\r\n").encode() + b"\r\n[nowhere]\r\n")
    with pytest.raises(ConfigError) as caught:
        mailproxy.load(file)
    (fault,) = caught.value.faults
    assert (fault.line, fault.column) == (FULL_CONFIG.count("\n") + 2, 2)


def test_mapping_has_names_but_no_lines() -> None:
    tables = {"frontends": {"imap": {"bind": [{"name": "IMAP", "address": "*:143", "backlog": 0}]}}}
    with pytest.raises(ConfigError) as caught:
        mailproxy.from_mapping(tables, source="made.py")
    assert str(caught.value).startswith("made.py: frontends.imap.bind[0].backlog (IMAP): 0 is not allowed")


def test_deeply_nested_file_is_read_without_positions(tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text(f"a = {'[' * 350}{']' * 350}\n")
    with pytest.raises(ConfigError):
        mailproxy.load(file)
