"""How paths of files are shown."""

from __future__ import annotations

import os
from pathlib import Path


def shown(file: Path) -> Path:
    """The path without ``..``, unless a link on the way makes that another file."""
    plain = Path(os.path.normpath(file))
    return plain if os.path.realpath(plain) == os.path.realpath(file) else file
