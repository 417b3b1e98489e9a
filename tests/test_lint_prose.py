"""scripts/lint-prose: it finds each type of fault, and only in prose."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "lint-prose"
LONG = "word " * 31


@pytest.fixture(scope="module")
def lint() -> ModuleType:
    loader = SourceFileLoader("lint_prose", str(SCRIPT))
    spec = importlib.util.spec_from_loader("lint_prose", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_idiom_is_found_in_comments_and_docstrings_only(lint: ModuleType) -> None:
    code = (
        '"""Whoever reads this.\n\nNobody does.\n"""\n\n'
        'told = "who said so"  # so long\n\n\n'
        "def f() -> None:\n"
        '    """Plain words."""\n'
    )
    words, findings = lint.check_code(code)
    assert words == 10
    assert [(kind, line, text) for kind, line, text in findings] == [
        ("idiom", 6, "“so long”"),
        ("idiom", 1, "“Whoever”"),
        ("idiom", 3, "“Nobody”"),
    ]


@pytest.mark.parametrize(
    ("page", "kind", "line"),
    [
        ("# Title\n\n" + "x " * 51, "columns", 3),
        (f"Short one.\n\n- {LONG[:60]}\n  {LONG[60:]}\n", "sentence", 3),
        ("| key | meaning |\n|---|---|\n| `a` | " + "word " * 16 + "|\n", "cell", 3),
    ],
)  # fmt: skip
def test_page_fault_is_found_with_its_line(lint: ModuleType, page: str, kind: str, line: int) -> None:
    assert (kind, line) in [finding[:2] for finding in lint.check_page(page)]


@pytest.mark.parametrize(
    "page",
    [
        f"Text:\n\n```\n{LONG}\n```\n",
        f"~~~toml\n# {LONG}\n~~~\n",
        f"<!-- ends: made by a script -->\n| {LONG} |\n{LONG}\n<!-- /ends -->\n",
        "- [" + "x" * 60 + "](https://example.com/" + "y" * 60 + ").\n",
        "https://example.com/" + "y" * 100 + "\n",
        f"Nine words with `{LONG[:60]}`\nand [a link](https://example.com/a/b).\n",
        "| `" + "word " * 16 + "` | [b](c) |\n",
        "word " * 15 + "\n" + "word " * 8 + "2. Another " + "word " * 8 + "\n" + "word " * 12,
        "Ten words are not too many for one sentence here. " * 2 + "\n" + "And the next sentence begins. " * 3,
    ],
    ids=["fence", "tildes", "generated", "link", "address", "inline", "cell", "number", "sentences"],
)  # fmt: skip
def test_plain_page_has_no_findings(lint: ModuleType, page: str) -> None:
    assert lint.check_page(page) == []
