"""Checks of this machine against ``[acme.NAME]``: the extra, files, and a private storage."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mailproxy.certificates.storage_permissions import loose_permissions
from mailproxy.config import Acme, Config
from mailproxy.config.path import ConfigPath
from mailproxy.config.rules.acme_rules import acme_path
from mailproxy.display_path import display_path

_MISSING_EXTRA = "needs the extra acme: pip install 'mailproxy[acme]'"

Add = Callable[[ConfigPath, str], None]


def check_acme(config: Config, add: Add) -> None:
    """Check what ``[acme.NAME]`` needs of this machine: the extra, files, and a private storage."""
    for name, acme in config.acme.items():
        path = acme_path(name)
        if importlib.util.find_spec("acme") is None or importlib.util.find_spec("dns") is None:
            add(path, _MISSING_EXTRA)
        _check_storage(acme, path, add)
        for key, file in named_files(acme):
            _check_file(file, path.joinpath(*key), add)
        if acme.webroot is not None and not acme.webroot.is_dir():
            add(path / "webroot", f"{display_path(acme.webroot)}: is no folder")


def _check_storage(acme: Acme, path: ConfigPath, add: Add) -> None:
    folder = display_path(acme.storage)
    try:
        if acme.storage.exists() and not acme.storage.is_dir():
            add(path / "storage", f"{folder}: is no folder")
        elif fact := loose_permissions(acme.storage):
            add(path / "storage", fact)
    except OSError as error:
        add(path / "storage", f"{folder}: {error.strerror or error}")


def named_files(acme: Acme) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yield the path of each key that names a file, and the file."""
    if acme.ca is not None:
        yield ("ca",), acme.ca
    if acme.eab is not None:
        yield ("eab", "hmac_file"), acme.eab.hmac_file
    if acme.dns is not None and acme.dns.hook is not None:
        yield ("dns", "hook"), acme.dns.hook
    if acme.dns is not None and acme.dns.rfc2136 is not None:
        yield ("dns", "rfc2136", "key_file"), acme.dns.rfc2136.key_file


def _check_file(file: Path, path: ConfigPath, add: Add) -> None:
    shown = display_path(file)
    try:
        if not file.is_file():
            add(path, f"{shown}: {'is no file' if file.exists() else 'there is no such file'}")
        elif path.key == "hook" and not os.access(file, os.X_OK):
            add(path, f"{shown}: is not executable: chmod +x {shown}")
        elif path.key != "hook" and not os.access(file, os.R_OK):
            add(path, f"{shown}: cannot be read")
    except OSError as error:
        add(path, f"{shown}: {error.strerror or error}")
