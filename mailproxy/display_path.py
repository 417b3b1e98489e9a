"""How paths of files appear in messages."""

from __future__ import annotations

import os
from pathlib import Path


def display_path(file: Path) -> Path:
    """Return the path without ``..``, unless a link in it makes that another file."""
    plain = Path(os.path.normpath(file))
    return plain if os.path.realpath(plain) == os.path.realpath(file) else file
