"""The user documentation for tests: code blocks, headings, links, and configurations that can be checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from mailproxy.testing import ThrowAwayCA

ROOT = Path(__file__).resolve().parents[2]
# Every page but the changelog, whose old entries name removed things.
PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for folder in (".", "docs", "examples", "tests")
    for file in sorted((ROOT / folder).glob("*.md"))
    if file.name != "CHANGELOG.md"
}
# The languages of blocks that tests know. No test would execute a block without one.
LANGUAGES = frozenset(
    {
        "toml",
        "sh",
        "haproxy",
        "nginx",
        "caddyfile",
        "dovecot",
        "log",
        "json",
        "python",
        "text",
        "mermaid",
        "yaml",
    }
)
_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SAVED_AS = re.compile(r" as `(/\S+)`:\s*\Z")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@frozen
class Block:
    """A code block of a page.

    Attributes:
        line: the line of its fence, from 1.
        language: the word behind the fence; empty if there is none.
        path: where the page says that the reader saves it; empty if it does not.
    """

    page: str
    line: int
    language: str
    text: str
    path: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the code blocks of a page, or those in these languages."""
    return [block for block in _all_blocks(page) if not languages or block.language in languages]


def all_blocks(*languages: str) -> list[Block]:
    """Return the code blocks of all pages in these languages."""
    return [block for page in PAGES for block in blocks(page, *languages)]


def _all_blocks(page: str) -> Iterator[Block]:
    text = PAGES[page]
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        saved = _SAVED_AS.search(before)
        indent = match[1]
        code = re.sub(rf"^{indent}", "", match[3], flags=re.MULTILINE)
        yield Block(page, before.count("\n") + 1, match[2], code, saved[1] if saved else "")


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = _FENCE.sub("", PAGES[page])
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    """Return the targets of a page's links within the project."""
    targets = _LINK.findall(_FENCE.sub("", PAGES[page]))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


# Configurations

FRONTEND = """
[frontends.imap]
protocol = "imap"
backend = "dovecot"
bind = ["127.0.0.1:143"]
"""
BACKEND = """
[backends.dovecot]
servers = ["192.0.2.11:143"]
"""


def complete(text: str) -> str:
    """Return a configuration with the tables that a fragment leaves out: a frontend and its backend."""
    if "[frontends." not in text:
        text += FRONTEND
    if "[backends." not in text:
        text += BACKEND
    return text


def with_files(text: str, root: Path, ca: ThrowAwayCA) -> str:
    """Return a configuration of mailproxy, HAProxy, nginx or Caddy with paths and users that exist on this machine.

    Args:
        root: a folder for the files; ``/etc`` and ``/var/log`` of the text are below it afterwards.
    """
    certificate = ca.issue("imap.example.com", folder=root)
    for program in ("mailproxy", "haproxy", "nginx"):
        folder = root / "etc" / program
        variable = root / "var"
        for path in (
            folder / "certs",
            folder / "other",
            variable / "log" / program,
            variable / "lib" / program,
        ):
            path.mkdir(parents=True, exist_ok=True)
        for name in (
            "certs/imap.pem",
            "imap.crt",
            "imap.key",
            "client.pem",
            "other/fullchain.pem",
            "other/privkey.pem",
        ):
            (folder / name).write_bytes(certificate.read_bytes())
        (folder / "http.pem").write_bytes(certificate.read_bytes())
        (folder / "banned.txt").write_text("198.51.100.0/24\n")
        (folder / "token").write_text("0123456789abcdef" * 2)
        (folder / "token").chmod(0o600)
        for name in ("ca.pem", "users-ca.pem"):
            (folder / name).write_bytes(ca.pem.read_bytes())
        for name in ("acme.key", "eab.key"):
            (folder / name).write_text("c2VjcmV0")
        (folder / "dns-hook").write_text("#!/bin/sh\n")
        (folder / "dns-hook").chmod(0o755)
        (folder / "users-crl.pem").write_bytes(ca.revoke(certificate).read_bytes())
    for old, new in {
        "/etc/": f"{root}/etc/",
        "/var/log/": f"{root}/var/log/",
        "/var/lib/mailproxy/": f"{root}/var/lib/mailproxy/",
        "/run/haproxy/": f"{root}/",
        "/run/mailproxy/": f"{root}/",
        'user = "mailproxy"': 'user = "nobody"',
        'http = "192.0.2.1:': 'http = "127.0.0.1:',
        "user haproxy": "user nobody",
        "group haproxy": "group nogroup",
    }.items():
        text = text.replace(old, new)
    return text
