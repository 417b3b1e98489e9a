"""The gate: commands of a client that has not logged in, one at a time, without those of a proxy.

A server that takes XCLIENT, XFORWARD or Dovecot's fields of ID from the proxy's address would take them from a client
as well, since it sees the proxy's address only. The gate lets no such command through until a login has succeeded.
A command that only a proxy may send is replaced by one that no server knows, so the server refuses it itself, in the
order of its other answers.

One command is on its way at a time: the next one waits for the answer. So the gate always knows whether the client's
next bytes are a command, a literal, an answer to a challenge or mail. A client that pipelines is served, with a
round trip for each command.

The driver::

    send_to_server(gate.from_client(data))
    send_to_client(data), after gate.from_server(data), and then send_to_server(gate.released())
    until gate.is_open: everything that is left is in gate.released()
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import ClassVar

from mailproxy.protocol.lines import LineBuffer, LineFaultError, excerpt

# Bytes of a client's line: as the greeter's, and as much as a SASL response may have (RFC 4954 section 4: 12288).
LINE_MAX = 12288
REPLACEMENT = b"X-REFUSED"
"""A command that no server knows, in place of one that only a proxy may send."""


class State(Enum):
    """What the gate waits for."""

    COMMAND = auto()  # of the client
    ANSWER = auto()  # of the server
    LINE = auto()  # the client's answer to a challenge
    BODY = auto()  # mail, or a literal: bytes that are no command
    OPEN = auto()  # a login has succeeded
    CLOSED = auto()  # ``failure`` says why


class Fault(Enum):
    """Whose fault it is that a session cannot go on."""

    CLIENT = auto()
    SERVER = auto()
    INJECTION = auto()  # the client's: bytes in clear text behind STARTTLS


class Gate(ABC):
    """The commands of one client before its login. Subclasses know commands and answers.

    Args:
        ttl: The hop count that a client's own may lower; None where the server gets none.
        greeted: Whether the server's greeting is behind. Otherwise it passes through the gate, as the first answer.
        passes_starttls: Whether client and server may start TLS with each other, which the gate could not read.

    Attributes:
        state: What it waits for.
        failure: Why the session cannot go on, empty if it can.
        fault: Whose fault that is.
        ANSWER_LINE_MAX: Bytes of a line of the server.
        GREETING: How the first line of the server's greeting begins.
    """

    ANSWER_LINE_MAX: ClassVar[int] = 8192
    GREETING: ClassVar[re.Pattern[bytes]]

    def __init__(
        self, *, ttl: int | None = None, greeted: bool = True, passes_starttls: bool = False
    ) -> None:
        self.state: State = State.COMMAND if greeted else State.ANSWER
        self.failure = ""
        self.fault = Fault.CLIENT
        self._passes_starttls = passes_starttls
        self._starts_tls = False
        self._awaits_greeting = not greeted
        self._is_first_line_read = greeted
        self._ttl = ttl
        self._data = bytearray()
        self._answers: LineBuffer | None = None  # made for an answer that is not one line in one piece
        self._outgoing = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name} {self.failure}>"

    @property
    def is_open(self) -> bool:
        """Whether a login has succeeded."""
        return self.state is State.OPEN

    @property
    def has_room(self) -> bool:
        """Whether more of the client's bytes may be received."""
        return len(self._data) <= LINE_MAX

    @property
    def held_bytes(self) -> int:
        """How many of the client's bytes it has not released."""
        return len(self._data)

    @property
    def holds(self) -> bool:
        """Whether a whole line of the client waits for an answer of the server."""
        return self.state is State.ANSWER and b"\n" in self._data

    def discard(self) -> None:
        """Forget the client's bytes that were not released."""
        self._data.clear()

    def from_client(self, data: bytes) -> bytes:
        """Take bytes of the client; return what goes to the server now."""
        # One command in one piece, as most clients send it. Each session has two or three.
        is_command = self.state is State.COMMAND and not self._data and data.find(b"\n") == len(data) - 1
        if is_command and 0 < len(data) <= LINE_MAX:
            self._on_command(data)
            if self.state is State.ANSWER:
                released, self._outgoing = self._outgoing, b""
                return released
            return self.released()
        self._data += data
        return self.released()

    def from_server(self, data: bytes) -> bool:
        """Take note of bytes of the server, all of which go to the client.

        Returns:
            Whether the driver has to look at the gate: it holds bytes, is open, or has failed.
        """
        if self._reads_answers:
            self._read_answers(data)
        return bool(self._data) or not self._reads_answers

    @property
    def _reads_answers(self) -> bool:
        return self.state is not State.OPEN and self.state is not State.CLOSED

    def _read_answers(self, data: bytes) -> None:
        answers = self._answers
        if answers is None:
            if (
                data.find(b"\n") == len(data) - 1
                and data.endswith(b"\r\n")
                and len(data) <= self.ANSWER_LINE_MAX
                and self._literal_bytes(line := data[:-2]) is None
            ):
                self._on_line(line)
                return
            answers = self._answers = LineBuffer(self.ANSWER_LINE_MAX, self._literal_bytes)
        answers.feed(data)
        try:
            while self._reads_answers and (answer := answers.next_line()) is not None:
                answers.begin_answer()
                self._on_line(answer)
            if not answers:
                self._answers = None
        except LineFaultError as fault:
            self._close(f"an answer of the server: {fault}", Fault.SERVER)

    def _on_line(self, line: bytes) -> None:
        if not self._awaits_greeting:
            self._on_answer(line)
        elif not self._is_first_line_read and not self.GREETING.match(line):
            self._close(f"the server's greeting is not one of this protocol: {excerpt(line)}", Fault.SERVER)
        elif self._ends_greeting(line):
            self._awaits_greeting, self.state = False, State.COMMAND
        self._is_first_line_read = True

    def released(self) -> bytes:
        """Return the bytes that go to the server now; once the gate is open, all that are left."""
        if self.state is State.OPEN:
            self._outgoing += bytes(self._data)
            self._data.clear()
        while self.state in (State.COMMAND, State.LINE, State.BODY) and self._data and self._advance():
            pass
        data, self._outgoing = self._outgoing, b""
        return data

    def _advance(self) -> bool:
        """Move on by a line, or by a part of a body; return False if bytes are missing."""
        if self.state is State.BODY:
            return self._on_body()
        end = self._data.find(b"\n") + 1
        if not end:
            if len(self._data) > LINE_MAX:
                self._close("a line of the client is too long")
            return False
        line = bytes(self._data[:end])
        del self._data[:end]
        if self.state is State.LINE:
            self.state = State.ANSWER
            self._outgoing += line
        else:
            self._on_command(line)
        return True

    def _take_body(self, count: int) -> int:
        """Pass on at most this number of bytes; return how many there were."""
        taken = bytes(self._data[:count])
        del self._data[:count]
        self._outgoing += taken
        return len(taken)

    def _pass(self, line: bytes) -> None:
        """Send a command, and wait for the answer."""
        self._outgoing += line
        self.state = State.ANSWER

    def _start_tls(self) -> None:
        """Go on after the server's consent to STARTTLS. What client and server say next cannot be read."""
        if self._data:
            self._close("bytes in clear text behind STARTTLS", Fault.INJECTION)
        else:
            self.state = State.OPEN

    def _close(self, failure: str, fault: Fault = Fault.CLIENT) -> None:
        self.state, self.failure, self.fault = State.CLOSED, failure, fault

    def _literal_bytes(self, line: bytes) -> int | None:  # noqa: ARG002 - most protocols have no literals
        return None

    @abstractmethod
    def _on_command(self, line: bytes) -> None:
        """Pass on a command, with its line end, or its replacement."""

    def _ends_greeting(self, line: bytes) -> bool:  # noqa: ARG002 - most greetings have one line
        """Whether the server's greeting ends with this line."""
        return True

    @abstractmethod
    def _on_answer(self, line: bytes) -> None:
        """React to a line of the server, without its CRLF."""

    def _on_body(self) -> bool:
        """Pass on a part of a body; return False if bytes are missing."""
        raise NotImplementedError
