"""Giving up root: after binding and reading keys, before the first session."""

from __future__ import annotations

import grp
import os
import pwd

from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.net.dial import may_be_transparent

MISSING_CAPABILITY = (
    '"client" needs CAP_NET_ADMIN, and a change of user gives it up: start as that user with '
    "AmbientCapabilities=CAP_NET_ADMIN, without process.user"
)


def wanted_owner(config: Config) -> tuple[int, int] | None:
    """The user and group that the process is to become, or None to stay as it is. Both exist."""
    process = config.process
    if process.user is None and process.group is None:
        return None
    user = pwd.getpwnam(process.user) if process.user is not None else None
    uid = os.getuid() if user is None else user.pw_uid
    if process.group is not None:
        return uid, grp.getgrnam(process.group).gr_gid
    return uid, os.getgid() if user is None else user.pw_gid


def check_capabilities(config: Config) -> None:
    """Raise ConfigError where servers are to see the clients' own addresses and this process may not use them."""
    faults = [
        Fault(f"backends.{backend.name}.servers[{index}].source", MISSING_CAPABILITY)
        for backend in config.backends.values()
        for index, server in enumerate(backend.servers)
        if server.source == "client"
    ]
    if faults and not may_be_transparent():
        raise config.error(faults)


def drop_privileges(config: Config) -> None:
    """Become the configured user and group for good. Raises ConfigError where that is not allowed."""
    owner = wanted_owner(config)
    if owner is None or owner == (os.geteuid(), os.getegid()):
        return
    uid, gid = owner
    try:
        # The groups first: without root there is no leaving them any more.
        if config.process.user is not None:
            os.initgroups(config.process.user, gid)
        else:
            os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        key, name = (
            ("user", config.process.user)
            if config.process.user is not None
            else ("group", config.process.group)
        )
        reason = "only root can" if os.geteuid() != 0 else str(error.strerror)
        raise config.error([Fault(f"process.{key}", f'cannot become "{name}": {reason}')]) from None
