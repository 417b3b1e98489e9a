"""The gate of a session: it holds a client's commands back that only a proxy may send, until a login has succeeded.

The parser is ``protocol/gate/``. It is at work inside the tunnel, as the notes of both directions, and leaves them
when a login has succeeded. From then on the session costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.net.relay import Tunnel
from mailproxy.net.relay.tunnel import Follower
from mailproxy.protocol.gate.gate import Fault, Gate
from mailproxy.protocol.gate.registry import GATES
from mailproxy.protocol.opening.identity import TTL_MAX
from mailproxy.proxy.session.dispatch import Dispatch

_HELD_MAX = 1024 * 1024  # the relay reads no more long before, unless its events come in an unusual order

_END_REASONS = {
    Fault.CLIENT: end_reasons.TOO_MANY_ERRORS,
    Fault.INJECTION: end_reasons.INJECTION,
    Fault.SERVER: end_reasons.SERVER_ABORTED,
}


@define(eq=False, weakref_slot=False)
class TunnelGate:
    """The gate of one tunnel.

    Attributes:
        tunnel: The tunnel.
        gate: The parser.
        follower: What else follows the session's bytes, None for nothing.
        push: Sends bytes to the server, and has the relay read the client again; None before the relay starts.
    """

    tunnel: Tunnel
    gate: Gate
    follower: Follower | None
    push: Callable[[bytes], None] | None = None
    _is_dropping: bool = field(default=False, init=False)

    def install(self) -> None:
        """Take the notes of both directions."""
        tunnel = self.tunnel
        tunnel.gate = self
        tunnel.to_server.note, tunnel.to_client.note = self.from_client, self.from_server

    @property
    def holds(self) -> bool:
        """Whether it holds bytes of the client that the server is to get later."""
        return self.gate.holds

    @property
    def is_full(self) -> bool:
        """Whether no more of the client's bytes may be read."""
        return not self.gate.has_room

    def from_client(self, data: memoryview) -> bool | bytes:
        """Take note of bytes of the client; return what goes to the server in their place, False for all of them."""
        if self._is_dropping:
            return b""
        received = bytes(data)
        gate = self.gate
        released = gate.from_client(received)
        is_all = released == received  # mostly: then nothing is held, and nothing has failed
        if not is_all and (gate.failure or gate.held_bytes > _HELD_MAX):
            self._fail()
            return b""
        if self.follower is not None and self.follower.follows_commands and released:
            self.follower.from_client(memoryview(released))
        return False if is_all else released

    def from_server(self, data: memoryview) -> bool:
        """Take note of bytes of the server, and release what has waited for them."""
        if self.follower is not None and self.follower.from_server(data):
            self.follower = None
        if self._is_dropping:
            return False
        gate, push = self.gate, self.push
        if not gate.from_server(bytes(data)):
            return False
        # Mostly nothing waits: then the relay does not either.
        released = gate.released() if gate.held_bytes else None
        if gate.failure:
            self._fail()
            return False
        if gate.is_open:
            self._leave()
        if released is not None:
            if self.follower is not None and self.follower.follows_commands:
                self.follower.from_client(memoryview(released))
            if push is not None:
                push(released)
        return False

    def drop(self) -> None:
        """Drop what it holds and what the client still sends: one of the sides has failed, or the tunnel ends."""
        self._is_dropping, self.push = True, None
        self.gate.discard()

    def _leave(self) -> None:
        """Give the notes to the follower."""
        tunnel, follower = self.tunnel, self.follower
        tunnel.gate = self.push = None
        tunnel.to_client.note = follower.from_server if follower is not None else None
        is_asked = follower is not None and follower.follows_commands
        tunnel.to_server.note = follower.from_client if follower is not None and is_asked else None

    def _fail(self) -> None:
        end: EndReason = _END_REASONS[self.gate.fault]
        self.tunnel.detail = self.gate.failure or "the client pipelines too much before it logs in"
        self.drop()
        self.tunnel.abort(end)


def make_gate(dispatch: Dispatch, *, in_clear: bool) -> Gate | None:
    """Return the gate of a session that is connected, None if its server would not take a client's word.

    Args:
        dispatch: The session's dispatch.
        in_clear: Whether the client has no TLS with the proxy, so that it may want it with the server.
    """
    server = dispatch.lease.server
    if server is None or dispatch.protocol not in GATES or not server.believes_clients(dispatch.protocol):
        return None
    identity = server.config.identity
    return GATES[dispatch.protocol](
        ttl=TTL_MAX if identity == "id" else None,
        greeted=dispatch.opening is not None,
        passes_starttls=in_clear and identity == "proxy",
    )
