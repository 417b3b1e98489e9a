"""The storage folder: private, and replaced in one step."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mailproxy.acme.storage import Storage, StorageError
from mailproxy.certificates.storage_permissions import loose_permissions


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "acme")
    storage.prepare()
    return storage


def test_folders_and_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        storage = Storage(tmp_path / "acme")
        storage.prepare()
        storage.write_json("account.json", {"key": "secret"})
    finally:
        os.umask(before)
    assert stat.S_IMODE(storage.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((storage.folder / "account.json").stat().st_mode) == 0o600
    assert all(
        stat.S_IMODE(each.stat().st_mode) == 0o700 for each in storage.folder.iterdir() if each.is_dir()
    )
    assert loose_permissions(storage.folder) is None


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770, 0o777])
def test_loose_folder_is_reported(storage: Storage, mode: int) -> None:
    storage.folder.chmod(mode)
    assert "others can read" in (loose_permissions(storage.folder) or "")


def test_loose_account_is_reported(storage: Storage) -> None:
    storage.write_json("account.json", {})
    (storage.folder / "account.json").chmod(0o644)
    assert "account.json has mode 0644" in (loose_permissions(storage.folder) or "")


def test_full_disk_leaves_old_file_and_nothing_beside_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("certificates/a.pem", b"old")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        storage.write("certificates/a.pem", b"new")
    assert storage.read("certificates/a.pem") == b"old"
    assert [each.name for each in (storage.folder / "certificates").iterdir()] == ["a.pem"]


def test_killed_writer_leaves_old_or_new_content(storage: Storage) -> None:
    """The writer is killed at a random moment of a long series of writes."""
    program = (
        "import sys; from pathlib import Path; from mailproxy.acme.storage import Storage\n"
        "storage, n = Storage(Path(sys.argv[1])), 0\n"
        "print('go', flush=True)\n"
        "while True: n += 1; storage.write_json('state/a.json', {'n': n, 'text': 'x' * 20000})\n"
    )
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(storage.folder)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            while (content := storage.read_json("state/a.json")) is None:
                pass
            writer.kill()
        content = storage.read_json("state/a.json")
        assert content is not None
        assert len(content["text"]) == 20000


def test_leftovers_of_killed_writers_are_removed(storage: Storage) -> None:
    old, new = (storage.folder / "state" / f".a.json.{number}.tmp" for number in (1, 2))
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    storage.prepare()
    assert not old.exists()
    assert new.exists()  # another process may be writing it


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"text"', b"[" * 100000])
def test_damaged_json_counts_as_missing(storage: Storage, content: bytes) -> None:
    (storage.folder / "account.json").write_bytes(content)
    assert storage.read_json("account.json") is None


def test_folder_in_place_of_file_is_an_error(storage: Storage) -> None:
    (storage.folder / "account.json").mkdir()
    with pytest.raises(StorageError, match=r"account\.json: Is a directory"):
        storage.read("account.json")
    with pytest.raises(StorageError):
        storage.write("account.json", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_root_belong_to_owner_of_folder(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "acme")
    storage.prepare((12345, 23456))
    storage.write("certificates/a.pem", b"")
    for path in (storage.folder, storage.folder / "certificates", storage.folder / "certificates" / "a.pem"):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456), path
