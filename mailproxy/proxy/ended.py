"""How a phase says that a session cannot go on."""

from __future__ import annotations

from mailproxy.log.ends import End


class SessionEndedError(Exception):
    """A session cannot go on. Caught in ``Session.run`` and nowhere else."""

    def __init__(self, end: End, detail: object = "") -> None:
        self.end = end
        self.detail = str(detail)
