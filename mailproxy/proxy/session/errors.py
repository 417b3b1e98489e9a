"""How a phase says that a session cannot go on."""

from __future__ import annotations

from mailproxy.log.end_reasons import EndReason


class SessionEndedError(Exception):
    """A session cannot go on. Caught in ``Session.run`` and nowhere else.

    ``said_nothing``: the client has ended it before it had sent a byte. ``retries_at_once``: the next attempt need not wait,
    since this one cost the server nothing. ``is_clients``: the failed attempt says nothing of the server.
    """

    def __init__(
        self,
        end: EndReason,
        detail: object = "",
        *,
        said_nothing: bool = False,
        retries_at_once: bool = False,
        is_clients: bool = False,
    ) -> None:
        self.end = end
        self.detail = str(detail)
        self.said_nothing = said_nothing
        self.retries_at_once = retries_at_once
        self.is_clients = is_clients
