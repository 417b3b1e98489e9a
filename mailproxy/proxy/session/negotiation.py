"""The phase before TLS on a bind that upgrades its sessions: the proxy greets, and answers until STARTTLS.

The parser is ``protocol/greeter/``. This module has the socket, the timeout and the text. What is announced comes
from the configuration, or from what health checks have learnt of the backend's servers.
"""

from __future__ import annotations

import functools
import socket

import trio
from attrs import define, field, frozen

from mailproxy import config
from mailproxy.log import end_reasons
from mailproxy.net.poller import Watch
from mailproxy.net.simple_io import has_received_more, receive_at, send_all_at
from mailproxy.net.tls.close import peer_closed
from mailproxy.net.tls.errors import error_reason
from mailproxy.protocol.greeter.announcement import announced, parse_announcement
from mailproxy.protocol.greeter.greeter import Greeter, Outcome
from mailproxy.protocol.greeter.registry import GREETERS
from mailproxy.protocol.opening.opening import Opening
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.session.errors import SessionEndedError

_DEFAULT_TEXT = "ready."

_END_REASONS = {
    Outcome.LEFT: end_reasons.LEFT_BEFORE_TLS,
    Outcome.TOO_MANY_ERRORS: end_reasons.TOO_MANY_ERRORS,
    Outcome.INJECTION: end_reasons.INJECTION,
}


@frozen
class Greeted:
    """A client that the proxy has greeted itself.

    Attributes:
        is_over_tls: Whether it upgraded. Otherwise it is joined in clear text.
        hello: Its own greeting, to be repeated to the server of a session in clear text.
        unread: What it has sent for the server already.
    """

    is_over_tls: bool
    hello: bytes = b""
    unread: bytes = b""


@define(eq=False)
class Greetings:
    """The greetings of one frontend. What is announced is written once for each list of a server.

    Attributes:
        frontend: Its configuration.
    """

    frontend: config.Frontend
    _listed: object = field(default=None, init=False)
    _announced: dict[bool, tuple[bytes, ...]] = field(factory=dict, init=False)

    def greeter(self, backend: Backend, *, required: bool) -> Greeter:
        """Return the greeter of one session.

        Args:
            backend: The backend whose servers' capabilities are announced.
            required: Whether the client must upgrade.
        """
        frontend = self.frontend
        return GREETERS[frontend.protocol](
            self._capabilities(backend, required=required),
            text=self.text,
            host=host_name(),
            required=required,
            max_errors=frontend.max_errors,
        )

    def for_client(self, opening: Opening | None, greeted: Greeted | None) -> bytes:
        """Return the greeting that a client still waits for, empty if it waits for none or for the server's own.

        Args:
            opening: The opening of its session, None if there was none.
            greeted: What the client has sent, if the proxy has greeted it.
        """
        protocol = self.frontend.protocol
        if opening is None or (greeted is not None and not (protocol == "sieve" and greeted.is_over_tls)):
            return b""
        # A greeting from before STARTTLS is not kept. In ManageSieve the server's comes once more over TLS.
        if opening.greeting or protocol == "sieve":
            return opening.greeting
        return GREETERS[protocol]((), text=self.text, host=host_name()).plain_greeting()

    @property
    def text(self) -> str:
        """The text of a greeting."""
        return self.frontend.greeting or _DEFAULT_TEXT

    def _capabilities(self, backend: Backend, *, required: bool) -> tuple[bytes, ...]:
        protocol, configured = self.frontend.protocol, self.frontend.capabilities
        listed = configured or backend.listed()
        if listed is not self._listed:
            self._listed, self._announced = listed, {}
        if required not in self._announced:
            words = [parse_announcement(protocol, each) for each in configured] or backend.listed()
            self._announced[required] = announced(protocol, words, offers_login=not required)
        return self._announced[required]


@functools.cache
def host_name() -> str:
    """Return the name that the proxy gives itself in SMTP."""
    return socket.gethostname() or "localhost"


async def negotiate(
    client: socket.socket, watch: Watch, greeter: Greeter, deadline: float, frontend: config.Frontend
) -> Greeted:
    """Greet a client, and answer it until it upgrades or is to be joined in clear text.

    Args:
        client: Its connection.
        watch: The watch of that.
        greeter: The greeter of this session.
        deadline: On trio's clock.
        frontend: Its frontend's configuration.

    Returns:
        What the client has sent. After STARTTLS the answer was sent, and the client begins TLS.

    Raises:
        SessionEndedError: LEFT_BEFORE_TLS, NEGOTIATION_TIMEOUT, TOO_MANY_ERRORS, EARLY_TALKER or
            INJECTION.
    """
    has_sent = False
    try:
        with trio.CancelScope(deadline=deadline):
            if frontend.greeting_delay:
                await _delay_greeting(client, watch, greeter, frontend)
            await send_all_at(client, watch, greeter.greet())
            while True:
                while answer := greeter.next_answer():
                    if greeter.outcome is Outcome.UPGRADE and has_received_more(client, watch):
                        raise SessionEndedError(end_reasons.INJECTION)
                    await send_all_at(client, watch, answer)
                if greeter.outcome is not None:
                    return _greeted(greeter, greeter.outcome)
                data = await receive_at(client, watch)
                if not data:
                    raise SessionEndedError(end_reasons.LEFT_BEFORE_TLS, sent_nothing=not has_sent)
                has_sent = True
                greeter.receive(data)
    except OSError as error:
        reason = error_reason(error)
        raise SessionEndedError(end_reasons.LEFT_BEFORE_TLS, reason, sent_nothing=not has_sent) from None
    raise SessionEndedError(end_reasons.NEGOTIATION_TIMEOUT)


async def _delay_greeting(
    client: socket.socket, watch: Watch, greeter: Greeter, frontend: config.Frontend
) -> None:
    """Wait for ``greeting_delay``, and look for a client that does not.

    Programs that send unsolicited mail often do not wait. RFC 5321 section 4.3.1 has clients wait.
    """
    scope = trio.CancelScope(deadline=trio.current_time() + frontend.greeting_delay)
    with scope:
        while not has_received_more(client, watch) and not peer_closed(client):
            await watch.readable()
        if peer_closed(client):
            raise SessionEndedError(end_reasons.LEFT_BEFORE_TLS, sent_nothing=True)
        if frontend.early_talkers == "refuse":
            await send_all_at(client, watch, greeter.refuse_early_talker())
            raise SessionEndedError(end_reasons.EARLY_TALKER)
        greeter.note_error()
        await trio.sleep_forever()


def _greeted(greeter: Greeter, outcome: Outcome) -> Greeted:
    if outcome is Outcome.UPGRADE:
        return Greeted(is_over_tls=True)
    if outcome is Outcome.JOIN:
        return Greeted(is_over_tls=False, hello=greeter.hello, unread=greeter.unread)
    raise SessionEndedError(_END_REASONS[outcome])
