"""Whether the user that sessions run as can read a file, as it will have to after the change of user."""

from __future__ import annotations

import stat
from pathlib import Path

from mailproxy.config import Process
from mailproxy.net.accounts import account, group_id, groups_of, user_id

_READ, _ENTER = stat.S_IROTH, stat.S_IXOTH


def obstacle(process: Process, file: Path) -> Path | None:
    """What keeps the configured user from reading a file: the file itself, or the first folder on the way that it may not enter.

    None if nothing does, as far as owners and permission bits can tell, or if there is no change of user. Raises OSError.
    """
    try:
        ids = _ids(process)
    except LookupError:
        return None  # said elsewhere
    if ids is None or ids[0] == 0:
        return None
    real = file.resolve()
    folder = next((each for each in reversed(real.parents) if not _may(ids, each, _ENTER)), None)
    return folder or (None if _may(ids, real, _READ) else file)


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
    """``bit``: that of others; those of group and owner are three and six places further left."""
    uid, gids = ids
    found = path.stat()
    shift = 6 if found.st_uid == uid else 3 if found.st_gid in gids else 0
    return bool(found.st_mode & (bit << shift))
