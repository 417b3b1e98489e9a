"""Everything that operators connect to: the admin sockets, and the socket of HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import field, frozen

from mailproxy.admin.http.sockets import HttpListener
from mailproxy.admin.sockets import AdminListener
from mailproxy.net.passing.sockets import PassedSocket


@frozen(eq=False)
class AdminListeners:
    """Everything that operators connect to.

    Attributes:
        sockets: The admin sockets.
        http: Where HTTP is served; None for nowhere.
    """

    sockets: Sequence[AdminListener] = field(factory=list)
    http: HttpListener | None = None

    def __iter__(self) -> Iterator[AdminListener | HttpListener]:
        yield from self.sockets
        if self.http is not None:
            yield self.http

    @property
    def is_open(self) -> bool:
        """Whether there are any, and they are not closed."""
        return any(listener.socket.fileno() != -1 for listener in self)

    @property
    def passed(self) -> Sequence[PassedSocket]:
        """The sockets as another process gets them."""
        return [listener.passed for listener in self]

    def claim(self) -> None:
        """Remove their files at the end: the process before needs them no more."""
        for listener in self.sockets:
            listener.claim()

    def leave(self) -> None:
        """Close them, and leave their files to another process."""
        for listener in self:
            listener.leave()

    def close(self) -> None:
        """Close all of them, and remove their files."""
        for listener in self:
            listener.close()

    def close_copies(self) -> None:
        """Close them in a process that does not serve them. Their files stay."""
        for listener in self:
            listener.socket.close()
