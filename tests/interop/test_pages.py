"""What the README and the quickstart tell a reader to type, typed: with Debian's Dovecot as it is configured there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.pages import PAGES, Block, blocks
from tests.support.walkthrough import Walkthrough

pytestmark = pytest.mark.peers

QUICKSTART = "docs/quickstart.md"


def blocks_before(page: str, heading: str) -> list[Block]:
    line = PAGES[page].splitlines().index(heading) + 1
    return [block for block in blocks(page) if block.line < line]


def test_quickstart_works_as_written(tmp_path: Path) -> None:
    with Walkthrough(tmp_path) as walk:
        for block in blocks(QUICKSTART):
            if block.language == "json":
                printed, written = (
                    json.loads(walk.run("tail -n 1 /var/log/mailproxy.json")),
                    json.loads(block.text),
                )
                assert list(printed) == list(written)
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
                    assert printed[field] == written[field], field
            else:
                walk.follow(block)
        walk.stop()


def test_readme_installs_and_starts_the_demo(tmp_path: Path) -> None:
    install, *_ = blocks("README.md", "sh")
    with Walkthrough(tmp_path) as walk:
        walk.follow(install)
        walk.wait_for("Each session's line appears here when it is over. Ctrl-C stops.")
        walk.stop()


def test_readme_checks_and_runs_its_configuration(tmp_path: Path) -> None:
    """Its Dovecots are the quickstart's: they differ from the README's in their addresses."""
    _, check_and_run, _ = blocks("README.md", "sh")
    (configuration,) = blocks("README.md", "toml")
    text = configuration.text.replace("192.0.2.11", "127.0.0.2").replace("192.0.2.12", "127.0.0.3")
    text = text.replace("[::]:", "127.0.0.1:")
    with Walkthrough(tmp_path) as walk:
        for block in blocks_before(QUICKSTART, "## Configure the proxy"):
            walk.follow(block)
        walk.run(f"cat > mailproxy.toml <<'@@'\n{text}@@")
        walk.follow(check_and_run)
        walk.wait_for(r".*mailproxy is ready")
        walk.stop()
