"""The messages of a reload. `workers.messages` has them in its table."""

from __future__ import annotations

from attrs import frozen


@frozen
class RequestReload:
    """Use a configuration. The file that comes along has a `ReloadDocument`. ``number`` comes back in the answer."""

    number: int


@frozen
class ReloadAnswer:
    """What came of a request: the file that comes along has a `Commit`, or the faults."""

    number: int


@frozen
class ReloadProgress:
    """A reload begins or has ended, which the service manager is to know."""

    is_running: bool


@frozen
class ApplyReload:
    """Use a configuration. The file that comes along has a `WorkerDocument`; sockets follow with ReloadSockets."""

    generation: int


@frozen
class ReloadSockets:
    """Some sockets of a configuration, ``count`` of them, in the order of the document's places."""

    generation: int
    count: int


@frozen
class ReloadApplied:
    """The worker uses the configuration with this number."""

    generation: int


ReloadMessage = RequestReload | ReloadAnswer | ReloadProgress | ApplyReload | ReloadSockets | ReloadApplied
"""A message of a reload."""
