"""Arguments that no command expects: each is answered, and none is a fault of the proxy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailproxy.admin.runtime.commands import COMMANDS
from mailproxy.admin.runtime.numbers import parse_number, parse_session_id
from tests.admin.conftest import open_administered
from tests.support.proxy.proxy_harness import ProxyHarness

_HOSTILE = (
    "9" * 5000,
    "\u00b2",
    "\u0663",
    "--5",
    "-1",
    "1_0",
    "0x" + "f" * 100,
    "nan",
    "b/",
    "/s1",
    "%",
    "\x00",
)
# These end the conversation or the proxy, or change what the others may do.
_LEFT_OUT = {"quit", "prompt", "user", "operator", "hand-over", "reload"}
_PREFIXES = (
    "set server b/s1 state", "set server b/s1 weight", "set server b/s1 health", "set server b/s1 check-port",
    "set server b/s1 addr", "set server b/s1 addr 127.0.0.1 port", "set weight b/s1", "set maxconn server b/s1",
    "set maxconn frontend f", "set table t key 10.0.0.1 data.server_id", "set table t key",
    "show table t data.server_id eq", "show table t key", "clear table t key", "show stat -1 -1", "show stat -1", "show sess older",
    "set timeout cli", "drain server b/s1 within", "drain frontend f within",
)  # fmt: skip


@pytest.mark.parametrize(
    "command", [*(" ".join(each.words) for each in COMMANDS if each.words[0] not in _LEFT_OUT), *_PREFIXES]
)
async def test_every_argument_is_answered(harness: ProxyHarness, tmp_path: Path, command: str) -> None:
    table = {"servers": ["127.0.0.1:9"], "check": "none", "stick": {"size": 10, "expire": "1h"}}
    administered = await open_administered(harness, tmp_path, backends={"t": table})
    for argument in _HOSTILE:
        answer = await administered.talk(f"{command} {argument} {argument} {argument}\n".encode())
        assert answer.endswith(b"\n\n") or answer == b"\n"


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("-12", -12), ("9" * 18, 10**18 - 1), ("9" * 5000, 10**18), ("-" + "9" * 5000, -(10**18)),
     ("", None), ("-", None), ("--5", None), ("1_0", None), ("\u00b2", None), ("\u0663", None), (" 1", None)],
)  # fmt: skip
def test_numbers_have_ascii_digits_and_a_limit(text: str, number: int | None) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("0x1a", 26), ("1A", 26), ("", None), ("-1", None), ("1_0", None), ("f" * 17, None)]
)
def test_session_ids_are_hexadecimal(text: str, number: int | None) -> None:
    assert parse_session_id(text) == number
