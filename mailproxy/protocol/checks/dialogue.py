"""The interface of all check dialogues.

A dialogue is one connection of a check: bytes in, bytes to send out, and a result. It raises nothing for what
a server sends. Its driver has the timeout, the connection and TLS::

    async def talk(stream, dialogue):  # -> CheckResult
        await stream.send_all(dialogue.start())             # empty if the server speaks first
        while not dialogue.is_over:                         # from is_decided on, only the logout is left
            if dialogue.wants_tls:
                stream = await handshake(stream)            # its failure is L6RSP, its timeout L6TOUT
                data = dialogue.tls_started()
            else:
                data = dialogue.receive(await stream.receive_some())  # b"" when the server has closed
            await stream.send_all(data)
        await close_gracefully(stream)
        return dialogue.result

Three rules for the driver:

- A dialogue notes a ``failure`` first and logs out then. From then on the result is that failure, whether the
  connection breaks or the timeout expires. Without a failure, a reset is L4CON and a timeout is
  ``CheckResult(CheckCode.L7TOUT, dialogue.expecting)``.
- To close gracefully is to end the own side (close_notify, FIN), to read until the server closes or for 1 s
  at most, and then to close. Closing with unread bytes would send a reset, which is a line in the server's
  log.
- Each connection needs a new dialogue.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from mailproxy.protocol.checks.result import CheckCode, CheckResult, excerpt


class CheckDialogue(ABC):
    """One connection of a health check."""

    is_over: bool = False
    """Nothing is left to receive. The bytes returned last must still be sent."""

    wants_tls: bool = False
    """The server waits for the TLS handshake: make it, then call ``tls_started``. Receive nothing in between."""

    failure: CheckResult | None = None
    """The first failure, also before the dialogue is over."""

    @property
    def is_decided(self) -> bool:
        """Whether the result is known. What follows is the logout, which cannot change it."""
        return self.is_over

    @property
    @abstractmethod
    def expecting(self) -> str:
        """What the server has not sent yet: the ``info`` of a timeout."""

    @property
    def result(self) -> CheckResult:
        """The result, once it is decided."""
        return self.failure or CheckResult(CheckCode.L7OK)

    def start(self) -> bytes:
        """Return the bytes to send first. Call it once, before the other methods."""
        return b""

    @abstractmethod
    def receive(self, data: bytes) -> bytes:
        """Take received bytes, empty if the server has closed; return the bytes to send.

        Bytes are ignored once the dialogue is over.
        """

    def tls_started(self) -> bytes:
        """Continue over TLS; return the bytes to send.

        Raises:
            RuntimeError: ``wants_tls`` is false.
        """
        raise RuntimeError("TLS was not asked for")

    def _fail(self, code: CheckCode, info: str, status: int = 0) -> None:
        """Note a failure, unless there is one: later ones follow from the first."""
        self.failure = self.failure or CheckResult(code, excerpt(info), status)
