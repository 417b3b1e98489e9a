"""Files that a privileged process creates in folders of other users, with the requested mode and owner.

The folder of a socket or log may belong to the user that sessions run as. Between two system calls that user
can replace a file by another one of the same name, or by a link. So a new file is changed by descriptor, not
by name. A file is removed only if its name still leads to the device and inode that were created here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from attrs import define, frozen


@frozen
class FileId:
    """The identity of a file, independent of its name."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileId:
        """Return the identity of the name itself. Links are not followed.

        Raises:
            OSError: If there is no such file, or it cannot be examined.
        """
        info = path.lstat()
        return cls(info.st_dev, info.st_ino)


def bind_unix(
    sock: socket.socket, path: Path, *, mode: int | None = None, uid: int = -1, gid: int = -1
) -> FileId:
    """Bind a Unix socket to an unused path, and set its mode and owner.

    The socket does not listen yet, so no client can connect before its mode and owner are right.

    Args:
        sock: An unbound Unix socket.
        path: Where to create the socket's file.
        mode: Its permissions, whatever the umask. None leaves them to the umask.
        uid: The owning user, -1 for that of the process.
        gid: The owning group, -1 for that of the process.

    Returns:
        The identity of the socket's file, for ``remove``.

    Raises:
        OSError: If it cannot be created or changed, or if another user has replaced it meanwhile. No other
            file is changed or removed then.
    """
    sock.bind(str(path))
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        created = FileId(info.st_dev, info.st_ino)
        # Another user cannot create a socket that this user owns. A second name would be a hard link to such
        # a socket elsewhere.
        if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.geteuid() or info.st_nlink != 1:
            raise FileExistsError(f"{path} was replaced by another program while it was made")
        by_descriptor = f"/proc/self/fd/{fd}"
        try:
            if uid != -1 or gid != -1:
                os.chown(by_descriptor, uid, gid)
            if mode is not None:
                os.chmod(by_descriptor, mode)  # noqa: PTH101 - Path.chmod is the same with a name around it
        except BaseException:
            remove(path, created)
            raise
        return created
    finally:
        os.close(fd)


def create(path: Path, flags: int, mode: int, owner: tuple[int, int] | None = None) -> int:
    """Create and open a file.

    Args:
        path: Where to create it. In a folder with the set-group-id bit the file keeps the folder's group.
        flags: For ``os.open``.
        mode: Its permissions, whatever the umask.
        owner: User and group id, used only if the process runs as root.

    Returns:
        The descriptor.

    Raises:
        FileExistsError: If the name exists, also as a link that leads nowhere.
        OSError: If the file cannot be created or changed.
    """
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        if owner is not None and os.geteuid() == 0:
            uid, gid = owner
            inherits_group = path.parent.stat().st_mode & stat.S_ISGID
            os.fchown(fd, uid, -1 if inherits_group else gid)
    except BaseException:
        os.close(fd)
        raise
    return fd


def replace(path: Path, parts: Iterable[bytes], *, mode: int) -> FileId:
    """Write a file beside the old one, and rename it: there is always a whole file of this name.

    Args:
        path: The file.
        parts: Its contents.
        mode: Its permissions, whatever the umask.

    Returns:
        The identity of the new file, for ``remove``.

    Raises:
        OSError: If it cannot be written. The old file stays.
    """
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):  # of a process that was killed meanwhile
        new.unlink()
    fd = create(new, os.O_WRONLY, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(fd)
            info = os.fstat(fd)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the rename is on the disk, too
    finally:
        os.close(folder)
    return FileId(info.st_dev, info.st_ino)


def remove(path: Path, created: FileId) -> None:
    """Remove a file if its name still leads to what was created. A file that is gone already is ignored.

    Raises:
        OSError: If it cannot be removed.
    """
    try:
        if FileId.of(path) == created:
            path.unlink()
    except FileNotFoundError:
        pass


@define(eq=False)
class SocketFile:
    """The file of a Unix socket that this process created, or got with the socket.

    Attributes:
        path: Its name.
        id: Its identity.
    """

    path: Path
    id: FileId
    _is_left: bool = False

    def leave(self) -> None:
        """Have ``remove`` do nothing: another process has the socket, and its clients need the file."""
        self._is_left = True

    def claim(self) -> None:
        """Have ``remove`` remove the file."""
        self._is_left = False

    def remove(self) -> None:
        """Remove the file, unless another one has its name."""
        # The folder may be root's, and this process has dropped privileges.
        if not self._is_left:
            with contextlib.suppress(OSError):
                remove(self.path, self.id)
