"""What this machine must have for a configuration: users, groups, a place for the log."""

from __future__ import annotations

import os
from collections.abc import Callable

from mailproxy.config import Config
from mailproxy.net.accounts import account, group_id, user_id

Add = Callable[[str, str], None]
"""Takes a fault: the path of the key, and the fact."""


def check_users(config: Config, add: Add) -> None:
    """Every user and group that is named exists."""
    process = config.process
    users: list[tuple[str, str | None]] = [("process.user", process.user)]
    groups: list[tuple[str, str | None]] = [("process.group", process.group)]
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            users.append((f"frontends.{name}.bind[{index}].unix_user", bind.unix_user))
            groups.append((f"frontends.{name}.bind[{index}].unix_group", bind.unix_group))
    for look_up, named in ((user_id, users), (group_id, groups)):
        for path, wanted in named:
            try:
                if wanted is not None:
                    look_up(wanted)
            except LookupError as error:
                add(path, str(error.args[0]))
    is_number = process.user is not None and process.user.startswith("#")
    if is_number and process.group is None and account(str(process.user)) is None:
        add("process.group", f'is missing: the user "{process.user}" has no entry that names one')


def check_log(config: Config, add: Add) -> None:
    """The log's file can be written."""
    file = config.log.to.path
    if file is None:
        return
    try:
        if not file.parent.is_dir():
            add("log.to", f"{file}: there is no folder {file.parent}")
        elif file.is_dir():
            add("log.to", f"{file}: is a folder")
        elif not os.access(file if file.exists() else file.parent, os.W_OK):
            add("log.to", f"{file}: cannot be written")
    except OSError as error:  # a folder on the way is closed, a name too long
        add("log.to", f"{file}: {error.strerror}")
