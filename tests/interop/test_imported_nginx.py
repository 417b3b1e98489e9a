"""Imported nginx files: mailproxy and nginx do the same with the same clients and failing servers.

Compared are the server of each session, what the server received with its PROXY header, and how the connection
ends. All files are included in one configuration and run in one pair of processes.

Intended differences:

- A PROXY header to the server names the client's destination from the header that came in. nginx names its own
  address there, so the case uses that.
- nginx closes both sides as soon as one of them has closed. mailproxy forwards the close of one side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from mailproxy.importers import import_files
from tests.support.interop.imported import Case, Servers, ports_of
from tests.support.interop.nginx_cases import CASES
from tests.support.programs.nginx import MODULE
from tests.support.programs.program import Mailproxy, Program, find

pytestmark = [pytest.mark.peers, pytest.mark.slow]

MAIN = """load_module {module};
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr info;
events {{ }}
stream {{
    include {files}/*.conf;
}}
"""


class Nginx(Program):
    """nginx with one configuration."""

    def __init__(self, file: Path, folder: Path, listens: list[tuple[str, int]]) -> None:
        super().__init__([find("nginx"), "-c", str(file), "-e", "stderr"], folder, listens)


@attrs.frozen
class Pair:
    """Both programs with all files."""

    servers: Servers
    ports: dict[str, list[int]]
    imported_ports: dict[str, list[int]]


def write_files(folder: Path, servers: Servers, ports: dict[str, list[int]]) -> Path:
    folder.mkdir()
    for case in CASES:
        (folder / f"{case.name}.conf").write_text(servers.text(case, ports[case.name]))
    main = folder.with_suffix(".main")
    main.write_text(MAIN.format(module=MODULE, folder=folder, files=folder))
    return main


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("imported")
    with Servers(folder) as servers, ports_of(CASES) as ports, ports_of(CASES) as imported_ports:
        main = write_files(folder / "nginx", servers, ports)
        result = import_files("nginx", [write_files(folder / "copies", servers, imported_ports)])
        (folder / "report").write_text("\n".join(map(str, result.entries)))
        listens = [("127.0.0.1", port) for numbers in ports.values() for port in numbers]
        imported_listens = [("127.0.0.1", port) for numbers in imported_ports.values() for port in numbers]
        with Nginx(main, folder, listens), Mailproxy(result.text, folder, imported_listens):
            yield Pair(servers, ports, imported_ports)


def test_there_are_many() -> None:
    assert len(CASES) >= 15
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_outcome(pair: Pair, case: Case) -> None:
    def none() -> list[str]:
        return []

    original = pair.servers.run(case, pair.ports[case.name], none)
    imported = pair.servers.run(case, pair.imported_ports[case.name], none)
    assert imported == original
    if case.expected is not None:
        assert original.clients == case.expected
