"""The mail that IMAP servers of tests have in memory: users, their mailboxes, the messages in them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

INBOX = "INBOX"


@define(eq=False)
class Message:
    """One message.

    Attributes:
        uid: Its UID in the mailbox.
        body: Header and text, as it is fetched.
        flags: Its flags. The set is replaced and not changed in place.
        date: The internal date.
    """

    uid: int
    body: bytes = field(repr=False)
    flags: frozenset[str] = frozenset()
    date: datetime = field(kw_only=True)


@define(eq=False)
class Mailbox:
    """One mailbox of a user.

    Attributes:
        name: Its name.
        uid_validity: Its UIDVALIDITY.
        clock: Gives the date of messages that are appended without one.
        messages: The messages by UID, in the order of the UIDs.
        next_uid: The UID of the next message.
        watchers: Called after each change, in the task that has made it.
    """

    name: str
    uid_validity: int
    clock: Callable[[], datetime] = field(repr=False)
    messages: dict[int, Message] = field(init=False, factory=dict, repr=False)
    next_uid: int = field(init=False, default=1)
    watchers: list[Callable[[], None]] = field(init=False, factory=list, repr=False)

    def append(self, body: bytes, flags: Iterable[str] = (), date: datetime | None = None) -> Message:
        r"""Add a message.

        Args:
            body: Header and text.
            flags: Its flags, such as ``\Seen``.
            date: The internal date, None for now.
        """
        message = Message(self.next_uid, body, frozenset(flags), date=date or self.clock())
        self.messages[message.uid] = message
        self.next_uid += 1
        self._notify()
        return message

    def flag(self, uid: int, flags: Iterable[str]) -> None:
        """Replace the flags of a message.

        Raises:
            KeyError: There is no message with this UID.
        """
        self.messages[uid].flags = frozenset(flags)
        self._notify()

    def expunge(self) -> None:
        r"""Remove the messages that have the flag ``\Deleted``."""
        for uid in [uid for uid, message in self.messages.items() if "\\Deleted" in message.flags]:
            del self.messages[uid]
        self._notify()

    def _notify(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()


@define(eq=False)
class _Account:
    password: str = field(repr=False)
    mailboxes: dict[str, Mailbox]


class Mailstore:
    """Users with their passwords and mailboxes. Several servers may share one, like mail on shared storage."""

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Make the users, each with an empty ``INBOX``.

        Args:
            users: Passwords by user. Without users there is ``user`` with the password ``secret``.
            clock: Gives the date of messages that are appended without one.
        """
        self._clock = clock
        self._uid_validity = 0
        self._accounts = {
            user: _Account(password, {INBOX: self._new_mailbox(INBOX)})
            for user, password in (users or {"user": "secret"}).items()
        }

    def is_password(self, user: str, password: str) -> bool:
        """Whether this user exists and has this password."""
        account = self._accounts.get(user)
        return account is not None and account.password == password

    def mailboxes(self, user: str) -> dict[str, Mailbox]:
        """Return the user's mailboxes by name.

        Raises:
            KeyError: The user is unknown.
        """
        return self._accounts[user].mailboxes

    def mailbox(self, user: str, name: str = INBOX) -> Mailbox:
        """Return a mailbox, which is made if it does not exist.

        Raises:
            KeyError: The user is unknown.
        """
        mailboxes = self.mailboxes(user)
        if name not in mailboxes:
            mailboxes[name] = self._new_mailbox(name)
        return mailboxes[name]

    def _new_mailbox(self, name: str) -> Mailbox:
        self._uid_validity += 1
        return Mailbox(name, self._uid_validity, self._clock)
