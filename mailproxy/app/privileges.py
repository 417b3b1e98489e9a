"""Giving up root: after binding and reading keys, before the first session."""

from __future__ import annotations

import os

from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.net.accounts import account, group_id, groups_of, user_id


def configured_owner(config: Config) -> tuple[int, int] | None:
    """Return the user and group that the process will become; None to stay as it is. Both must exist."""
    process = config.process
    if process.user is None and process.group is None:
        return None
    uid = os.getuid() if process.user is None else user_id(process.user)
    if process.group is not None:
        return uid, group_id(process.group)
    entry = None if process.user is None else account(process.user)
    return uid, os.getgid() if entry is None else entry.pw_gid


def drop_privileges(config: Config) -> None:
    """Become the configured user and group for good.

    Raises:
        ConfigError: This process is not allowed to.
    """
    owner = configured_owner(config)
    if owner is None or owner == (os.geteuid(), os.getegid()):
        return
    uid, gid = owner
    user = config.process.user
    try:
        # The groups first: without root they cannot be changed.
        os.setgroups([gid] if user is None else groups_of(user, gid))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        key, name = ("user", user) if user is not None else ("group", config.process.group)
        reason = "only root can" if os.geteuid() != 0 else str(error.strerror)
        raise config.error([Fault(f"process.{key}", f'cannot become "{name}": {reason}')]) from None
