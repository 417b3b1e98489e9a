"""Start-up: load TLS files, check what the configuration names on this machine, open sockets and log targets."""

from __future__ import annotations

from attrs import frozen

from mailproxy.admin.sockets import AdminListener, close_admin_sockets, open_admin_sockets
from mailproxy.certificates.loader import load_certificates
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.errors import ConfigError
from mailproxy.log import Output
from mailproxy.net.listener import Slots, close_slots, open_for_workers, open_listeners
from mailproxy.proxy.host_checks import (
    check_admin_sockets,
    check_binds,
    check_log,
    check_loops,
    check_state_file,
    check_users,
)
from mailproxy.proxy.reload.preparation import check_ports, open_log


def load_and_check(config: Config) -> CertificateStore:
    """Load the TLS files, and check users, log files, binds and loops on this machine.

    Raises:
        ConfigError: With every fault of all of them.
    """
    store = load_certificates(config)
    for check in (check_users, check_log, check_state_file, check_binds, check_admin_sockets, check_loops):
        check(config, store.add)
    if store.faults:
        raise config.error(store.faults)
    return store


@frozen
class Opened:
    """What needs privileges to open.

    Attributes:
        slots: The listeners of each process.
        outputs: The log's outputs.
        admin_sockets: Where the proxy can be administered.
    """

    slots: Slots
    outputs: list[Output]
    admin_sockets: list[AdminListener]


def open_all(
    config: Config, store: CertificateStore, *, workers: int, owner: tuple[int, int] | None
) -> Opened:
    """Listen, and open the log targets and the admin sockets.

    Args:
        config: The configuration.
        store: Its TLS files.
        workers: The number of processes that serve.
        owner: The user and group that own log files which are created here; None for those of the process.

    Raises:
        ConfigError: With nothing left open.
    """
    terminators = store.bind_terminators
    slots = (
        [open_listeners(config, terminators)]
        if workers == 1
        else open_for_workers(config, terminators, workers)
    )
    admin_sockets: list[AdminListener] = []
    try:
        check_ports(config, slots[0])
        admin_sockets = open_admin_sockets(config)
        outputs = open_log(config, owner, shared=workers > 1)
    except ConfigError:
        close_slots(slots)
        close_admin_sockets(admin_sockets)
        raise
    return Opened(slots, outputs, admin_sockets)
