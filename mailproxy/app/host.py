"""What this machine must have for a configuration: users, groups, a place for the log."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from mailproxy.app.shown import shown
from mailproxy.config import Config
from mailproxy.config.loops import find_loops, is_loopback
from mailproxy.net.accounts import account, group_id, user_id

_ANY_PORT = 9

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
    """Every file of the log can be written."""
    for path, output in config.log.outputs.items():
        if output.to.path is None:
            continue
        file = shown(output.to.path)
        if fact := _why_not_written(file):
            add(f"{path}.to", f"{file}: {fact}")


def _why_not_written(file: Path) -> str | None:
    try:
        if not file.parent.is_dir():
            return f"there is no folder {file.parent}"
        if file.is_dir():
            return "is a folder"
        if file.is_socket():
            return f"is a socket, did you mean syslog:{file}?"
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            return "cannot be written"
    except OSError as error:  # a folder on the way is closed, a name too long
        return error.strerror
    return None


def check_loops(config: Config, add: Add) -> None:
    """No server has an address of this machine at which its own sessions would come back for certain."""
    for loop in find_loops(config.frontends, config.backends, is_own_address):
        if loop.is_certain:
            add(loop.path, loop.fact)


def is_own_address(host: str) -> bool:
    """Whether an IP address is one of this machine: a connection to such an address has it as its own, too."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _ANY_PORT))  # sends nothing
            own: str = probe.getsockname()[0]
    except OSError:  # no route to it
        return False
    return own == host or is_loopback(host)
