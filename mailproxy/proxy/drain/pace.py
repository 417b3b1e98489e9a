"""How many sessions a drain ends in a second: pure arithmetic.

Clients that are disconnected connect again at once. So sessions end one after the other, and those first that
nothing happens in. The time of a drain has two parts. In the first three quarters idle sessions end, spread
evenly. In the last quarter the others end, spread evenly, the most silent first. What is busy until the
deadline ends there.
"""

from __future__ import annotations

from attrs import frozen

_LAST_PART = 0.25
# Of the rate. A few idle sessions do not have to be spread over a time as long as the drain.
_SLOWEST = 0.1


@frozen
class Pace:
    """The pace of one drain.

    Attributes:
        rate: Sessions ended in a second at most, unless the deadline could not be met.
        seconds: The time from the start of the drain to the deadline.
    """

    rate: float
    seconds: float

    def is_last_part(self, seconds_left: float) -> bool:
        """Whether sessions end that are not idle."""
        return seconds_left <= self.seconds * _LAST_PART

    def of_idle(self, idle: int, left: int, seconds_left: float) -> float:
        """Return how many sessions end in a second, in the first part.

        Args:
            idle: The idle sessions.
            left: All sessions that have not ended.
            seconds_left: The time until the deadline.
        """
        evenly = idle / (seconds_left - self.seconds * _LAST_PART)
        return min(max(evenly, self.rate * _SLOWEST), self.of_all(left, seconds_left))

    def of_rest(self, quiet: int, left: int, seconds_left: float) -> float:
        """Return how many sessions end in a second, in the last part.

        Args:
            quiet: The sessions in which nothing moves at the moment.
            left: All sessions that have not ended.
            seconds_left: The time until the deadline.
        """
        # The last one is due at the deadline. A single session has all the time that the operator gave.
        return min((quiet - 1) / seconds_left, self.of_all(left, seconds_left))

    def of_all(self, left: int, seconds_left: float) -> float:
        """Return how many sessions end in a second at most: the rate, or more if the deadline demands it."""
        return max(self.rate, left / seconds_left)
