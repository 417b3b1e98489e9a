"""Run mailproxy's health checks of a server on demand, and read the lines that they leave in the server's log."""

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
    """Return a complete configuration with these backends and an unused frontend."""
    frontend = {"backend": next(iter(backends)), "bind": [{"address": "127.0.0.1:0"}]}
    return {"log": {"to": "stdout"}, "frontends": {"unused": frontend}, "backends": dict(backends)}


def to_toml(value: object) -> str:
    """Return a value in TOML. Strings, numbers and booleans are the same as in JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    return json.dumps(value)


def run_checks(table: Table, times: int) -> list[str]:
    """Check a backend with one server several times in a row, and return the result of each check."""
    config = mailproxy.from_mapping(configuration({"servers": table}))
    store = load_and_check(config)
    backend = make_backend(config.backends["servers"], store.server_contexts, Log([Output(StreamTarget(2))]))
    paths = entry_paths(config.frontends.values(), backend.name)
    (check,) = plan_checks(backend, paths, lambda tls: server_context(store.server_contexts, tls))

    async def run() -> list[str]:
        outcomes: list[CheckOutcome] = []
        for _ in range(times):
            await check.run(outcomes.append)
        return [str(outcome.result) for outcome in outcomes]

    return trio.run(run)


@attrs.frozen
class LogWatcher:
    """Counts new lines in a server's log.

    Attributes:
        disconnect: a text in exactly one line of each connection.
        guard: connects a client after the checks. When the log has the end of that connection, it has all checks.
        guard_end: the line at the end of the guard's connection.
        mask: returns a line without its variable parts, or None for lines of the guard and unrelated ones.
    """

    log: LogFile
    disconnect: str
    guard: Callable[[], None]
    guard_end: re.Pattern[str]
    mask: Callable[[str], str | None]

    def trace(self, act: Callable[[], object], connections: int) -> Counter[str]:
        """Run an action that makes this number of connections, and return the lines that it leaves."""

        def disconnects() -> int:
            return sum(count for line, count in self.lines_after(before).items() if self.disconnect in line)

        before = len(self.log.lines())
        act()
        wait_until(lambda: disconnects() >= connections, f"{connections} connections\n{self.log!r}")
        self.guard()
        self.log.wait_for(self.guard_end, after=before)
        return self.lines_after(before)

    def lines_after(self, before: int) -> Counter[str]:
        return Counter(line for line in map(self.mask, self.log.lines()[before:]) if line)
