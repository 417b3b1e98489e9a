"""What all dialogues of health checks have in common, which is all that whoever drives them needs to know.

A dialogue is one connection's worth of a check: bytes in, bytes out, and a result. It never raises for what a server
sends. Driven like this, with the time limit, the connection and TLS in the driver's hands::

    async def talk(stream, dialogue):  # -> CheckResult
        await stream.send_all(dialogue.hello())             # nothing, for servers that speak first
        while not dialogue.is_over:                         # from is_decided on, for politeness alone
            if dialogue.wants_tls:
                stream = await handshake(stream)            # its failure is L6RSP, its time limit L6TOUT
                said = dialogue.tls_started()
            else:
                said = dialogue.receive(await stream.receive_some())  # b"" when the server has closed
            await stream.send_all(said)
        await close_in_order(stream)
        return dialogue.result

Three rules for the driver:

- A dialogue that dislikes something notes its ``failure`` first and still says goodbye. From then on neither a broken
  connection nor the time limit is news: the result is that failure. Without one, the time limit makes
  ``CheckResult(CheckCode.L7TOUT, dialogue.awaited)``, and a reset L4CON.
- Closing in order is to end the own side (close_notify, FIN), to read to the end or for a second at most, and to close:
  whoever closes over unread bytes sends a reset, and that is a line in the server's log.
- One dialogue, one connection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from mailproxy.protocol.checks.result import CheckCode, CheckResult, printable


class CheckDialogue(ABC):
    """One connection of a health check."""

    is_over: bool = False
    """Nothing is left to hear; what was returned last must still be sent."""

    wants_tls: bool = False
    """The server waits for the handshake: make it, then call ``tls_started``, and receive nothing in between."""

    failure: CheckResult | None = None
    """The first thing that was not as it should be; also before it is over."""

    @property
    def is_decided(self) -> bool:
        """Is the result known? What follows is the goodbye, and nothing that befalls it matters any more."""
        return self.is_over

    @property
    @abstractmethod
    def expecting(self) -> str:
        """What the server owes: the information of a time-out."""

    @property
    def result(self) -> CheckResult:
        """How it went, once it is decided."""
        return self.failure or CheckResult(CheckCode.L7OK)

    def start(self) -> bytes:
        """Return what is sent before anything is received. To be called once, first."""
        return b""

    @abstractmethod
    def receive(self, data: bytes) -> bytes:
        """Take what came, ``b""`` for the end of the connection; return what to send. When it is over, nothing matters."""

    def tls_started(self) -> bytes:
        """Go on over TLS; return what to send. Raises RuntimeError if TLS was not wanted."""
        raise RuntimeError("TLS was not asked for")

    def _fail(self, code: CheckCode, info: str, status: int = 0) -> None:
        """The first failure is the reason; what follows from it is not."""
        self.failure = self.failure or CheckResult(code, printable(info), status)
