"""Imported HAProxy files: mailproxy and HAProxy do the same with the same clients and failing servers.

Compared are the server of each session, what the server received with its PROXY header, how the connection ends,
and the log line. All files run in one pair of processes.

Intended differences:

- A session that a rule rejects when it connects has a line in mailproxy (`PR`), and none in HAProxy.
- With `option dontlognull`, HAProxy also leaves out sessions that fail before the client sends a byte. So the
  cases with failures switch it off.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from mailproxy.importers import import_files
from tests.support.interop.haproxy_cases import CASES
from tests.support.interop.imported import Case, Outcome, Servers, ports_of
from tests.support.programs.program import Mailproxy, Program, find, wait_until

pytestmark = [pytest.mark.peers, pytest.mark.slow]

GLOBAL = "global\n    log stdout format raw local0\n    maxconn 500\n"


class HAProxy(Program):
    """HAProxy with several files."""

    def __init__(self, files: list[Path], folder: Path, listens: list[tuple[str, int]]) -> None:
        options = [word for file in files for word in ("-f", str(file))]
        super().__init__([find("haproxy"), "-db", *options], folder, listens)

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGINT)


@attrs.frozen
class Pair:
    """Both programs with all files."""

    servers: Servers
    original: Program
    imported: Program
    ports: dict[str, list[int]]
    imported_ports: dict[str, list[int]]

    def outcomes(self, case: Case) -> tuple[Outcome, Outcome]:
        for program in (self.original, self.imported):
            for name in case.down:
                wait_until(lambda: f"Server {name} is DOWN" in program.log.text(), f"{name} is down")  # noqa: B023 - called at once
        return (
            self.servers.run(case, self.ports[case.name], self.original.log.lines),
            self.servers.run(case, self.imported_ports[case.name], self.imported.log.lines),
        )


def write_files(folder: Path, servers: Servers, ports: dict[str, list[int]]) -> list[Path]:
    folder.mkdir()
    file = folder / "0-global.cfg"
    file.write_text(GLOBAL)
    files = [file]
    for case in CASES:
        file = folder / f"{case.name}.cfg"
        file.write_text(servers.text(case, ports[case.name]))
        files.append(file)
    return files


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("imported")
    with Servers(folder) as servers, ports_of(CASES) as ports, ports_of(CASES) as imported_ports:
        files = write_files(folder / "haproxy", servers, ports)
        copies = write_files(folder / "copies", servers, imported_ports)
        result = import_files("haproxy", copies)
        (folder / "report").write_text("\n".join(map(str, result.entries)))
        listens = [("127.0.0.1", port) for numbers in ports.values() for port in numbers]
        imported_listens = [("127.0.0.1", port) for numbers in imported_ports.values() for port in numbers]
        with (
            HAProxy(files, folder, listens) as original,
            Mailproxy(result.text, folder, imported_listens) as imported,
        ):
            yield Pair(servers, original, imported, ports, imported_ports)


def test_there_are_many() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_outcome(pair: Pair, case: Case) -> None:
    original, imported = pair.outcomes(case)
    assert imported == original
    if case.expected is not None:
        assert original.clients == case.expected


def test_haproxy_accepts_the_files(pair: Pair) -> None:
    assert not re.search(r"\[ALERT\]", pair.original.log.text())


def test_servers_without_checks_are_not_checked(pair: Pair) -> None:
    """Nothing but the servers that a case says is down."""
    down = set(re.findall(r"Server (\S+) is DOWN", pair.imported.log.text()))
    assert down == {name for case in CASES for name in case.down}
    assert down == set(re.findall(r"Server (\S+) is DOWN", pair.original.log.text()))
