"""A small in-memory IMAP4rev1 server: a pure dialogue, and the part that serves it."""

from mailproxy.testing.imap.dialogue import ImapDialogue
from mailproxy.testing.imap.mailstore import Mailbox, Mailstore, Message
from mailproxy.testing.imap.server import ImapServer

__all__ = ["ImapDialogue", "ImapServer", "Mailbox", "Mailstore", "Message"]
