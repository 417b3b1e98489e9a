"""The folder of the state file, checked before anything is served."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailproxy.proxy.host_checks import check_state_file
from tests.process.test_odd_circumstances import needs_root
from tests.support.smallest_config import smallest_config


def faults(file: Path, **process: str) -> list[str]:
    keys = {"state_file": str(file), **process}
    config = smallest_config("\n".join(f'process.{key} = "{value}"' for key, value in keys.items()))
    found: list[str] = []
    check_state_file(config, lambda path, fact: found.append(f"{path}: {fact}"))
    return found


def test_writable_folder_is_no_fault(tmp_path: Path) -> None:
    assert faults(tmp_path / "state") == []


def test_missing_folder_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "none" / "state"
    assert faults(file) == [f"process.state_file: {file}: there is no folder {file.parent}"]


def test_folder_in_its_place_is_a_fault(tmp_path: Path) -> None:
    assert faults(tmp_path) == [f"process.state_file: {tmp_path}: is a folder"]


@needs_root
@pytest.mark.parametrize(
    ("owner", "mode", "is_writable"), [(65534, 0o755, True), (0, 0o755, False), (0, 0o777, True)]
)
def test_user_of_sessions_must_be_able_to_write(
    tmp_path: Path, owner: int, mode: int, is_writable: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    os.chown(folder, owner, owner)
    expected = [] if is_writable else [
        f"process.state_file: {folder / 'state'}: the user nobody cannot write in {folder}"
    ]  # fmt: skip
    assert faults(folder / "state", user="nobody", group="nogroup") == expected
