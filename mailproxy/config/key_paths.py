"""Paths of keys, as faults write them: ``frontends.imap.bind[0].mode``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailproxy.config.values import printable

_SEPARATOR = re.compile(r"[.\[]")


def join(path: str, name: str) -> str:
    """The path of a key below ``path``, quoted as TOML would where it must be."""
    if not name or not name.replace("_", "").replace("-", "").isalnum():
        name = f'"{printable(name)}"'
    return f"{path}.{name}" if path else name


def prefixes(path: str) -> Iterator[str]:
    """The path and what may be its ancestors, the longest first."""
    yield path
    for separator in reversed([match.start() for match in _SEPARATOR.finditer(path)]):
        yield path[:separator]
