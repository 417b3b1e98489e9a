"""What is made from the code is what stands in the files, and what the README shows works."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tomli

import mailproxy

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {file.name: file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def write() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts" / "reference"))
    spec = importlib.util.spec_from_file_location(
        "write_reference", ROOT / "scripts" / "reference" / "write.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.pop(0)


@pytest.mark.parametrize(
    ("file", "maker"), [("docs/configuration.md", "reference"), ("config/mailproxy.schema.json", "schema"),
     ("docs/man/mailproxy.1", "command_manual"), ("docs/man/mailproxy.toml.5", "configuration_manual")],
)  # fmt: skip
def test_made_files_are_fresh(write: ModuleType, file: str, maker: str) -> None:
    assert (ROOT / file).read_text() == getattr(write, maker)(), "scripts/write-reference makes it anew"


def test_ends_in_the_readme_are_fresh(write: ModuleType) -> None:
    assert write.with_ends(README) == README, "scripts/write-reference makes them anew"


def test_fields_and_events_of_the_log_are_fresh(write: ModuleType) -> None:
    page = PAGES["logging.md"]
    assert write.with_log(page) == page, "scripts/write-reference makes them anew"


@pytest.mark.parametrize("page", PAGES)
def test_configurations_of_the_documentation(page: str) -> None:
    for text in blocks("toml", PAGES[page]):
        tables = tomli.loads(text)
        if "frontends" not in tables:  # a part: goes with the whole one
            tables = {**tomli.loads(blocks("toml")[0]), **tables}
        assert mailproxy.from_mapping(tables).frontends


@pytest.mark.parametrize("page", PAGES)
def test_files_that_the_documentation_names_exist(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for place in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (folder / place).exists(), place


@pytest.mark.parametrize("page", PAGES)
def test_marks_of_figures_are_closed(page: str) -> None:
    """scripts/bench --document writes between them: one that is not closed would swallow what follows."""
    marks = re.findall(r"^<!-- (/?speed).*-->$", PAGES[page], re.MULTILINE)
    assert marks == ["speed", "/speed"] * (len(marks) // 2)
