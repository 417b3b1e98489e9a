"""The current folder, at which relative paths of a mapping begin."""

from __future__ import annotations

from pathlib import Path

import pytest

import mailproxy
from mailproxy.errors import ConfigError


def test_removed_current_folder_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(ConfigError, match="the current folder is gone: No such file or directory"):
        mailproxy.from_mapping({"frontends": {"imap": {"bind": ["127.0.0.1:0"]}}})
