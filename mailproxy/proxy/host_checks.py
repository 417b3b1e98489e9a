"""Checks of this machine against a configuration: users, log files, what binds need, loops, capabilities."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path

from mailproxy.address import TcpAddress, UnixAddress
from mailproxy.config import Config, Process
from mailproxy.config.lint.loops import find_loops, is_loopback
from mailproxy.config.path import ROOT_PATH, ConfigPath, bind_path, server_path
from mailproxy.display_path import display_path
from mailproxy.errors import Fault
from mailproxy.net.accounts import account, group_id, user_id
from mailproxy.net.dial import can_use_foreign_addresses
from mailproxy.proxy.access import may_write_folder

_ANY_PORT = 9
MISSING_CAPABILITY = (
    '"client" needs CAP_NET_ADMIN, and a change of user gives it up: start as that user with '
    "AmbientCapabilities=CAP_NET_ADMIN, without process.user"
)

Add = Callable[[ConfigPath, str], None]
"""Adds a fault: the path of the key, and the fact."""


def check_users(config: Config, add: Add) -> None:
    """Check that every user and group exists."""
    process = config.process
    table = ROOT_PATH / "process"
    users = [(table / "user", process.user)]
    groups = [(table / "group", process.group)]
    for frontend in config.frontends.values():
        for index, bind in enumerate(frontend.bind):
            path = bind_path(frontend.name, index)
            users.append((path / "unix_user", bind.unix_user))
            groups.append((path / "unix_group", bind.unix_group))
    for index, socket_table in enumerate(config.admin.sockets):
        path = ROOT_PATH / "admin" / "sockets" / index
        users.append((path / "user", socket_table.user))
        groups.append((path / "group", socket_table.group))
    for look_up, named in ((user_id, users), (group_id, groups)):
        for path, name in named:
            try:
                if name is not None:
                    look_up(name)
            except LookupError as error:
                add(path, str(error.args[0]))
    is_number = process.user is not None and process.user.startswith("#")
    if is_number and process.group is None and account(str(process.user)) is None:
        add(table / "group", f'is missing: the user "{process.user}" has no entry that names one')


def check_log(config: Config, add: Add) -> None:
    """Check that every log file can be written."""
    for path, output in config.log.outputs.items():
        if output.to.path is None:
            continue
        file = display_path(output.to.path)
        if fact := _unwritable_reason(file):
            add(path / "to", f"{file}: {fact}")


def check_pid_file(config: Config, add: Add) -> None:
    """Check that the file with the process id can be replaced by this user."""
    if config.process.pid_file is None:
        return
    file = display_path(config.process.pid_file)
    fact = _unwritable_reason(file.with_name(f".{file.name}.new"))  # which is renamed
    if fact is None and file.exists() and not file.is_file():
        fact = "is no regular file"
    if fact is not None:
        add(ROOT_PATH / "process" / "pid_file", f"{file}: {fact}")


def check_tracing(config: Config, add: Add) -> None:
    """Check that what ``[tracing]`` needs is installed. It is imported, before any process is forked."""
    if config.tracing.otlp is None:
        return
    try:
        importlib.import_module("mailproxy.log.tracing")
    except ImportError as error:
        add(ROOT_PATH / "tracing" / "otlp", f"needs the extra: pip install 'mailproxy[tracing]' ({error})")


def check_state_file(config: Config, add: Add) -> None:
    """Check that the state file can be replaced by the user that sessions run as."""
    if config.process.state_file is None:
        return
    file = display_path(config.process.state_file)
    if fact := _irreplaceable_reason(config.process, file):
        add(ROOT_PATH / "process" / "state_file", f"{file}: {fact}")


def _irreplaceable_reason(process: Process, file: Path) -> str | None:
    try:
        if not file.parent.is_dir():
            return f"there is no folder {file.parent}"
        if file.is_dir():
            return "is a folder"
        if not may_write_folder(process, file.parent):
            user = f"the user {process.user}" if process.user else "this user"
            return f"{user} cannot write in {file.parent}"
    except OSError as error:  # a folder of the path may not be entered, or a name is too long
        return error.strerror
    return None


def _unwritable_reason(file: Path) -> str | None:
    try:
        if not file.parent.is_dir():
            return f"there is no folder {file.parent}"
        if file.is_dir():
            return "is a folder"
        if file.is_socket():
            return f"is a socket, did you mean syslog:{file}?"
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            return "cannot be written"
    except OSError as error:  # a folder of the path may not be entered, or a name is too long
        return error.strerror
    return None


def check_binds(config: Config, add: Add) -> None:
    """Check that every Unix socket has a folder, and that every interface exists."""
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            path = bind_path(name, index)
            fact = None
            if isinstance(bind.address, UnixAddress):
                fact = _socket_path_problem(display_path(Path(bind.address.path)))
            elif isinstance(bind.address, TcpAddress):
                fact = _zone_problem(bind.address.host, bind.interface)
            if fact:
                add(path / "address", f"cannot listen on {bind.address}: {fact}")
            if bind.interface is not None and not _is_interface(bind.interface):
                add(path / "interface", f"there is no network interface {bind.interface}")


def check_admin_sockets(config: Config, add: Add) -> None:
    """Check that every admin socket has a folder."""
    for path, table in config.admin.listening.items():
        if table.path is None:
            continue
        file = display_path(table.path)
        if fact := _socket_path_problem(file):
            add(path, f"cannot listen on {file}: {fact}")


def _socket_path_problem(file: Path) -> str | None:
    try:
        if not file.parent.is_dir():
            if file.parent.exists():
                return f"{file.parent} is no folder"
            return (
                f"there is no folder {file.parent}: make it, below /run with RuntimeDirectory= of the service"
            )
        if file.exists() and not file.is_socket():
            return f"{file} is there and is no socket: remove it, or give another path"
    except OSError as error:  # a folder of the path may not be entered, or a name is too long
        return error.strerror
    return None


def _zone_problem(host: str, interface: str | None) -> str | None:
    address, _, zone = host.partition("%")
    if zone:
        return None if _is_interface(zone) else f"there is no network interface {zone}"
    if interface is None and ":" in address and IPv6Address(address).is_link_local:
        return f"a link-local address needs its interface, such as {address}%eth0"
    return None


def _is_interface(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def check_loops(config: Config, add: Add) -> None:
    """Check that no server has an address at which its sessions would certainly come back to this proxy."""
    for loop in find_loops(config.frontends, config.backends, is_own_address):
        if loop.is_certain:
            add(loop.path, loop.fact)


def is_own_address(host: str) -> bool:
    """Whether an IP address belongs to this machine.

    A connection to such an address has it as its local address, too. For other addresses the kernel chooses
    another one.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _ANY_PORT))  # sends nothing
            own: str = probe.getsockname()[0]
    except OSError:  # no route to it
        return False
    return own == host or is_loopback(host)


def check_capabilities(config: Config) -> None:
    """Check the capability that ``source = "client"`` needs.

    Raises:
        ConfigError: A server is configured to see the clients' own addresses, and this process may not use
            them.
    """
    faults = [
        Fault(server_path(backend.name, index) / "source", MISSING_CAPABILITY)
        for backend in config.backends.values()
        for index, server in enumerate(backend.servers)
        if server.source == "client"
    ]
    if faults and not can_use_foreign_addresses():
        raise config.error(faults)
