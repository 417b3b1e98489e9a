"""A small IMAP4rev1 server with its mail in memory.

Modules, in reading order:
    mailstore: users, mailboxes, messages.
    server: ``ImapServer``, which serves a mail store to connections.
    dialogue: one client's dialogue, bytes in and bytes out.
    session: what the server knows of one client.
    commands: what each command does.
    fetch: the items of FETCH.
    syntax: reading commands and writing strings.
"""

from mailproxy.testing.imap.dialogue import ImapDialogue
from mailproxy.testing.imap.mailstore import Mailbox, Mailstore, Message
from mailproxy.testing.imap.server import ImapServer

__all__ = ["ImapDialogue", "ImapServer", "Mailbox", "Mailstore", "Message"]
