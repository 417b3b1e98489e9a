"""What a process gets from the one before it: sockets and state, by ``--replace`` or from the service manager."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from attrs import define, field

from mailproxy.admin.handover.predecessor import Predecessor, find_predecessor
from mailproxy.admin.listeners import AdminListeners
from mailproxy.app.privileges import configured_owner
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.log import Log
from mailproxy.log.events import NOTHING_REPLACED, STORED_SOCKETS_USED, TOOK_OVER, Event
from mailproxy.net.listener import Slots
from mailproxy.net.notify import notify_ready
from mailproxy.net.passing.adopt import claim, leave_files
from mailproxy.net.passing.packets import HandoverError
from mailproxy.net.passing.sockets import PassedSocket, PassedSockets
from mailproxy.net.passing.store import DescriptorStore, stored_name, stored_sockets
from mailproxy.proxy.state import ProxyState


@define
class Inheritance:
    """Sockets and state of the process before.

    Attributes:
        passed: Its listening sockets.
        state: The state of its backends; None if there is none.
        store: Where the service manager keeps listening sockets.
        events: What the log gets of it at the start: kind, message and data.
    """

    passed: PassedSockets
    state: ProxyState | None
    store: DescriptorStore
    events: list[tuple[Event, str, Mapping[str, object]]]
    _predecessor: Predecessor | None
    _has_sockets: bool = field(init=False)
    _slots: Slots = field(factory=list, init=False)
    _admin: AdminListeners = field(factory=AdminListeners, init=False)
    _on_taken_over: list[Callable[[], None]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._has_sockets = bool(self.passed)

    def on_taken_over(self, callback: Callable[[], None]) -> None:
        """Have a function called when this process has replaced the running instance."""
        self._on_taken_over.append(callback)

    @property
    def is_pending(self) -> bool:
        """Whether there is a running instance to be replaced, which still accepts."""
        return self._predecessor is not None

    def use(self, slots: Slots, admin: AdminListeners) -> None:
        """Note what this process listens on."""
        self._slots, self._admin = slots, admin

    def log_events(self, log: Log) -> None:
        """Log where the sockets come from."""
        for event, message, data in self.events:
            log.event(event, message, **data)

    def complete(self) -> str | None:
        """Have the process before stop accepting, and notify the service manager. Blocks for 2 s at most.

        This process accepts already.

        Returns:
            None, or why the process before may still accept.
        """
        listeners = [listener for listeners in self._slots for listener in listeners]
        reason = None
        if self._predecessor is not None:
            unused = {each.address for each in self.passed.unused if each.purpose == "bind"}
            used = {str(listener.bind.address) for listener in listeners}
            reason = self._predecessor.take_over(unused - used)
            self._predecessor.close()
            self._predecessor = None
            notify_ready(main_pid=os.getpid())
            for callback in self._on_taken_over:
                callback()
        else:
            notify_ready()
        if self._has_sockets:
            claim(listeners)
            self._admin.claim()
        self.passed.close_unused()
        self._update_store()
        return reason

    def on_reloaded(self, slots: Slots) -> None:
        """Have the service manager keep the sockets of this process for the next one, and no others."""
        self._slots = slots
        self._update_store()

    def _update_store(self) -> None:
        self.store.update(listener for listeners in self._slots for listener in listeners)

    def before_stop(self) -> None:
        """Leave the files of Unix sockets to the next process, if the service manager keeps the sockets for it."""
        if self.store.is_used:
            for listeners in self._slots:
                leave_files(listeners, ())

    def close_copies(self) -> None:
        """Close, in a child of the main process, what is not the child's."""
        self.passed.close_unused()
        if self._predecessor is not None:
            self._predecessor.close()

    def cancel(self) -> None:
        """Close everything: this process does not serve. The one before goes on."""
        self.passed.cancel()
        if self._predecessor is not None:
            self._predecessor.close()
            self._predecessor = None


def inherit(config: Config, *, replaces: bool) -> Inheritance:
    """Get what the process before has left or passes on.

    Args:
        config: The configuration of this process, without faults.
        replaces: Whether the running instance is to be replaced.

    Raises:
        ConfigError: There is a running instance, and it does not hand over.
    """
    events: list[tuple[Event, str, Mapping[str, object]]] = []
    stored = stored_sockets(config)
    if stored:
        count = len([each for each in stored if each.address])
        message = f"listening sockets that the service manager has kept: {count}"
        events.append((STORED_SOCKETS_USED, message, {"sockets": count}))
    predecessor = _find(config, events) if replaces else None
    passed = [] if predecessor is None else predecessor.sockets
    return Inheritance(
        passed=PassedSockets([*stored, *passed]),
        state=None if predecessor is None else predecessor.state,
        store=DescriptorStore(_stored_before([*stored, *passed])),
        events=events,
        predecessor=predecessor,
    )


def _find(config: Config, events: list[tuple[Event, str, Mapping[str, object]]]) -> Predecessor | None:
    path, key = _admin_socket(config)
    owner = configured_owner(config)
    users = {0, os.geteuid(), *(() if owner is None else owner[:1])}
    try:
        predecessor = find_predecessor(path, users)
    except HandoverError as error:
        fact = f"--replace: the running instance at {path} does not hand over: {error}"
        raise config.error([Fault(key, fact)]) from None
    if predecessor is None:
        message = f"--replace: no instance answers at {path}, so this is a normal start"
        events.append((NOTHING_REPLACED, message, {"socket": str(path)}))
        return None
    count = len(predecessor.sockets)
    state = f", without its state: {predecessor.state_error}" if predecessor.state_error else " and its state"
    message = (
        f"takes over from process {predecessor.pid} (mailproxy {predecessor.version}): {count} sockets{state}"
    )
    data = {"pid": predecessor.pid, "version": predecessor.version, "sockets": count}
    events.append((TOOK_OVER, message, data))
    return predecessor


def _admin_socket(config: Config) -> tuple[Path, str]:
    """Return the admin socket of the running instance, and its key.

    Raises:
        ConfigError: The configuration names none.
    """
    for key, table in config.admin.listening.items():
        if table.path is not None and table.level == "admin":
            return table.path, str(key)
    fact = '--replace needs the admin socket of the running instance, with level "admin": give socket = "/run/mailproxy/admin.sock"'
    raise config.error([Fault("admin", fact)])


def _stored_before(sockets: Iterable[PassedSocket]) -> dict[str, set[int]]:
    stored: dict[str, set[int]] = {}
    for each in sockets:
        if each.purpose == "bind":
            name = each.stored_as or stored_name(each.address)
            stored.setdefault(name, set()).add(os.fstat(each.socket.fileno()).st_ino)
    return stored
