"""Start-up: load TLS files, check what the configuration names on this machine, open sockets and log targets."""

from __future__ import annotations

from attrs import frozen

from mailproxy.admin.http.sockets import open_http
from mailproxy.admin.listeners import AdminListeners
from mailproxy.admin.sockets import close_admin_sockets, open_admin_sockets
from mailproxy.app.advice import advise
from mailproxy.app.http_checks import check_http
from mailproxy.certificates.loader import load_certificates
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.errors import ConfigError
from mailproxy.log import Output
from mailproxy.net.listener import Slots, close_slots
from mailproxy.net.passing.adopt import open_slots
from mailproxy.net.passing.sockets import PassedSockets
from mailproxy.proxy.acme_checks import check_acme
from mailproxy.proxy.host_checks import (
    check_admin_sockets,
    check_binds,
    check_log,
    check_loops,
    check_pid_file,
    check_state_file,
    check_tracing,
    check_users,
)
from mailproxy.proxy.reload.preparation import check_ports, open_log


def load_and_check(config: Config) -> CertificateStore:
    """Load the TLS files, and check users, log files, binds and loops on this machine.

    Raises:
        ConfigError: With every fault of all of them.
    """
    store = load_certificates(config)
    for check in (
        check_users,
        check_log,
        check_tracing,
        check_pid_file,
        check_state_file,
        check_binds,
        check_admin_sockets,
        check_http,
        check_loops,
        check_acme,
    ):
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
        admin: Where the proxy can be administered.
    """

    slots: Slots
    outputs: list[Output]
    admin: AdminListeners


def open_all(
    config: Config,
    store: CertificateStore,
    *,
    workers: int,
    owner: tuple[int, int] | None,
    passed: PassedSockets | None = None,
) -> Opened:
    """Listen, and open the log targets, the admin sockets and the socket of HTTP.

    Args:
        config: The configuration.
        store: Its TLS files.
        workers: The number of processes that serve.
        owner: The user and group that own log files which are created here; None for those of the process.
        passed: Sockets that another process has opened. Those that are used are taken out.

    Raises:
        ConfigError: With nothing left open but ``passed``.
    """
    passed = passed or PassedSockets()
    slots = open_slots(config, store.bind_terminators, workers, passed)
    admin = AdminListeners()
    try:
        check_ports(config, slots[0])
        admin = _open_admin(config, store, passed)
        outputs = open_log(config, owner, shared=workers > 1)
    except ConfigError:
        close_slots(slots)
        admin.close()
        raise
    return Opened(slots, outputs, admin)


def _open_admin(config: Config, store: CertificateStore, passed: PassedSockets) -> AdminListeners:
    sockets = open_admin_sockets(config, passed)
    try:
        return AdminListeners(sockets, open_http(config, store, advise, passed))
    except BaseException:
        close_admin_sockets(sockets)
        raise
