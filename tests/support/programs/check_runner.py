"""mailproxy's health checks of a server, made when a test wants them and as often, and what they leave in its log."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import trio

import mailproxy
from mailproxy.app import load_and_check
from mailproxy.config.check_plan import entry_paths
from mailproxy.log import Log, Output
from mailproxy.log.targets import StreamTarget
from mailproxy.proxy.backend.factory import make_backend
from mailproxy.proxy.backend.server import CheckOutcome, server_context
from mailproxy.proxy.checks.check import plan_checks
from tests.support.programs.program import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.programs.program import LogFile

Table = dict[str, object]


def configuration(backends: Mapping[str, Table]) -> Table:
    """A whole one, as the file has it; nobody need come in."""
    door = {"backend": next(iter(backends)), "bind": [{"address": "127.0.0.1:0"}]}
    return {"log": {"to": "stdout"}, "frontends": {"door": door}, "backends": dict(backends)}


def to_toml(value: object) -> str:
    """The value behind a key; JSON's strings, numbers and booleans are TOML's."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    return json.dumps(value)


def run_checks(table: Table, times: int) -> list[str]:
    """What came of each check of a backend with one server, one after the other."""
    config = mailproxy.from_mapping(configuration({"servers": table}))
    material = load_and_check(config)
    backend = make_backend(
        config.backends["servers"], material.server_contexts, Log([Output(StreamTarget(2))])
    )
    found = entry_paths(config.frontends.values(), backend.name)
    (check,) = plan_checks(backend, found, lambda tls: server_context(material.server_contexts, tls))

    async def make() -> list[str]:
        made: list[CheckOutcome] = []
        for _ in range(times):
            await check.run(made.append)
        return [str(checked.result) for checked in made]

    return trio.run(make)


@attrs.frozen
class LogWatcher:
    """Over a server's log. ``departure`` is in one line of each visit. ``guard`` is somebody who comes behind the checks:
    when the log has that visit to its ``end``, it has all of theirs. ``masked``: a line without what is never the same,
    None for the guard's and others.
    """

    log: LogFile
    departure: str
    guard: Callable[[], None]
    end: re.Pattern[str]
    masked: Callable[[str], str | None]

    def trace(self, act: Callable[[], object], visits: int) -> Counter[str]:
        """What is logged of this, which is so many visits."""

        def departures() -> int:
            return sum(count for line, count in self.since(before).items() if self.departure in line)

        before = len(self.log.lines())
        act()
        wait_until(lambda: departures() >= visits, f"{visits} visits\n{self.log!r}")
        self.guard()
        self.log.wait_for(self.end, behind=before)
        return self.since(before)

    def since(self, before: int) -> Counter[str]:
        return Counter(line for line in map(self.masked, self.log.lines()[before:]) if line)
