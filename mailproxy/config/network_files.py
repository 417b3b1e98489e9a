"""Files with lists of networks: ``"file:PATH"`` in a list means the networks of the file.

A file has one network or address in each line. What follows ``#`` or ``;`` is a comment, as in the lists that
HAProxy (``-f``), fail2ban and Spamhaus use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.values import to_display

PREFIX = "file:"

_KEYS = ("client", "accept_proxy", "max_sessions_per_client_exempt")
_SECTIONS = ("defaults", "profiles", "frontends")
_FILE_MAX = 16 * 2**20  # bytes; about a million networks
_COMMENT = re.compile("[#;]")


def include_networks(tables: Mapping[str, Any], folder: Path, diagnostics: Diagnostics) -> dict[str, Any]:
    """Return the tables of a configuration with the networks of the files that they name.

    Args:
        tables: The tables as they were read.
        folder: The folder at which relative paths begin.
        diagnostics: Gets the faults of the files.
    """
    return {
        name: _include(table, ROOT_PATH / name, folder, diagnostics) if name in _SECTIONS else table
        for name, table in tables.items()
    }


def _include(value: Any, path: ConfigPath, folder: Path, diagnostics: Diagnostics) -> Any:
    if isinstance(value, Mapping):
        return {
            name: list(_networks(item, path / name, folder, diagnostics))
            if name in _KEYS and isinstance(item, list)
            else _include(item, path / name, folder, diagnostics)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_include(item, path / index, folder, diagnostics) for index, item in enumerate(value)]
    return value


def _networks(items: list[Any], path: ConfigPath, folder: Path, diagnostics: Diagnostics) -> Iterator[Any]:
    for item in items:
        if not isinstance(item, str) or not item.startswith(PREFIX):
            yield item
            continue
        try:
            yield from read_networks(folder / item.removeprefix(PREFIX))
        except ValueError as error:
            diagnostics.drop(path, f"{to_display(item)}: {error}")


def read_networks(file: Path) -> list[str]:
    """Return the networks of a file.

    Raises:
        ValueError: The file cannot be read, or a line is no network.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_FILE_MAX + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(data) > _FILE_MAX:
        raise ValueError(f"is larger than {_FILE_MAX} bytes")
    networks = []
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        text = _COMMENT.split(line, maxsplit=1)[0].strip()
        if not text:
            continue
        try:
            networks.append(str(ip_network(text, strict=False)))
        except ValueError:
            raise ValueError(f"line {number}: {to_display(text)} is no network") from None
    return networks
