"""Giving up root: after binding and reading keys, before the first session."""

from __future__ import annotations

import os

from mailproxy.config import Config
from mailproxy.errors import ConfigError, Fault
from mailproxy.net.accounts import account, group_id, groups_of, user_id


def wanted_owner(config: Config) -> tuple[int, int] | None:
    """The user and group that the process is to become, or None to stay as it is. Both exist."""
    process = config.process
    if process.user is None and process.group is None:
        return None
    uid = os.getuid() if process.user is None else user_id(process.user)
    if process.group is not None:
        return uid, group_id(process.group)
    entry = None if process.user is None else account(process.user)
    return uid, os.getgid() if entry is None else entry.pw_gid


def drop_privileges(config: Config) -> None:
    """Become the configured user and group for good. Raises ConfigError where that is not allowed."""
    owner = wanted_owner(config)
    if owner is None or owner == (os.geteuid(), os.getegid()):
        return
    uid, gid = owner
    user = config.process.user
    try:
        # The groups first: without root there is no leaving them any more.
        os.setgroups([gid] if user is None else groups_of(user, gid))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        key, name = ("user", user) if user is not None else ("group", config.process.group)
        reason = "only root can" if os.geteuid() != 0 else str(error.strerror)
        raise ConfigError(
            [Fault(f"process.{key}", f'cannot become "{name}": {reason}')], config.source
        ) from None
