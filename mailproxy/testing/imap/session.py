"""What the IMAP server knows of one client: the user, the mailbox, and the client's view of it."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from attrs import define, field

from mailproxy.testing.imap.fetch import write_flags
from mailproxy.testing.imap.syntax import number_set

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailproxy.testing.imap.mailstore import Mailbox, Mailstore, Message


class State(Enum):
    """The states of a dialogue (RFC 3501 section 3)."""

    GREETED = auto()
    AUTHENTICATED = auto()
    SELECTED = auto()
    OVER = auto()


class Refusal(Exception):  # noqa: N818 -- NO is an answer of the protocol, and not an error of the program
    """The server understands the command and does not execute it. The message follows NO."""


@define(eq=False)
class ImapSession:
    """The state of one client's dialogue.

    Attributes:
        name: The name of the server.
        store: Its mail.
        wake: Called when the selected mailbox changes.
        state: The state of the dialogue.
        user: The user, empty before the login.
        is_read_only: Whether the mailbox was opened with EXAMINE.
        is_idle: Whether the client is in IDLE.
        take_line: Where the next line goes if a command waits for one, else None.
        view: UIDs with their flags, as the client knows them. Their order gives the message numbers.
    """

    name: str
    store: Mailstore
    wake: Callable[[], None]
    state: State = field(init=False, default=State.GREETED)
    user: str = field(init=False, default="")
    is_read_only: bool = field(init=False, default=False)
    is_idle: bool = field(init=False, default=False)
    take_line: Callable[[bytes], str] | None = field(init=False, default=None)
    view: dict[int, frozenset[str]] = field(init=False, factory=dict, repr=False)
    _mailbox: Mailbox | None = field(init=False, default=None)
    _output: list[bytes] = field(init=False, factory=list, repr=False)

    def send(self, *parts: str | bytes) -> None:
        """Send one line."""
        self._output.extend(part.encode() if isinstance(part, str) else part for part in parts)
        self._output.append(b"\r\n")

    def pop_output(self) -> bytes:
        """Return what was sent since the last call."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def log_in(self, user: str, password: str) -> None:
        """Log this user in. Raise Refusal if the password is wrong."""
        if not self.store.is_password(user, password):
            raise Refusal("[AUTHENTICATIONFAILED] wrong user or password")
        self.user, self.state = user, State.AUTHENTICATED

    def find(self, name: str, hint: str = "") -> Mailbox:
        """Return one of the user's mailboxes. Raise Refusal if it does not exist."""
        mailbox = self.store.mailboxes(self.user).get(name)
        if mailbox is None:
            raise Refusal(f"{hint}there is no such mailbox")
        return mailbox

    @property
    def mailbox(self) -> Mailbox:
        """The selected mailbox. Raise Refusal if there is none."""
        if self._mailbox is None:
            raise Refusal("no mailbox is selected")
        return self._mailbox

    @property
    def writable(self) -> Mailbox:
        """The selected mailbox, to change it. Raise Refusal if it is read-only or there is none."""
        if self.is_read_only:
            raise Refusal("the mailbox is selected read-only")
        return self.mailbox

    def select(self, mailbox: Mailbox, *, is_read_only: bool) -> None:
        """Select a mailbox."""
        mailbox.watchers.append(self.wake)
        self._mailbox, self.is_read_only, self.state = mailbox, is_read_only, State.SELECTED
        self.view = {uid: message.flags for uid, message in mailbox.messages.items()}

    def unselect(self) -> None:
        """Close the mailbox if one is selected."""
        if self._mailbox is not None:
            self._mailbox.watchers.remove(self.wake)
            self._mailbox, self.view, self.state = None, {}, State.AUTHENTICATED

    def end(self) -> None:
        """End the dialogue."""
        self.unselect()
        self.is_idle, self.state = False, State.OVER

    def messages_in(self, numbers: str, *, by_uid: bool) -> list[tuple[int, Message]]:
        """Return the messages of a set with their numbers. Those that another session has removed are left out."""
        is_in_set = number_set(numbers, max(self.view, default=0) if by_uid else len(self.view))
        messages = self.mailbox.messages
        return [
            (number, messages[uid])
            for number, uid in enumerate(self.view, 1)
            if uid in messages and is_in_set(uid if by_uid else number)
        ]

    def update(self, *, with_expunges: bool = True) -> None:
        """Send what has changed in the mailbox since the last update."""
        if self._mailbox is None:
            return
        messages = self._mailbox.messages
        if with_expunges:
            self._send_expunges(messages)
        if new := {uid: message.flags for uid, message in messages.items() if uid not in self.view}:
            self.view |= new
            self.send(f"* {len(self.view)} EXISTS")
        for number, (uid, known) in enumerate(tuple(self.view.items()), 1):
            if uid in messages and messages[uid].flags != known:
                self.send_flags(number, messages[uid])

    def send_flags(self, number: int, message: Message, *, with_uid: bool = False) -> None:
        """Send the flags of a message."""
        self.view[message.uid] = message.flags
        uid = f"UID {message.uid} " if with_uid else ""
        self.send(f"* {number} FETCH ({uid}FLAGS ", write_flags(message.flags), ")")

    def _send_expunges(self, messages: dict[int, Message]) -> None:
        # From the end: so no number shifts before it is sent.
        for number, uid in reversed(list(enumerate(self.view, 1))):
            if uid not in messages:
                self.send(f"* {number} EXPUNGE")
                del self.view[uid]
