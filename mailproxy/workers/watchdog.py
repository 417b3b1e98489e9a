"""The launcher's watchdog: a child whose loop has stopped is found by its heartbeat on the board, and killed.

Looks are counted, not seconds: where the launcher itself was stopped, or the machine suspended, or so busy that the
launcher comes late, no more than one look is counted for that time.
"""

from __future__ import annotations

from attrs import define

LOOK_S = 1.0
_HUNG_LOOKS = 7  # a loop counts once a second, so that this many looks without a beat are no matter of load
_STARTING_LOOKS = 60  # until the first beat: a large configuration takes its time


@define
class Pulse:
    """What looks at one child have found. ``silent``: the number of looks since its last beat."""

    beats: int = 0
    silent: int = 0

    def look(self, beats: int) -> bool:
        """Whether the child hangs; to be called every ``LOOK_S`` seconds with the count of its beats."""
        if beats != self.beats:
            self.beats, self.silent = beats, 0
            return False
        self.silent += 1
        return self.silent >= (_HUNG_LOOKS if beats else _STARTING_LOOKS)
