"""Files that a privileged process makes in folders of others: never through a link, with the mode and owner that were asked for.

The folder of a socket or log may belong to the user that sessions run as. Between two system calls that user can put
something else into the place of a name. So what was made is changed by descriptor, not by name, and only a file that is known by
device and inode is removed again.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from attrs import frozen


@frozen
class FileId:
    """A file, whatever its name is now."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileId:
        """That of the name itself, not of what a link leads to. Raises OSError."""
        found = path.lstat()
        return cls(found.st_dev, found.st_ino)


def bind_unix(
    sock: socket.socket, path: Path, *, mode: int | None = None, uid: int = -1, gid: int = -1
) -> FileId:
    """Bind a Unix socket to a path that is free, and give it ``mode``, whatever the umask, and an owner.

    It does not listen yet, so that nobody can connect before its mode and owner are right. Raises OSError, also if something else
    came into its place meanwhile; then nothing of another's is changed or removed.
    """
    sock.bind(str(path))
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        made = FileId(found.st_dev, found.st_ino)
        # Nobody else can make a socket of this user. A second name would be a hard link to one of this user's elsewhere.
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise FileExistsError(f"{path} was replaced by another program while it was made")
        by_descriptor = f"/proc/self/fd/{fd}"
        try:
            if uid != -1 or gid != -1:
                os.chown(by_descriptor, uid, gid)
            if mode is not None:
                os.chmod(by_descriptor, mode)  # noqa: PTH101 - Path.chmod is the same with a name around it
        except BaseException:
            remove(path, made)
            raise
        return made
    finally:
        os.close(fd)


def create(path: Path, flags: int, mode: int, owner: tuple[int, int] | None = None) -> int:
    """Open a new file that has ``mode``, whatever the umask, and if this is root ``owner`` (uid, gid); its descriptor.

    In a folder with the set-group-id bit the file keeps the folder's group.

    Raises FileExistsError if there is anything of that name, a link that leads nowhere too, and OSError.
    """
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        if owner is not None and os.geteuid() == 0:
            uid, gid = owner
            has_group = path.parent.stat().st_mode & stat.S_ISGID
            os.fchown(fd, uid, -1 if has_group else gid)
    except BaseException:
        os.close(fd)
        raise
    return fd


def remove(path: Path, made: FileId) -> None:
    """Remove a name if it is still that of this file. Raises OSError, but not if it is gone."""
    try:
        if FileId.of(path) == made:
            path.unlink()
    except FileNotFoundError:
        pass
