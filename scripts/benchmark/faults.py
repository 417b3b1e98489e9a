"""What can come of a run beside figures: the user's mistakes, faults of a proxy or of the load."""

from __future__ import annotations


class Mistake(Exception):  # noqa: N818 - the user's: one line, exit code 2
    """What was asked for cannot be done."""


class Fault(Exception):  # noqa: N818 - of a proxy or of the load: no figure, exit code 1
    """A weighing came to nothing."""


class ServerEndedError(Exception):
    """The stub server is gone, and with it every further figure; exit code 1."""


class NotStartedFault(Fault):
    """The proxy never listened; no use in trying it again."""
