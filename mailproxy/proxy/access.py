"""What the user that sessions run as may read and write after the change of user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mailproxy.config import Process
from mailproxy.net.accounts import account, group_id, groups_of, user_id

_READ, _WRITE, _ENTER = stat.S_IROTH, stat.S_IWOTH, stat.S_IXOTH


def unreadable_part(process: Process, file: Path) -> Path | None:
    """Return what keeps the configured user from reading a file.

    Only owners and permission bits are compared, not access control lists.

    Returns:
        The first folder of the path that the user may not enter, or the file itself. None if the user can
        read the file, or if there is no change of user.

    Raises:
        OSError: The file, or a folder of its path, cannot be examined.
    """
    try:
        ids = _ids(process)
    except LookupError:
        return None  # an unknown user or group is a fault that host_checks reports
    if ids is None or ids[0] == 0:
        return None
    real = file.resolve()
    folder = next((each for each in reversed(real.parents) if not _may(ids, each, _ENTER)), None)
    return folder or (None if _may(ids, real, _READ) else file)


def may_write_folder(process: Process, folder: Path) -> bool:
    """Whether the configured user, or this process if there is no change of user, may create files in a folder.

    Raises:
        OSError: The folder cannot be examined.
    """
    try:
        ids = _ids(process)
    except LookupError:
        return True  # an unknown user or group is a fault that host_checks reports
    if ids is None:
        return os.access(folder, os.W_OK | os.X_OK)
    return ids[0] == 0 or (_may(ids, folder, _WRITE) and _may(ids, folder, _ENTER))


def _ids(process: Process) -> tuple[int, list[int]] | None:
    if process.user is None:
        return None
    entry = account(process.user)
    if process.group is not None:
        gid = group_id(process.group)
    elif entry is not None:
        gid = entry.pw_gid
    else:
        return None
    return user_id(process.user), groups_of(process.user, gid)


def _may(ids: tuple[int, list[int]], path: Path, bit: int) -> bool:
    """Whether the user has a permission. ``bit`` is that of others; group and owner have it 3 and 6 bits left."""
    uid, gids = ids
    status = path.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in gids else 0
    return bool(status.st_mode & (bit << shift))
