"""One client's dialogue with an in-memory IMAP4rev1 server: bytes in, bytes out (RFC 3501, 7888).

Pure: no loop, no socket, and no clock but the mail store's. The answers never depend on how the input was split.
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
_LITERAL_BYTES_MAX = 8192  # of any command but APPEND: names and passwords
_NUMBERED = frozenset(
    {"FETCH", "STORE", "SEARCH"}
)  # no number may change under these (RFC 3501 section 7.4.1)


class ImapDialogue:
    """Answers one client. ``wake`` is called when ``notice`` may have something to say; ``end`` must be called last."""

    def __init__(
        self,
        name: str,
        store: Mailstore,
        wake: Callable[[], None] = lambda: None,
        *,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self._session = ImapSession(name, store, wake)
        self._reader = CommandReader(self._literal_bound)
        self._message_bytes_max = message_bytes_max
        self._tag = "*"  # of the command that waits for a line

    @property
    def is_over(self) -> bool:
        """Has it ended? What comes then is not answered."""
        return self._session.state is State.OVER

    def greeting(self) -> bytes:
        """Return what the server says first; it has the server's name."""
        return f"* OK [CAPABILITY {CAPABILITIES}] {self._session.name} ready\r\n".encode()

    def receive(self, data: bytes) -> bytes:
        """Take what the client sent; return the answers. Whatever it is, nothing is raised."""
        self._reader.feed(data)
        while not self.is_over and (event := self._next_event()):
            self._answer(event)
        return self._session.pop_said()

    def notice(self) -> bytes:
        """Return what an idle client has to hear about its mailbox."""
        if self._session.is_idle:
            self._session.update()
        return self._session.pop_said()

    def end(self) -> None:
        """Let go of the mailbox."""
        self._session.end()

    def _next_event(self) -> Event | None:
        return self._reader.next_line() if self._session.take_line else self._reader.next_event()

    def _answer(self, event: Event) -> None:
        match event:
            case Command():
                self._tag = event.tag
                self._complete(lambda: self._obey(event))
            case Line(text) if take := self._session.take_line:
                self._session.take_line = None
                self._complete(lambda: take(text))
            case GoAhead():
                self._session.say("+ go ahead")
            case Unreadable(tag, reason):
                self._session.say(f"{tag} BAD {reason}")
            case TooBig(tag):
                self._session.say(f"{tag} NO [TOOBIG] the literal is too long")
            case TooLong():
                # What follows cannot be told from commands any more (RFC 7888 section 4).
                self._session.say("* BYE that was too long")
                self._session.end()

    def _complete(self, command: Callable[[], str]) -> None:
        """Run a command to its tagged answer, unless it waits for a line."""
        try:
            answer = f"OK {command()}"
        except Refusal as refusal:
            answer = f"NO {refusal}"
        except SyntaxFault as fault:
            answer = f"BAD {fault}"
        if self._session.take_line is None:
            self._session.say(f"{self._tag} {answer}")

    def _obey(self, command: Command) -> str:
        if command.word not in COMMANDS:
            raise SyntaxFault("unknown command")
        states, obey = COMMANDS[command.word]
        if self._session.state not in states:
            raise SyntaxFault(f"{command.word} is not for now")
        done = obey(self._session, command.arguments)
        self._session.update(with_expunges=command.word not in _NUMBERED)
        return done

    def _literal_bound(self, word: str) -> int:
        is_message = word == "APPEND" and self._session.user
        return self._message_bytes_max if is_message else _LITERAL_BYTES_MAX
