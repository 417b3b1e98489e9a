"""Whether a configuration file has changed since it was loaded, which SIGHUP logs."""

from __future__ import annotations

from pathlib import Path

import pytest

import mailproxy
from mailproxy.config import has_changed
from mailproxy.errors import ConfigError
from tests.support.smallest_config import SMALLEST

TEXT = "".join(f"{key} = {value}\n" for key, value in SMALLEST.items())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "mailproxy.toml"
    file.write_text(TEXT)
    return file


def test_file_with_same_content_has_not_changed(file: Path) -> None:
    config = mailproxy.load(file)
    file.write_text(TEXT)
    assert not has_changed(config)


def test_edited_file_has_changed(file: Path) -> None:
    config = mailproxy.load(file)
    file.write_text(TEXT + "# a comment\n")
    assert has_changed(config)


def test_removed_file_has_changed(file: Path) -> None:
    config = mailproxy.load(file)
    file.unlink()
    assert has_changed(config)


def test_unreadable_file_counts_as_unchanged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``process.user`` is applied, a file that only root may read is unreadable."""
    config = mailproxy.load(file)

    def deny(_: Path) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", deny)
    assert not has_changed(config)


def test_configuration_without_file_never_changes() -> None:
    config = mailproxy.from_mapping({"frontends": {"imap": {"bind": ["127.0.0.1:0"]}}})
    assert not has_changed(config)


def test_removed_current_folder_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths start in the current folder."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(ConfigError, match="the current folder is gone: No such file or directory"):
        mailproxy.from_mapping({"frontends": {"imap": {"bind": ["127.0.0.1:0"]}}})
