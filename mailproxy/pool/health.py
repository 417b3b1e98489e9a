"""A server's health: the results of its checks counted as HAProxy counts them, with rise and fall."""

from __future__ import annotations

from attrs import define, field


@define
class Health:
    """A counter from 0 (down) to ``rise + fall - 1`` (up). The server is up from ``rise`` on.

    The counter begins at ``rise``: a server counts as up until its first check fails, and then it is down at
    once (HAProxy's ``init-state none``). The rules are those of ``set_server_check_status`` and
    ``srv_getinter`` in HAProxy 2.6.

    Attributes:
        rise: Passed checks in a row that bring a server up.
        fall: Failed checks in a row that bring a server down.
    """

    rise: int
    fall: int
    _counter: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._counter = self.rise

    @property
    def counter(self) -> int:
        """The counter now."""
        return self._counter

    def restore(self, counter: int) -> None:
        """Set the counter to that of another ``Health`` with the same ``rise`` and ``fall``."""
        self._counter = counter

    @property
    def is_up(self) -> bool:
        """Whether the server is up."""
        return self._counter >= self.rise

    @property
    def is_settled(self) -> bool:
        """Whether the counter is at one of its ends, so that the next check need not be soon."""
        return self._counter in (0, self.rise + self.fall - 1)

    def record_pass(self) -> bool:
        """Count a passed check: one step up, and from ``rise`` on to the top.

        Return True if the server came up.
        """
        was_up = self.is_up
        self._counter += 1
        if self._counter >= self.rise:
            self._counter = self.rise + self.fall - 1
        return self.is_up and not was_up

    def record_fail(self) -> bool:
        """Count a failed check: one step down, and below ``rise`` to the bottom.

        Return True if the server went down.
        """
        was_up = self.is_up
        self._counter -= 1
        if self._counter < self.rise:
            self._counter = 0
        return was_up and not self.is_up

    def require_one_pass(self) -> None:
        """Let the next passed check bring a server up that is down."""
        if not self.is_up:
            self._counter = self.rise - 1

    def force(self, *, is_up: bool) -> None:
        """Set the counter to its upper or lower end: the operator knows better than the checks so far."""
        self._counter = self.rise + self.fall - 1 if is_up else 0

    def take_over(self, other: Health) -> None:
        """Take over what another counter says of the same server.

        With other bounds, up stays up and down stays down.
        """
        if (self.rise, self.fall) == (other.rise, other.fall):
            self._counter = other._counter
        elif not other.is_up:
            self._counter = 0
        elif other.is_settled:
            self._counter = self.rise + self.fall - 1

    def interval(self, normal: float, fast: float, down: float) -> float:
        """Return the interval before the next check.

        Args:
            normal: The interval of a server that is up (HAProxy's ``inter``).
            fast: That on the way up or down, and before the first result (``fastinter``).
            down: That of a server that is down (``downinter``).
        """
        if not self.is_settled:
            return fast
        return normal if self.is_up else down

    @property
    def progress(self) -> str:
        """The ``status:`` of a check's log line, always with numbers.

        For example ``3/3 UP``, ``2/3 UP``, ``1/2 DOWN``, ``0/2 DOWN``.
        """
        if self.is_up:
            return f"{self._counter - self.rise + 1}/{self.fall} UP"
        return f"{self._counter}/{self.rise} DOWN"

    def __str__(self) -> str:
        """Return the status of ``show stat``.

        It is ``UP``, ``UP 2/3`` on the way down, ``DOWN``, or ``DOWN 1/2`` on the way up.
        """
        count, word = self.progress.split()
        return word if self.is_settled else f"{word} {count}"


class DeclaredDown(Health):
    """The health of a server without checks that the operator has declared down. Only the operator ends it."""

    def __init__(self) -> None:
        super().__init__(rise=1, fall=1)
        self.force(is_up=False)
