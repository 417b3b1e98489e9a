"""Contributors' pages: the paths and names on them exist."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mailproxy"
PAGES = ["docs/architecture.md", "docs/glossary.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md", "examples/README.md"]  # fmt: skip
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
# A name of code, from the package or a module below it on. Keys of the configuration look alike: `log.to`.
NAME = re.compile(r"`((?:mailproxy|tests)(?:\.\w+)+)`")
GLOSSARY_NAME = re.compile(r"`([a-z_]+(?:\.\w+)+)`")


@pytest.mark.parametrize("page", PAGES)
def test_paths_on_the_page_exist(page: str) -> None:
    paths = PATH.findall((ROOT / page).read_text())
    missing = [path for path in paths if not (ROOT / path).exists() and not (PACKAGE / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_names_on_the_page_can_be_imported(page: str) -> None:
    for name in NAME.findall((ROOT / page).read_text()):
        pkgutil.resolve_name(name)


def test_names_in_the_glossary_can_be_imported() -> None:
    """The column of code leaves out the package's name. Short names continue the one before."""
    for row in table_rows("docs/glossary.md"):
        for name in GLOSSARY_NAME.findall(row[-1]):
            pkgutil.resolve_name(f"mailproxy.{name}")


def test_message_table_has_every_message() -> None:
    from mailproxy.workers.messages import MESSAGES

    section = (ROOT / "docs/architecture.md").read_text().partition("### Messages")[2].partition("###")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(MESSAGES)


def table_rows(page: str) -> Iterator[list[str]]:
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| term")):
            yield [cell.strip() for cell in line.strip("|").split("|")]
