"""The frontends of a worker, as the control process sees and changes them."""

from __future__ import annotations

from attrs import frozen

from mailproxy.proxy.service import Service
from mailproxy.workers.messages import (
    FrontendUpdates,
)


@frozen(eq=False)
class WorkerFrontends:
    """The frontends of a worker's service."""

    service: Service

    def apply(self, message: FrontendUpdates) -> None:
        """Do what the operator wants."""
        self.service.set_limit(message.max_sessions)
        for name, state, limit in message.frontends:
            if (frontend := self.service.frontends.get(name)) is not None:  # else a reload has removed it
                frontend.set_state(state)
                frontend.set_limit(limit)

    def message(self) -> FrontendUpdates:
        """Return what the operator wants, for a control process that does not know it."""
        frontends = self.service.frontends.items()
        return FrontendUpdates(
            frontends=tuple((name, frontend.state, frontend.limit) for name, frontend in frontends),
            max_sessions=self.service.limit_wish,
        )
