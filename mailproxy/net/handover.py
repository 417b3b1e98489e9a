"""Listeners over a reload: a socket whose address stays is handed over, and never closed.

The connections in its accept queue then wait for the new configuration, and none is lost.

A new socket may have the port of one that is closed later: ``*:143`` becomes ``10.0.0.1:143``. Both listen
for a moment, which the kernel allows if both have SO_REUSEPORT.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from attrs import frozen

from mailproxy.config import Config
from mailproxy.net.listener import BindPlace, Listener, Slots, close_all, open_missing, open_missing_slots
from mailproxy.net.passing.matching import match_binds
from mailproxy.net.tls.terminator import Terminator


@frozen
class Handover:
    """The listeners of the next configuration.

    Attributes:
        listeners: All of them, in the order of the configuration.
        opened: Those that were opened for it.
        kept: The others, each with the listener that had its socket before.
        gone: Listeners of the present configuration whose address is not in the next one.
        is_shared: Whether other workers have sockets for the same ports (SO_REUSEPORT), before and afterwards.
    """

    listeners: Sequence[Listener]
    opened: Sequence[Listener]
    kept: Sequence[tuple[Listener, Listener]]
    gone: Sequence[Listener]
    is_shared: bool = False

    def cancel(self) -> None:
        """Close what was opened: the next configuration is not used."""
        close_all(self.opened)
        if not self.is_shared:
            for listener in self.gone:
                listener.share_port(is_shared=False)

    def complete(self) -> None:
        """Give the sockets that stay the options of their binds. Closing ``gone`` is left to the caller."""
        for listener, before in self.kept:
            listener.update_socket(before.bind)
        if not self.is_shared:
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


@frozen
class SlotsHandover:
    """The listeners of all workers in the next configuration.

    Attributes:
        slots: All of them, a list for each slot. There are as many as there have been workers at most.
        opened: Those that were opened for it.
        kept: The others, each with the listener that had its socket before.
        gone: Listeners of the present configuration whose address is not in the next one.
    """

    slots: Slots
    opened: Sequence[Listener]
    kept: Sequence[tuple[Listener, Listener]]
    gone: Sequence[Listener]

    def cancel(self) -> None:
        """Close what was opened: the next configuration is not used."""
        close_all(self.opened)

    def complete(self) -> None:
        """Give the sockets that stay the options of their binds. Closing ``gone`` is left to the caller."""
        for listener, before in self.kept:
            listener.update_socket(before.bind)


def hand_over_slots(
    config: Config, terminators: Mapping[BindPlace, Terminator], current: Slots, workers: int
) -> SlotsHandover:
    """Open the listeners of workers that the next configuration has in addition.

    Changes nothing of those that are open. The sockets of a worker that goes stay open, because closing one of
    several sockets with SO_REUSEPORT resets the connections in its queue.

    Args:
        config: The next configuration.
        terminators: Its terminators, by frontend and index of the bind.
        current: The open listeners.
        workers: The number of workers.

    Raises:
        ConfigError: Some addresses cannot be listened on. Nothing is left open then.
    """
    positions = {listener.socket: position for position, listener in enumerate(current[0])}
    before = {place: positions[old.socket] for place, (old, *_) in _match(config, current[0]).items()}
    gone = [
        listener
        for slot in current
        for position, listener in enumerate(slot)
        if position not in before.values()
    ]
    ports = {listener.port for listener in gone if listener.port is not None}
    existing = {place: [slot[position] for slot in current] for place, position in before.items()}
    opened = open_missing_slots(
        config, terminators, existing, slots=max(workers, len(current)), shared_ports=ports
    )
    kept: list[tuple[Listener, Listener]] = []
    by_place: dict[BindPlace, list[Listener]] = {}
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            place = name, index
            new: dict[object, Listener] = {}
            for old in existing.get(place, ()):
                if old.socket not in new:  # all slots share a socket that is not of TCP
                    new[old.socket] = old.handed_over(bind, name, index + 1, terminators.get(place))
                    kept.append((new[old.socket], old))
            listeners = [new[old.socket] for old in existing.get(place, ())] + opened.get(place, [])
            by_place[place] = listeners or []
    slots = [
        [listeners[min(slot, len(listeners) - 1)] for listeners in by_place.values()]
        for slot in range(max(workers, len(current)))
    ]
    return SlotsHandover(
        slots=slots,
        opened=[listener for listeners in opened.values() for listener in listeners],
        kept=kept,
        gone=list(dict.fromkeys(gone)),
    )


def adopt(
    config: Config,
    terminators: Mapping[BindPlace, Terminator],
    received: Sequence[tuple[BindPlace, socket.socket]],
    current: Sequence[Listener],
) -> Handover:
    """Return the listeners of a worker for the sockets that it has received.

    A socket that it has already is recognised, and the copy is closed.

    Args:
        config: The next configuration.
        terminators: Its terminators, by frontend and index of the bind.
        received: The sockets with their binds.
        current: The listeners that the worker has.
    """
    before = {_identity(listener.socket): listener for listener in current}
    listeners, opened, kept = [], [], []
    for (name, index), sock in received:
        bind, terminator = config.frontends[name].bind[index], terminators.get((name, index))
        old = before.pop(_identity(sock), None)
        if old is None:
            new = Listener.of_socket(sock, bind, name, index + 1, terminator)
            opened.append(new)
        else:
            sock.close()
            new = old.handed_over(bind, name, index + 1, terminator)
            kept.append((new, old))
        listeners.append(new)
    return Handover(listeners=listeners, opened=opened, kept=kept, gone=list(before.values()), is_shared=True)


def _identity(sock: socket.socket) -> int:
    """Return a number that all copies of a socket have in common, and no other socket."""
    return os.fstat(sock.fileno()).st_ino


def _match(config: Config, current: Sequence[Listener]) -> dict[BindPlace, list[Listener]]:
    """Return the open listeners of each bind that has some. Several have a bind that more processes had before."""
    groups: dict[BindPlace, list[Listener]] = {}
    for listener in current:
        groups.setdefault((listener.frontend, listener.number), []).append(listener)
    by_bind = list(groups.values())
    matches = match_binds(config, [(group[0].frontend, str(group[0].bind.address)) for group in by_bind])
    return {place: by_bind[index] for place, index in matches.items()}
