"""The commands of the README and the quickstart, executed with Debian's Dovecot as configured there."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.support.pages import PAGES, Block, blocks
from tests.support.walkthrough import Walkthrough
from tests.support.worker_group import wait_until

pytestmark = pytest.mark.peers

QUICKSTART = "docs/quickstart.md"


def blocks_before(page: str, heading: str) -> list[Block]:
    line = PAGES[page].splitlines().index(heading) + 1
    return [block for block in blocks(page) if block.line < line]


def last_line(walkthrough: Walkthrough, end: str) -> dict[str, object] | None:
    line: dict[str, object] = json.loads(walkthrough.run("tail -n 1 /var/log/mailproxy.json"))
    return line if line["end"] == end else None


def test_quickstart_works_as_written(tmp_path: Path) -> None:
    with Walkthrough(tmp_path) as walkthrough:
        for block in blocks(QUICKSTART):
            if block.language == "json":
                expected = json.loads(block.text)
                # This log has a task of its own: the session's line may be in the other one first.
                actual = wait_until(partial(last_line, walkthrough, expected["end"]))
                assert list(actual) == list(expected)
                for field in (
                    "end",
                    "by",
                    "phase",
                    "state",
                    "backend",
                    "server",
                    "detail",
                    "tls_version",
                    "sni",
                ):
                    assert actual[field] == expected[field], field
            else:
                walkthrough.follow(block)
        walkthrough.stop()


def test_readme_installs_and_starts_the_demo(tmp_path: Path) -> None:
    install, *_ = blocks("README.md", "sh")
    with Walkthrough(tmp_path) as walkthrough:
        walkthrough.follow(install)
        walkthrough.wait_for("The line of each session appears here when it ends. Ctrl-C stops.")
        walkthrough.stop()


def test_readme_checks_and_runs_its_configuration(tmp_path: Path) -> None:
    """The Dovecots are those of the quickstart, which differ from the README's in their addresses."""
    _, check_and_run, _ = blocks("README.md", "sh")
    (configuration,) = blocks("README.md", "toml")
    text = configuration.text.replace("192.0.2.11", "127.0.0.2").replace("192.0.2.12", "127.0.0.3")
    text = text.replace("[::]:", "127.0.0.1:")
    with Walkthrough(tmp_path) as walkthrough:
        for block in blocks_before(QUICKSTART, "## Configure the proxy"):
            walkthrough.follow(block)
        walkthrough.run(f"cat > mailproxy.toml <<'@@'\n{text}@@")
        walkthrough.follow(check_and_run)
        walkthrough.wait_for(r".*mailproxy is ready")
        walkthrough.stop()
