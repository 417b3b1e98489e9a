"""Opening what needs privileges: the listening sockets, one set for each worker, and the log."""

from __future__ import annotations

from mailproxy.address import TcpAddress
from mailproxy.app.material import Material
from mailproxy.config import Config
from mailproxy.errors import ConfigError, Fault
from mailproxy.log import Target, open_target
from mailproxy.net.listener import Listener, close_all, open_for_workers, open_listeners

Slots = list[list[Listener]]
"""For each worker those that it accepts on."""


def open_all(
    config: Config, material: Material, *, workers: int, owner: tuple[int, int] | None
) -> tuple[Slots, Target]:
    """Listen and open the log. ``owner``: who gets the log file if it is made here.

    Raises ConfigError, with nothing left open.
    """
    terminators = material.bind_terminators
    slots = (
        [open_listeners(config, terminators)]
        if workers == 1
        else open_for_workers(config, terminators, workers)
    )
    try:
        _check_ports(config, slots[0])
        target = open_target(config.log.to.where, config.log.to.syslog, owner, shared=workers > 1)
    except OSError as error:
        close_slots(slots)
        reason = error.strerror or str(error)
        raise config.error([Fault("log.to", f"{config.log.to}: {reason}")]) from None
    except ConfigError:
        close_slots(slots)
        raise
    return slots, target


def close_slots(slots: Slots) -> None:
    """Close the sockets of all."""
    for listeners in slots:
        close_all(listeners)


def _check_ports(config: Config, listeners: list[Listener]) -> None:
    """An inherited Unix socket has no port for servers that have none either; only now is it known to be one."""
    for listener in listeners:
        frontend = config.frontends[listener.frontend]
        if listener.port is None:
            portless = [
                server
                for name in frontend.leads_to
                for server in config.backends[name].servers
                if isinstance(server.address, TcpAddress) and server.address.port is None
            ]
            if portless:
                path = f"frontends.{frontend.name}.bind[{listener.number - 1}].address"
                fact = f"{listener.bind.address} has no port for server {portless[0].name}, which has none either"
                raise config.error([Fault(path, fact)])
