"""The records of all processes, for what follows them in the control process."""

from __future__ import annotations

from mailproxy.log import Follower, Log, LostRecords
from mailproxy.workers.control.registry import WorkerRegistry
from mailproxy.workers.messages import FollowRecords, Records
from mailproxy.workers.records import unpack


class RecordFeed:
    """Gives followers what the control process logs and, as long as there are any, what the workers log.

    Args:
        registry: The workers.
        log: The log of the control process.
    """

    def __init__(self, registry: WorkerRegistry, log: Log) -> None:
        self._registry = registry
        self._log = log
        self._followers: tuple[Follower, ...] = ()

    @property
    def message(self) -> FollowRecords:
        """What a worker has to know."""
        return FollowRecords(is_on=bool(self._followers))

    def subscribe(self, follower: Follower) -> None:
        """Call ``follower`` with each record from now on."""
        self._followers = (*self._followers, follower)
        self._log.subscribe(follower)
        if len(self._followers) == 1:
            self._registry.broadcast(self.message, replaces="follow")

    def unsubscribe(self, follower: Follower) -> None:
        """Undo ``subscribe``."""
        self._followers = tuple(each for each in self._followers if each != follower)
        self._log.unsubscribe(follower)
        if not self._followers:
            self._registry.broadcast(self.message, replaces="follow")

    def on_records(self, message: Records) -> None:
        """Give followers what a worker has sent."""
        for packed in message.records:
            record = unpack(packed)
            for follower in self._followers:
                follower(record)
        if message.lost:
            for follower in self._followers:
                follower(LostRecords(message.lost))
