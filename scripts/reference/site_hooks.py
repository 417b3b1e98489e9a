"""What MkDocs needs beside ``mkdocs.yml``: the pages and files outside ``docs`` that pages link to.

On a forge, pages link to files of the repository, such as ``../config/dovecot-sticky.toml``. The site has these files
below ``repository/``, and links lead there.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS, REPOSITORY = "docs/", "repository/"
# A code block, which stays as it is, or the target of a link.
_FENCE_OR_LINK = re.compile(
    r"^ *(```|~~~).*?^ *\1|(?<=\]\()(?![a-z]+:|#)(?P<target>[^)\s#]+)", re.DOTALL | re.MULTILINE
)

_CELL = re.compile(r"<td.*?</td>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to, and what those link to in turn."""
    pages = [DOCS + file.src_uri for file in files.documentation_pages()]
    for name in sorted(linked_files([*pages, "CONTRIBUTING.md"])):
        path, uri = ROOT / name, site_uri(name)
        if path.is_dir():
            files.append(File.generated(config, uri, content=listing(name)))
        else:
            files.append(File.generated(config, uri, abs_src_path=os.fspath(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where files are in the site."""
    del config, files
    here = page.file.src_uri
    source = here.removeprefix(REPOSITORY) if here.startswith(REPOSITORY) else DOCS + here
    if (ROOT / source).is_dir() or not (ROOT / source).exists():  # a listing, whose links are the site's
        return markdown
    return with_links(markdown, lambda target: relative_link(source, here, target))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Show ``\|`` in code of tables as a forge does: as ``|``."""
    del page, config, files
    return _CELL.sub(lambda match: match[0].replace(r"\|", "|"), html)


def relative_link(source: str, here: str, target: str) -> str:
    """Return where a link of the file ``source`` leads to, from its page ``here`` of the site."""
    name = repository_name(source, target)
    if not (ROOT / name).exists():
        return target  # MkDocs reports it
    return posixpath.relpath(site_uri(name), posixpath.dirname(here) or ".")


def with_links(markdown: str, change: Callable[[str], str]) -> str:
    return _FENCE_OR_LINK.sub(
        lambda match: change(match["target"]) if match["target"] else match[0], markdown
    )


def linked_files(names: Iterable[str]) -> set[str]:
    """Return the files and folders outside ``docs`` that these files of the repository lead to."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or not (ROOT / name).exists():
            continue
        seen.add(name)
        waiting += members(name) if (ROOT / name).is_dir() else links(name)
    return {name for name in seen if not name.startswith(DOCS)}


def links(name: str) -> Iterator[str]:
    if name.endswith(".md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for match in _FENCE_OR_LINK.finditer(text):
            if match["target"]:
                yield repository_name(name, match["target"])


def repository_name(source: str, target: str) -> str:
    """Return the path in the repository of what a file links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def site_uri(name: str) -> str:
    """Return where the site has a file of the repository. Folders are pages that list their files."""
    if name.startswith(DOCS):
        return name.removeprefix(DOCS)
    return f"{REPOSITORY}{name}/index.md" if (ROOT / name).is_dir() else REPOSITORY + name


def members(name: str) -> list[str]:
    """Return the files of a folder. Hidden ones and those of Python are left out."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / name).iterdir()
        if path.is_file() and not path.name.startswith(".")
    )


def listing(name: str) -> str:
    """Return the page that lists a folder."""
    files = "".join(f"- [`{path}`]({posixpath.basename(path)})\n" for path in members(name))
    return f"# {name}/\n\n{files}"
