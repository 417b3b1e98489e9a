"""Listeners over a reload: a socket whose address stays is handed over, and never closed.

The connections in its accept queue then wait for the new configuration, and none is lost.

A new socket may have the port of one that is closed later: ``*:143`` becomes ``10.0.0.1:143``. Both listen
for a moment, which the kernel allows if both have SO_REUSEPORT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from mailproxy.config import Config
from mailproxy.net.listener import BindPlace, Listener, close_all, open_missing
from mailproxy.net.matching import match_binds
from mailproxy.net.tls.terminator import Terminator


@frozen
class Handover:
    """The listeners of the next configuration.

    Attributes:
        listeners: All of them, in the order of the configuration.
        opened: Those that were opened for it.
        kept: The others, each with the listener that had its socket before.
        gone: Listeners of the present configuration whose address is not in the next one.
    """

    listeners: Sequence[Listener]
    opened: Sequence[Listener]
    kept: Sequence[tuple[Listener, Listener]]
    gone: Sequence[Listener]

    def cancel(self) -> None:
        """Close what was opened: the next configuration is not used."""
        close_all(self.opened)
        for listener in self.gone:
            listener.share_port(is_shared=False)

    def complete(self) -> None:
        """Give the sockets that stay the options of their binds. Closing ``gone`` is left to the caller."""
        for listener, before in self.kept:
            listener.update_socket(before.bind)
        for listener in self.opened:
            listener.share_port(is_shared=False)


def hand_over(
    config: Config, terminators: Mapping[BindPlace, Terminator], current: Sequence[Listener]
) -> Handover:
    """Open the listeners that the next configuration has in addition. Changes nothing of those that are open.

    Args:
        config: The next configuration.
        terminators: Its terminators, by frontend and index of the bind.
        current: The open listeners.

    Raises:
        ConfigError: Some addresses cannot be listened on. Nothing is left open then.
    """
    before = _match(config, current)
    sockets = {old.socket for group in before.values() for old in group}
    gone = [listener for listener in current if listener.socket not in sockets]
    for listener in gone:
        listener.share_port(is_shared=True)
    try:
        ports = {listener.port for listener in gone if listener.port is not None}
        opened = open_missing(config, terminators, before.keys(), shared_ports=ports)
    except BaseException:
        for listener in gone:
            listener.share_port(is_shared=False)
        raise
    listeners = {place: [listener] for place, listener in opened.items()}
    kept = []
    for (name, index), group in before.items():
        bind = config.frontends[name].bind[index]
        pairs = [
            (old.handed_over(bind, name, index + 1, terminators.get((name, index))), old) for old in group
        ]
        listeners[name, index] = [new for new, _ in pairs]
        kept += pairs
    return Handover(
        listeners=[
            listener
            for name, frontend in config.frontends.items()
            for index in range(len(frontend.bind))
            for listener in listeners[name, index]
        ],
        opened=list(opened.values()),
        kept=kept,
        gone=gone,
    )


def _match(config: Config, current: Sequence[Listener]) -> dict[BindPlace, list[Listener]]:
    """Return the open listeners of each bind that has some. Several have a bind that more processes had before."""
    groups: dict[BindPlace, list[Listener]] = {}
    for listener in current:
        groups.setdefault((listener.frontend, listener.number), []).append(listener)
    by_bind = list(groups.values())
    matches = match_binds(config, [(group[0].frontend, str(group[0].bind.address)) for group in by_bind])
    return {place: by_bind[index] for place, index in matches.items()}
