"""The waits of a session before its tunnel opens, and why one was cut short."""

from __future__ import annotations

import math

import trio
from attrs import define, field

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.net.poller import AnyPoller
from mailproxy.proxy.session.errors import SessionEndedError

# A client that has closed its side may still read the answer of a server that is quick: ``nc`` and many
# probes do.
_CLIENT_EOF_GRACE_S = 0.2


@define(eq=False, weakref_slot=False)
class InterruptibleWait:
    """The one wait that a session is in: in the queue, for a connection, or in a pause.

    A wait is a cancel scope around one phase. Cancel scopes cost, so there is one at a time and none without
    a wait. Four events end it before what it waits for:

    - Its timeout: ``raise_if_ended`` returns, and the caller decides.
    - The server goes down (``end_wait``): the same, the session tries another server.
    - The client closes (``end_session`` in the queue, ``end_session_soon`` elsewhere), or the operator ends the
      session (``end_session``): ``raise_if_ended`` raises.
    - The operator stops the proxy: ``trio.Cancelled`` passes through, as in every phase.

    ``_end`` is the end reason of the session if the scope is cancelled, be it by its deadline or at once. It
    is set together with the deadline or the cancellation that it belongs to, and read by ``raise_if_ended``
    alone.
    """

    poller: AnyPoller
    # The scope of this wait, or of the last one, on which events have no effect.
    _scope: trio.CancelScope | None = field(default=None, init=False)
    _end: EndReason | None = field(default=None, init=False)
    _client_deadline: float = field(default=math.inf, init=False)

    @property
    def has_client_closed(self) -> bool:
        """Whether the client has closed its side, so that the session has little time left."""
        return self._client_deadline != math.inf

    def timeout(self, seconds: float) -> trio.CancelScope:
        """Return the scope of the next wait, which ends after ``seconds`` or at the client's deadline."""
        deadline, self._end = self.poller.clock() + seconds, None
        if self._client_deadline < deadline:
            deadline, self._end = self._client_deadline, end_reasons.CLIENT_LEFT
        self._scope = trio.CancelScope(deadline=deadline)
        return self._scope

    def raise_if_ended(self) -> None:
        """Raise SessionEndedError if an event during the last wait ends the session.

        Call it after each wait.
        """
        scope, self._scope = self._scope, None
        # Not ``cancelled_caught``: a client that closes after its wait was over, in the same scheduler step,
        # has closed, too. The slot that it got then goes to the next waiter.
        if self._end is not None and scope is not None and scope.cancel_called:
            raise SessionEndedError(self._end)

    def end_wait(self) -> None:
        """End the wait alone, unless it has ended already; the session goes on."""
        if self._scope is not None and not self._scope.cancel_called:
            self._end = None
            self._scope.cancel()

    def end_session(self, end: EndReason) -> None:
        """End the wait and the session with it."""
        if self._scope is not None:
            self._end = end
            self._scope.cancel()

    def end_session_soon(self) -> None:
        """End the session with CLIENT_LEFT unless its waits are over in 0.2 s; the first call counts."""
        if self.has_client_closed:
            return
        self._client_deadline = trio.current_time() + _CLIENT_EOF_GRACE_S
        scope = self._scope
        # A wait that ``end_wait`` has ended already stays that: the deadline counts for the next one.
        if scope is not None and not scope.cancel_called and self._client_deadline < scope.deadline:
            scope.deadline, self._end = self._client_deadline, end_reasons.CLIENT_LEFT
