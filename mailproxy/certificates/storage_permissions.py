"""Whether the storage folder of ACME is private. Here, so that checks do not load ``mailproxy.acme``."""

from __future__ import annotations

import stat
from pathlib import Path

FOLDERS = ("certificates", "state", "orders", "challenges")
"""The subfolders of a storage."""

# Others may not even list the folder, and a group may not write in it.
_LOOSE_BITS = 0o027


def loose_permissions(folder: Path) -> str | None:
    """Return what is wrong with the permissions of a storage folder; None if it is private or missing.

    Raises:
        OSError: If it cannot be examined.
    """
    for each in (folder, folder / "account.json", *(folder / name for name in FOLDERS)):
        try:
            mode = each.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_IMODE(mode) & _LOOSE_BITS:
            fix = f"chmod {'700' if stat.S_ISDIR(mode) else '600'} {each}"
            return f"{each} has mode {stat.S_IMODE(mode):04o}, so that others can read private keys: {fix}"
    return None
