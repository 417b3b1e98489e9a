"""An IMAP4rev1 server with its mail in memory, for tests and demonstrations."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from mailproxy.testing.imap.dialogue import MESSAGE_BYTES_MAX, ImapDialogue
from mailproxy.testing.imap.mailstore import Mailstore
from mailproxy.testing.server import LoopbackServer

if TYPE_CHECKING:
    import ssl

    from mailproxy.testing.connection import Connection


class ImapServer(LoopbackServer):
    """Serves a mail store over IMAP.

    Its name is in the greeting and in the answer to a login, so that a client sees which server was chosen. It is enough for
    imaplib, curl and a person with ``openssl s_client``. It has neither STARTTLS nor COPY, ENVELOPE and BODYSTRUCTURE.

    Attributes:
        name: The name of the server.
        store: Its mail.
    """

    def __init__(
        self,
        name: str = "imap",
        store: Mailstore | None = None,
        *,
        bind: str = "127.0.0.1:0",
        tls: ssl.SSLContext | None = None,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        """Prepare a server, which does not listen yet.

        Args:
            name: The name of the server.
            store: Its mail. None is a new store with the user ``user`` and the password ``secret``.
            bind: See ``LoopbackServer``.
            tls: See ``LoopbackServer``.
            message_bytes_max: The largest message that APPEND accepts.
        """
        super().__init__(bind, tls=tls)
        self.name = name
        self.store = store or Mailstore()
        self._message_bytes_max = message_bytes_max

    async def converse(self, connection: Connection) -> None:
        """Answer until LOGOUT or until the client closes. A client in IDLE gets changes when they happen."""
        notifier, changes = trio.open_memory_channel[None](1)
        dialogue = ImapDialogue(
            self.name, self.store, partial(_notify, notifier), message_bytes_max=self._message_bytes_max
        )
        try:
            async with trio.open_nursery() as nursery, notifier, changes:
                nursery.start_soon(_push, connection, dialogue, changes)
                await _answer(connection, dialogue)
                nursery.cancel_scope.cancel()
        finally:
            dialogue.end()


async def _answer(connection: Connection, dialogue: ImapDialogue) -> None:
    with suppress(trio.BrokenResourceError):
        await connection.send(dialogue.greeting())
        while not dialogue.is_over and (data := await connection.receive()):
            await connection.send(dialogue.receive(data))


async def _push(
    connection: Connection, dialogue: ImapDialogue, changes: trio.MemoryReceiveChannel[None]
) -> None:
    with suppress(trio.BrokenResourceError):
        async for _ in changes:
            if notice := dialogue.notice():
                await connection.send(notice)


def _notify(notifier: trio.MemorySendChannel[None]) -> None:
    with suppress(trio.WouldBlock):
        notifier.send_nowait(None)
