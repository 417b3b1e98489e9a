"""Is a server up? Counted from the results of its checks as HAProxy counts them, with rise and fall."""

from __future__ import annotations

from attrs import define, field


@define
class Health:
    """The counter goes from 0 (down) to ``rise + fall - 1`` (up), and the server is up from ``rise`` on.

    It begins at ``rise``: a server counts as up until its first check fails, and then it is down at once (HAProxy's
    ``init-state none``). The rules are those of ``set_server_check_status`` and ``srv_getinter`` in HAProxy 2.6.
    """

    rise: int
    fall: int
    _counter: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._counter = self.rise

    @property
    def counter(self) -> int:
        """Where it stands."""
        return self._counter

    def restore(self, counter: int) -> None:
        """Stand where another one of the same bounds stood."""
        self._counter = counter

    @property
    def is_up(self) -> bool:
        """Has it passed often enough, and not failed too often since?"""
        return self._counter >= self.rise

    @property
    def is_settled(self) -> bool:
        """Is it wholly up or wholly down, so that the next check may take its time?"""
        return self._counter in (0, self.rise + self.fall - 1)

    def record_pass(self) -> bool:
        """A check passed: one step up, and from ``rise`` on to the top. True if that brought the server up."""
        was_up = self.is_up
        self._counter += 1
        if self._counter >= self.rise:
            self._counter = self.rise + self.fall - 1
        return self.is_up and not was_up

    def record_fail(self) -> bool:
        """A check failed: one step down, and below ``rise`` to the bottom. True if that brought the server down."""
        was_up = self.is_up
        self._counter -= 1
        if self._counter < self.rise:
            self._counter = 0
        return was_up and not self.is_up

    def require_one_pass(self) -> None:
        """A server that is down is up with the next check that passes."""
        if not self.is_up:
            self._counter = self.rise - 1

    def take_over(self, other: Health) -> None:
        """Know what another counter knew of the same server; with other bounds up stays up, and down stays down."""
        if (self.rise, self.fall) == (other.rise, other.fall):
            self._counter = other._counter
        elif not other.is_up:
            self._counter = 0
        elif other.is_settled:
            self._counter = self.rise + self.fall - 1

    def interval(self, normal: float, fast: float, down: float) -> float:
        """Which of these (HAProxy's ``inter``, ``fastinter``, ``downinter``) lies before the next check.

        Fast is on the way up or down, and until the first result.
        """
        if not self.is_settled:
            return fast
        return normal if self.is_up else down

    @property
    def progress(self) -> str:
        """As the log's ``status:`` of a check has it, always counted: ``3/3 UP``, ``2/3 UP``, ``1/2 DOWN``, ``0/2 DOWN``."""
        if self.is_up:
            return f"{self._counter - self.rise + 1}/{self.fall} UP"
        return f"{self._counter}/{self.rise} DOWN"

    def __str__(self) -> str:
        """As ``show stat`` has it: ``UP``, ``UP 2/3`` on the way down, ``DOWN``, ``DOWN 1/2`` on the way up."""
        count, word = self.progress.split()
        return word if self.is_settled else f"{word} {count}"
