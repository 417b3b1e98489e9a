"""What an IMAP server knows of one client: who it is, its mailbox, and what it has been told of it."""

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
    """Where the dialogue stands (RFC 3501 section 3)."""

    GREETED = auto()
    AUTHENTICATED = auto()
    SELECTED = auto()
    OVER = auto()


class Refusal(Exception):  # noqa: N818 -- the protocol's NO is no error of the program
    """The command is understood and not done; the message follows NO."""


@define(eq=False)
class ImapSession:
    """One client's side of things. ``wake`` is called when its selected mailbox changes."""

    name: str
    store: Mailstore
    wake: Callable[[], None]
    state: State = field(init=False, default=State.GREETED)
    user: str = field(init=False, default="")
    is_read_only: bool = field(init=False, default=False)
    is_idle: bool = field(init=False, default=False)
    # Where the next line goes, if the command waits for one instead of being complete.
    take_line: Callable[[bytes], str] | None = field(init=False, default=None)
    # UIDs with their flags, as the client knows them; their order gives the numbers.
    view: dict[int, frozenset[str]] = field(init=False, factory=dict, repr=False)
    _mailbox: Mailbox | None = field(init=False, default=None)
    _said: list[bytes] = field(init=False, factory=list, repr=False)

    def say(self, *parts: str | bytes) -> None:
        """Say one line."""
        self._said.extend(part.encode() if isinstance(part, str) else part for part in parts)
        self._said.append(b"\r\n")

    def pop_said(self) -> bytes:
        """Return what has been said since the last time."""
        said = b"".join(self._said)
        self._said.clear()
        return said

    def sign_in(self, user: str, password: str) -> None:
        """Become this user. Raises Refusal."""
        if not self.store.is_password(user, password):
            raise Refusal("[AUTHENTICATIONFAILED] wrong user or password")
        self.user, self.state = user, State.AUTHENTICATED

    def find(self, name: str, hint: str = "") -> Mailbox:
        """Return one of the user's mailboxes. Raises Refusal."""
        mailbox = self.store.mailboxes(self.user).get(name)
        if mailbox is None:
            raise Refusal(f"{hint}there is no such mailbox")
        return mailbox

    @property
    def mailbox(self) -> Mailbox:
        """The selected mailbox. Raises Refusal if there is none."""
        if self._mailbox is None:
            raise Refusal("no mailbox is selected")
        return self._mailbox

    @property
    def writable(self) -> Mailbox:
        """The selected mailbox, to change it. Raises Refusal."""
        if self.is_read_only:
            raise Refusal("the mailbox is selected read-only")
        return self.mailbox

    def select(self, mailbox: Mailbox, *, is_read_only: bool) -> None:
        """Enter a mailbox."""
        mailbox.watchers.append(self.wake)
        self._mailbox, self.is_read_only, self.state = mailbox, is_read_only, State.SELECTED
        self.view = {uid: message.flags for uid, message in mailbox.messages.items()}

    def unselect(self) -> None:
        """Leave the mailbox, if there is one."""
        if self._mailbox is not None:
            self._mailbox.watchers.remove(self.wake)
            self._mailbox, self.view, self.state = None, {}, State.AUTHENTICATED

    def end(self) -> None:
        """Leave altogether."""
        self.unselect()
        self.is_idle, self.state = False, State.OVER

    def chosen(self, numbers: str, *, by_uid: bool) -> list[tuple[int, Message]]:
        """Return the messages of a set with their numbers, without those that another session has removed."""
        is_in_set = number_set(numbers, max(self.view, default=0) if by_uid else len(self.view))
        messages = self.mailbox.messages
        return [
            (number, messages[uid])
            for number, uid in enumerate(self.view, 1)
            if uid in messages and is_in_set(uid if by_uid else number)
        ]

    def update(self, *, with_expunges: bool = True) -> None:
        """Say what has changed in the mailbox since the client last heard of it."""
        if self._mailbox is None:
            return
        messages = self._mailbox.messages
        if with_expunges:
            self._tell_expunges(messages)
        if new := {uid: message.flags for uid, message in messages.items() if uid not in self.view}:
            self.view |= new
            self.say(f"* {len(self.view)} EXISTS")
        for number, (uid, known) in enumerate(tuple(self.view.items()), 1):
            if uid in messages and messages[uid].flags != known:
                self.tell_flags(number, messages[uid])

    def tell_flags(self, number: int, message: Message, *, with_uid: bool = False) -> None:
        """Say a message's flags."""
        self.view[message.uid] = message.flags
        uid = f"UID {message.uid} " if with_uid else ""
        self.say(f"* {number} FETCH ({uid}FLAGS ", write_flags(message.flags), ")")

    def _tell_expunges(self, messages: dict[int, Message]) -> None:
        for number, uid in reversed(
            list(enumerate(self.view, 1))
        ):  # from the end: no number shifts before it is said
            if uid not in messages:
                self.say(f"* {number} EXPUNGE")
                del self.view[uid]
