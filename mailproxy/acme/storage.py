"""The storage folder of an authority: account, keys, certificates and what is known of each attempt.

Every file is written beside its name, flushed to the disk, and renamed. So a reader, or a process that starts
after a crash, finds the old content or the new one, and nothing between. All files have mode 0600, whatever
the umask. If root writes, they belong to the owner of the folder, so that the proxy can read them after the
change of user.

::

    account.json                        the account: key, URL, directory
    lock                                which process obtains certificates (``lock``)
    certificates/NAME.KEYTYPE.pem       certificate, chain and key in one file
    state/NAME.KEYTYPE.json             attempts, and when the next one is due
    state/NAME.KEYTYPE.next.pem         the key of the next certificate (``next_key``)
    orders/NAME.KEYTYPE.json            the order that is under way, with its key
    challenges/NAME.pem                 what the binds answer to tls-alpn-01
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from mailproxy.certificates.storage_permissions import FOLDERS
from mailproxy.files import create

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_LEFTOVER_AGE_S = 60.0
_FILE_MAX = 1 << 20  # bytes; a chain with its key has some kilobytes


class StorageError(Exception):
    """The storage cannot be read or written. The message has the file and the reason."""


@frozen
class Storage:
    """The files in one storage folder. All methods block on files.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def prepare(self, owner: tuple[int, int] | None = None) -> None:
        """Create the folder and its subfolders where they are missing.

        Args:
            owner: The user and group that they get, used only if the process is root. None for the owner of
                the folder above.

        Raises:
            StorageError: If one cannot be created.
        """
        for folder in (self.folder, *(self.folder / name for name in FOLDERS)):
            try:
                _make_folder(folder, owner)
            except OSError as error:
                raise StorageError(f"{folder}: {error.strerror or error}") from None
            _remove_leftovers(folder)
            owner = None  # the subfolders belong to the owner of the folder

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file; None if it is missing or damaged.

        Raises:
            StorageError: If it is there and cannot be read.
        """
        data = self.read(name)
        if data is None:
            return None
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):  # as after a fault of the disk: its content is lost
            return None
        return content if isinstance(content, dict) else None

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it is missing.

        Raises:
            StorageError: If it is there and cannot be read.
        """
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(_FILE_MAX)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"{self.folder / name}: {error.strerror or error}") from None

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file.

        Raises:
            StorageError: If that fails. The old file stays.
        """
        self.write(name, json.dumps(content, indent=1).encode() + b"\n")

    def write(self, name: str, content: bytes) -> None:
        """Replace a file.

        Raises:
            StorageError: If that fails. The old file stays.
        """
        try:
            replace_file(self.folder / name, content)
        except OSError as error:
            raise StorageError(f"{self.folder / name}: {error.strerror or error}") from None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StorageError: If that fails.
        """
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder / name}: {error.strerror or error}") from None


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 in the place of another one, in one step.

    Raises:
        OSError: If that fails. The old file stays, and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        fd = create(temporary, os.O_WRONLY, FILE_MODE, _owner_of(path.parent))
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last over a power failure."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError:  # some network file systems cannot
        pass
    finally:
        os.close(fd)


def _owner_of(folder: Path) -> tuple[int, int]:
    info = folder.stat()
    return info.st_uid, info.st_gid


def _remove_leftovers(folder: Path) -> None:
    """Remove files that killed processes have left half written. No file takes a minute to be written."""
    with contextlib.suppress(OSError):
        for file in folder.glob(".*.tmp"):
            if abs(time.time() - file.stat().st_mtime) > _LEFTOVER_AGE_S:
                file.unlink(missing_ok=True)


def _make_folder(folder: Path, owner: tuple[int, int] | None) -> None:
    if folder.is_dir():
        return
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        folder.mkdir(FOLDER_MODE)
    except FileExistsError:
        return  # another process was faster
    folder.chmod(FOLDER_MODE)  # whatever the umask
    if os.geteuid() == 0:
        os.chown(folder, *(owner or _owner_of(folder.parent)), follow_symlinks=False)
