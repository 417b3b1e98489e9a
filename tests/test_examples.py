"""The programs in examples/ run and show what their pages say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OUTPUT = {
    "embed_in_trio.py": r"\* OK .*d1.*\n\* OK .*d2.*\nd1 drains: \* OK .*d2.*\n",
    "route_by_sni.py": r"imap\.example\.com: \* OK .*new.*\nold\.example\.com: \* OK .*old.*\n",
    "follow_servers.py": r"d1: UP, .*, \d+ checks\nd2: DOWN, .*, \d+ checks\n",
}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=60, cwd=EXAMPLES.parent
    )


@pytest.mark.parametrize("name", OUTPUT)
def test_example_prints_what_it_shows(name: str) -> None:
    done = run(EXAMPLES / name)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(OUTPUT[name], done.stdout), done.stdout


def test_example_tests_pass() -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_my_client.py")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_every_example_is_listed_and_run() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {*OUTPUT, "test_my_client.py"}
    assert names == set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
