"""Example programs: they run, and print what their pages show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

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
def test_example_prints_expected_output(name: str) -> None:
    result = run(EXAMPLES / name)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(OUTPUT[name], result.stdout), result.stdout


def test_example_tests_pass() -> None:
    result = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_my_client.py")
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout


def test_every_example_is_listed_and_run() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {*OUTPUT, "test_my_client.py"}
    assert names == set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
