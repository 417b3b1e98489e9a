"""What this machine must have for a configuration: users, groups, a place for the log."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path

from mailproxy.config import Config

Add = Callable[[str, str], None]
"""Takes a fault: the path of the key, and the fact."""


def check_users(config: Config, add: Add) -> None:
    """Every user and group that is named exists."""
    process = config.process
    users = [("process.user", process.user)]
    groups = [("process.group", process.group)]
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            users.append((f"frontends.{name}.bind[{index}].unix_user", bind.unix_user))
            groups.append((f"frontends.{name}.bind[{index}].unix_group", bind.unix_group))
    for path, user in users:
        if user is not None and not _known(pwd.getpwnam, user):
            add(path, f'there is no user "{user}" on this machine')
    for path, group in groups:
        if group is not None and not _known(grp.getgrnam, group):
            add(path, f'there is no group "{group}" on this machine')


def _known(look_up: object, name: str) -> bool:
    try:
        look_up(name)  # type: ignore[operator]
    except KeyError:
        return False
    return True


def check_log(config: Config, add: Add) -> None:
    """Every file of the log can be written."""
    for path, output in config.log.outputs.items():
        if output.to.path is not None and (fact := _why_not_written(output.to.path)):
            add(f"{path}.to", f"{output.to.path}: {fact}")


def _why_not_written(file: Path) -> str | None:
    try:
        if not file.parent.is_dir():
            return f"there is no folder {file.parent}"
        if file.is_dir():
            return "is a folder"
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            return "cannot be written"
    except OSError as error:  # a folder on the way is closed, a name too long
        return error.strerror
    return None
