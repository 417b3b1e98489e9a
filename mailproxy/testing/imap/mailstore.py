"""The mail that in-memory IMAP servers hold: users, their mailboxes, the messages in them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

INBOX = "INBOX"


@define(eq=False)
class Message:
    """One message; ``flags`` is replaced, never changed in place."""

    uid: int
    body: bytes = field(repr=False)
    flags: frozenset[str] = frozenset()
    date: datetime = field(kw_only=True)


@define(eq=False)
class Mailbox:
    """Messages in the order of their UIDs. ``watchers`` are called after every change, in whoever's task made it."""

    name: str
    uid_validity: int
    clock: Callable[[], datetime] = field(repr=False)
    messages: dict[int, Message] = field(init=False, factory=dict, repr=False)
    next_uid: int = field(init=False, default=1)
    watchers: list[Callable[[], None]] = field(init=False, factory=list, repr=False)

    def append(self, body: bytes, flags: Iterable[str] = (), date: datetime | None = None) -> Message:
        """Add a message; without a date it came now."""
        message = Message(self.next_uid, body, frozenset(flags), date=date or self.clock())
        self.messages[message.uid] = message
        self.next_uid += 1
        self._tell()
        return message

    def flag(self, uid: int, flags: Iterable[str]) -> None:
        """Give a message these flags and no others."""
        self.messages[uid].flags = frozenset(flags)
        self._tell()

    def expunge(self) -> None:
        """Remove the messages that are flagged as deleted."""
        for uid in [uid for uid, message in self.messages.items() if "\\Deleted" in message.flags]:
            del self.messages[uid]
        self._tell()

    def _tell(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()


@define(eq=False)
class _Account:
    password: str = field(repr=False)
    mailboxes: dict[str, Mailbox]


class Mailstore:
    """Users with their passwords and mailboxes; several servers may share one, as with mail on shared storage.

    Every user begins with an empty ``INBOX``; without any there is ``user`` with the password ``secret``.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self._uid_validity = 0
        self._accounts = {
            user: _Account(password, {INBOX: self._new_mailbox(INBOX)})
            for user, password in (users or {"user": "secret"}).items()
        }

    def is_password(self, user: str, password: str) -> bool:
        """Does this user have this password?"""
        account = self._accounts.get(user)
        return account is not None and account.password == password

    def mailboxes(self, user: str) -> dict[str, Mailbox]:
        """Return the user's mailboxes by name. Raises KeyError for an unknown user."""
        return self._accounts[user].mailboxes

    def mailbox(self, user: str, name: str = INBOX) -> Mailbox:
        """Return a mailbox, made if it is not there. Raises KeyError for an unknown user."""
        mailboxes = self.mailboxes(user)
        if name not in mailboxes:
            mailboxes[name] = self._new_mailbox(name)
        return mailboxes[name]

    def _new_mailbox(self, name: str) -> Mailbox:
        self._uid_validity += 1
        return Mailbox(name, self._uid_validity, self._clock)
