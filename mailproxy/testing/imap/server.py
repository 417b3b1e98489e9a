"""An in-memory IMAP4rev1 server for tests and first looks."""

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
    """Serves a mail store; its greeting and the answer to a login carry ``name``, to see which server was chosen.

    Without a store there is one with the user ``user`` and the password ``secret``. Good enough for imaplib, curl
    and people; it speaks neither STARTTLS nor COPY, ENVELOPE and BODYSTRUCTURE.
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
        super().__init__(bind, tls=tls)
        self.name = name
        self.store = store or Mailstore()
        self._message_bytes_max = message_bytes_max

    async def converse(self, connection: Connection) -> None:
        """Greet and answer until LOGOUT or the client's end; an idle client hears of changes when they happen."""
        waker, changes = trio.open_memory_channel[None](1)
        dialogue = ImapDialogue(
            self.name, self.store, partial(_wake, waker), message_bytes_max=self._message_bytes_max
        )
        try:
            async with trio.open_nursery() as nursery, waker, changes:
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


def _wake(waker: trio.MemorySendChannel[None]) -> None:
    with suppress(trio.WouldBlock):
        waker.send_nowait(None)
