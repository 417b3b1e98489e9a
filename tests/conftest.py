"""Options and fixtures of the whole suite."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mailproxy.app.python_build import PythonBuild
from mailproxy.testing import ThrowAwayCA

pytest_plugins = ["mailproxy.testing.fixtures"]

# Container images often set this variable. Without bytecode files, each process of pytest rewrites the asserts of all
# test files (8 s), and each program that a test starts compiles mailproxy (0.3 s).
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No deadline: a test must not fail because the machine is busy. For a long run: pytest --hypothesis-profile=deep
settings.register_profile("suite", deadline=None)
settings.register_profile("deep", max_examples=8000, deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--peers", action="store_true", help="require the tests against real Dovecot, HAProxy and clients"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three for each processor: most tests wait more than they compute."""
    return 3 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--peers"):
        return
    for item in items:
        if item.get_closest_marker("peers"):
            item.add_marker(pytest.mark.skip(reason="needs --peers"))


def pytest_collection_finish() -> None:
    """Exclude thousands of collected tests from garbage collection. They live until the end of the run."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = [
        report for report in terminalreporter.getreports("skipped") if "needs --peers" in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests against real programs were skipped: scripts/test --peers runs them"
        )


@pytest.fixture(autouse=True, scope="session")
def debian_build() -> Iterator[PythonBuild]:
    """Let ``mailproxy check`` take this Python for Debian's, so that its output is the same under every build."""
    build = PythonBuild("3.11.2", "GCC 12.2.0", is_debian=True, has_pgo=True, has_lto=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mailproxy.app.python_build.running_build", lambda: build)
        yield build


@pytest.fixture
def pem(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> Path:
    """Return a file with a certificate and its key."""
    return throw_away_ca.issue("imap.example.com", folder=tmp_path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user may read. Folders of pytest are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
