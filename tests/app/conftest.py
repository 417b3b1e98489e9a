"""Folders and files that several tests of the application need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA


@pytest.fixture
def pem(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> Path:
    """A certificate with its key."""
    return throw_away_ca.issue("imap.example.com", folder=tmp_path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
