"""One client's dialogue with the IMAP4rev1 server: bytes in, bytes out (RFC 3501, 7888).

It has no loop and no socket, and no clock but the mail store's. How the input is split makes no difference to the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailproxy.testing.imap.commands import CAPABILITIES, COMMANDS
from mailproxy.testing.imap.session import ImapSession, Refusal, State
from mailproxy.testing.imap.syntax import (
    Command,
    CommandReader,
    Event,
    GoAhead,
    Line,
    SyntaxFault,
    TooBig,
    TooLong,
    Unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailproxy.testing.imap.mailstore import Mailstore

MESSAGE_BYTES_MAX = 100 * 1024 * 1024
_LITERAL_BYTES_MAX = 8192  # in all commands but APPEND: names and passwords
# Message numbers must not change during these commands (RFC 3501 section 7.4.1).
_NUMBERED = frozenset({"FETCH", "STORE", "SEARCH"})


class ImapDialogue:
    """Answers one client. Call ``end`` when the connection has ended."""

    def __init__(
        self,
        name: str,
        store: Mailstore,
        wake: Callable[[], None] = lambda: None,
        *,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        """Begin a dialogue.

        Args:
            name: The name of the server.
            store: Its mail.
            wake: Called when ``notice`` may have something to send.
            message_bytes_max: The largest message that APPEND accepts.
        """
        self._session = ImapSession(name, store, wake)
        self._reader = CommandReader(self._max_literal_bytes)
        self._message_bytes_max = message_bytes_max
        self._tag = "*"  # the tag of the command that waits for a line

    @property
    def is_over(self) -> bool:
        """Whether the dialogue has ended. Further input gets no answer."""
        return self._session.state is State.OVER

    def greeting(self) -> bytes:
        """Return the greeting, which has the server's name."""
        return f"* OK [CAPABILITY {CAPABILITIES}] {self._session.name} ready\r\n".encode()

    def receive(self, data: bytes) -> bytes:
        """Return the answers to bytes from the client. No input raises an error."""
        self._reader.feed(data)
        while not self.is_over and (event := self._next_event()):
            self._answer(event)
        return self._session.pop_output()

    def notice(self) -> bytes:
        """Return the changes of the mailbox if the client is in IDLE."""
        if self._session.is_idle:
            self._session.update()
        return self._session.pop_output()

    def end(self) -> None:
        """Close the mailbox."""
        self._session.end()

    def _next_event(self) -> Event | None:
        return self._reader.next_line() if self._session.take_line else self._reader.next_event()

    def _answer(self, event: Event) -> None:
        match event:
            case Command():
                self._tag = event.tag
                self._complete(lambda: self._run(event))
            case Line(text) if take := self._session.take_line:
                self._session.take_line = None
                self._complete(lambda: take(text))
            case GoAhead():
                self._session.send("+ go ahead")
            case Unreadable(tag, reason):
                self._session.send(f"{tag} BAD {reason}")
            case TooBig(tag):
                self._session.send(f"{tag} NO [TOOBIG] the literal is too long")
            case TooLong():
                # What follows can no longer be distinguished from commands (RFC 7888 section 4).
                self._session.send("* BYE the line or literal is too long")
                self._session.end()

    def _complete(self, command: Callable[[], str]) -> None:
        """Run a command and send its tagged answer, unless it waits for a line."""
        try:
            answer = f"OK {command()}"
        except Refusal as refusal:
            answer = f"NO {refusal}"
        except SyntaxFault as fault:
            answer = f"BAD {fault}"
        if self._session.take_line is None:
            self._session.send(f"{self._tag} {answer}")

    def _run(self, command: Command) -> str:
        if command.word not in COMMANDS:
            raise SyntaxFault("unknown command")
        states, run = COMMANDS[command.word]
        if self._session.state not in states:
            raise SyntaxFault(f"{command.word} is not allowed now")
        answer = run(self._session, command.arguments)
        self._session.update(with_expunges=command.word not in _NUMBERED)
        return answer

    def _max_literal_bytes(self, word: str) -> int:
        is_message = word == "APPEND" and self._session.user
        return self._message_bytes_max if is_message else _LITERAL_BYTES_MAX
