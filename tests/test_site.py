"""The documentation as a site: it is built without warnings, needs no other host, and shows what a forge shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from tests.support.pages import PAGES, ROOT, anchors

pytest.importorskip("mkdocs")
pytestmark = pytest.mark.slow

DOCS = [page for page in PAGES if page.startswith("docs/")]
OTHER_HOST = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(?:https?:)?//[^>]*>')
# Markdown that was not understood: lists without an empty line before them, tables, blocks in lists, emphasis.
LEFT_OVER = re.compile(r"^\s*(?:[-*] |\d+\. |\||#+ )|```|\*\*|\]\(", re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    return folder


def article(site: Path, page: str) -> str:
    """Return what a page has between navigation and footer."""
    html = (site / Path(page).relative_to("docs").with_suffix(".html")).read_text()
    return html.partition("<article")[2].partition("</article>")[0]


def test_site_needs_no_other_host(site: Path) -> None:
    assert {
        match[0] for file in site.rglob("*.html") for match in OTHER_HOST.finditer(file.read_text())
    } == set()


def test_files_outside_docs_that_pages_link_to_are_in_the_site(site: Path) -> None:
    assert (site / "repository/config/dovecot-sticky.toml").read_bytes() == (
        ROOT / "config/dovecot-sticky.toml"
    ).read_bytes()
    assert 'href="repository/CONTRIBUTING.html"' in article(site, "docs/index.md")
    assert 'href="../quickstart.html"' in (site / "repository/index.html").read_text()
    assert 'href="dovecot-sticky.toml"' in (site / "repository/config/index.html").read_text()


@pytest.mark.parametrize("page", DOCS)
def test_anchors_are_those_of_the_forge(site: Path, page: str) -> None:
    assert set(re.findall(r'<h\d id="([^"]*)"', article(site, page))) == anchors(page)


@pytest.mark.parametrize("page", DOCS)
def test_no_markdown_is_left_over(site: Path, page: str) -> None:
    html = re.sub(r"<(pre|code)\b.*?</\1>", "", article(site, page), flags=re.DOTALL)
    texts = re.findall(r"<(?:p|li|td)\b[^>]*>(.*?)</(?:p|li|td)>", html, re.DOTALL)
    assert [unescape(text) for text in texts if LEFT_OVER.search(text)] == []


@pytest.mark.parametrize("page", DOCS)
def test_code_in_tables_has_no_backslashes_before_bars(site: Path, page: str) -> None:
    assert r"\|" not in "".join(re.findall(r"<td.*?</td>", article(site, page)))
