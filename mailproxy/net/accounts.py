"""Users and groups of this machine, by name or by number."""

from __future__ import annotations

import grp
import os
import pwd


def user_id(name: str) -> int:
    """The id of a user, or the number of ``#80``. Raises LookupError with the fact."""
    if name.startswith("#"):
        return int(name[1:])
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise LookupError(f'there is no user "{name}" on this machine') from None


def group_id(name: str) -> int:
    """The id of a group, or the number of ``#80``. Raises LookupError with the fact."""
    if name.startswith("#"):
        return int(name[1:])
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise LookupError(f'there is no group "{name}" on this machine') from None


def account(name: str) -> pwd.struct_passwd | None:
    """The entry of a user, by name or number; None if there is none."""
    try:
        return pwd.getpwuid(int(name[1:])) if name.startswith("#") else pwd.getpwnam(name)
    except KeyError:
        return None


def groups_of(name: str, gid: int) -> list[int]:
    """All groups of a user whose first one is ``gid``."""
    entry = account(name)
    return [gid] if entry is None else os.getgrouplist(entry.pw_name, gid)
