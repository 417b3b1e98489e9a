"""Users and groups of this machine, by name or by number."""

from __future__ import annotations

import grp
import os
import pwd


def user_id(name: str) -> int:
    """Return the id of a user.

    Args:
        name: A user's name, or its number as in ``#80``.

    Raises:
        LookupError: There is no such user.
    """
    if name.startswith("#"):
        return int(name[1:])
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise LookupError(f'there is no user "{name}" on this machine') from None


def group_id(name: str) -> int:
    """Return the id of a group.

    Args:
        name: A group's name, or its number as in ``#80``.

    Raises:
        LookupError: There is no such group.
    """
    if name.startswith("#"):
        return int(name[1:])
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise LookupError(f'there is no group "{name}" on this machine') from None


def account(name: str) -> pwd.struct_passwd | None:
    """Return the entry of a user by name or number; None if there is none."""
    try:
        return pwd.getpwuid(int(name[1:])) if name.startswith("#") else pwd.getpwnam(name)
    except KeyError:
        return None


def groups_of(name: str, gid: int) -> list[int]:
    """Return the ids of all groups of a user, given the primary one."""
    entry = account(name)
    return [gid] if entry is None else os.getgrouplist(entry.pw_name, gid)
