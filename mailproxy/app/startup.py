"""Opening what needs privileges: the listening sockets, one set for each worker, and the targets of the log."""

from __future__ import annotations

from mailproxy.address import TcpAddress
from mailproxy.certificates.store import Material
from mailproxy.config import Config
from mailproxy.errors import ConfigError, Fault
from mailproxy.log import Output, open_target
from mailproxy.net.listener import Listener, close_all, open_for_workers, open_listeners

Slots = list[list[Listener]]
"""For each worker those that it accepts on."""


def open_all(
    config: Config, material: Material, *, workers: int, owner: tuple[int, int] | None
) -> tuple[Slots, list[Output]]:
    """Listen and open the log's targets. ``owner``: who gets log files that are made here.

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
        outputs = _open_log(config, owner, shared=workers > 1)
    except ConfigError:
        close_slots(slots)
        raise
    return slots, outputs


def _open_log(config: Config, owner: tuple[int, int] | None, *, shared: bool) -> list[Output]:
    outputs: list[Output] = []
    for path, each in config.log.outputs.items():
        try:
            target = open_target(
                each.to.where, each.to.syslog, owner, shared=shared, facility=each.facility, tag=each.tag
            )
        except OSError as error:
            for output in outputs:
                output.target.close()
            reason = error.strerror or str(error)
            raise config.error([Fault(f"{path}.to", f"{each.to}: {reason}")]) from None
        outputs.append(Output(target, each.format, each.level, str(each.to)))
    return outputs


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
