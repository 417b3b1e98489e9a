"""From greeting to goodbye: the one course of every mail protocol's check, as a table.

The server greets, is asked what it can do, is upgraded to TLS if that is wanted and asked again, and is told goodbye.
A protocol adds its words and the form of its answers. Goodbye is also said after a refusal, and its answer waited for:
so a check is one line in a server's log, the one of a client that left politely. It is not said where nobody would hear
it: after the server's own goodbye, and to one that waits for a TLS handshake.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from enum import Enum, auto
from typing import ClassVar

from attrs import frozen

from mailproxy.protocol.capabilities import UNLISTED, Capabilities
from mailproxy.protocol.checks.dialogue import CheckDialogue
from mailproxy.protocol.checks.result import CheckCode, printable
from mailproxy.protocol.lines import LineBuffer, LineFaultError


class State(Enum):
    """What is waited for; the value are the words for it."""

    GREETING = "the greeting"
    CAPABILITIES = "the capabilities"
    STARTTLS = "the answer to STARTTLS"
    TLS = "TLS"  # which the driver makes
    GOODBYE = "the answer to the goodbye"
    OVER = "nothing"


class Verdict(Enum):
    """What an answer comes to."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()  # no, because it does not know the command
    BYE = auto()  # it closes the connection now


class Action(Enum):
    """What is done about it."""

    ASK = auto()
    ASK_FALLBACK = auto()  # in an older way
    GO_ON = auto()  # with what is known of its capabilities
    UPGRADE = auto()
    REFUSED = auto()
    SERVER_BYE = auto()
    END = auto()


@frozen(kw_only=True)
class Answer:
    """``said``: in the server's own words; ``capabilities`` are None where there is no list of them."""

    verdict: Verdict
    text: str
    status: int = 0
    capabilities: Capabilities | None = None


Table = Mapping[tuple[State, Verdict], Action]

_WAITING = (State.GREETING, State.CAPABILITIES, State.STARTTLS)

TABLE: Table = {
    (State.GREETING, Verdict.YES): Action.ASK,
    (State.CAPABILITIES, Verdict.YES): Action.GO_ON,
    (State.STARTTLS, Verdict.YES): Action.UPGRADE,
    **{(state, Verdict.NO): Action.REFUSED for state in _WAITING},
    **{(state, Verdict.UNKNOWN): Action.REFUSED for state in _WAITING},
    **{(state, Verdict.BYE): Action.SERVER_BYE for state in _WAITING},
    # Whatever it says to a goodbye: it was asked before whether it is well.
    **{(State.GOODBYE, verdict): Action.END for verdict in Verdict},
}


class NotTheProtocolError(LineFaultError):
    """A line that the protocol does not have, or not here."""


class MailCheck(CheckDialogue):
    """``starttls``: upgrade on the way. ``greeting`` and ``capabilities`` tell what the server said of itself, the latter of the
    connection as it is now: those from before STARTTLS are forgotten.
    """

    NAME: ClassVar[str]
    LINE_MAX: ClassVar[int]
    ASK: ClassVar[bytes]
    STARTTLS: ClassVar[bytes]
    GOODBYE: ClassVar[bytes]
    TABLE: ClassVar[Table] = TABLE

    def __init__(self, *, starttls: bool = False) -> None:
        self.state = State.GREETING
        self.greeting = ""
        self.capabilities = UNLISTED
        self._starttls = starttls
        self._lines = LineBuffer(self.LINE_MAX, self._literal_bytes)
        self._outgoing = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name} {self.failure or ''}>"

    @property
    def is_decided(self) -> bool:
        # a server that is well, or that is not, is so before it has answered the goodbye
        return self.state in (State.GOODBYE, State.OVER)

    @property
    def expecting(self) -> str:
        return self.state.value

    def receive(self, data: bytes) -> bytes:
        if self.is_over:
            return b""
        if not data:
            self._receive_end()
        elif self.wants_tls:
            self._refuse_plain_bytes()
        else:
            self._lines.feed(data)
            self._receive_answer()
        return self._take_outgoing()

    def tls_started(self) -> bytes:
        if not self.wants_tls:
            return super().tls_started()
        self._starttls = False
        self._ask(self.ASK)
        return self._take_outgoing()

    def logout(self) -> bytes:
        """What is said by somebody who leaves now, whatever was said before; its answer is not this dialogue's any more."""
        return self.GOODBYE + b"\r\n"

    @abstractmethod
    def _read(self, line: bytes) -> Answer | None:
        """The answer that ends with this line, None if it goes on. Raises NotTheProtocolError."""

    def _literal_bytes(self, line: bytes) -> int | None:  # noqa: ARG002 - most protocols have none
        return None

    def _command(self, words: bytes) -> bytes:
        return words + b"\r\n"

    def _fallback_command(self) -> None:
        """Ask for what the server did not know in an older way; for protocols whose table has that move."""
        raise NotImplementedError

    def _receive_answer(self) -> None:
        try:
            while not self.is_over and not self.wants_tls and (line := self._lines.next_line()) is not None:
                if answer := self._read(line):
                    self._lines.begin_answer()
                    self._apply(answer)
        except LineFaultError as fault:
            # In which answer it stands now cannot be told any more, so none is waited for.
            self._fail(CheckCode.L7RSP, f"{self.state.value}: {fault}")
            if self.state is not State.GOODBYE:
                self._queue(self.GOODBYE)
            self._change_state(State.OVER)

    def _receive_end(self) -> None:
        # A goodbye may go unanswered: the server was asked before whether it is well, and one that has refused, or is
        # just being stopped, need not wait for it.
        if self.state is not State.GOODBYE:
            self._fail(CheckCode.L7RSP, f"the connection was closed instead of {self.state.value}")
        self._change_state(State.OVER)

    def _apply(self, answer: Answer) -> None:
        if self.state is State.GREETING:
            self.greeting = answer.text
        if answer.capabilities is not None:
            self.capabilities = answer.capabilities
        match self.TABLE[self.state, answer.verdict]:
            case Action.ASK:
                self._ask(self.ASK)
            case Action.ASK_FALLBACK:
                self._fallback_command()
            case Action.GO_ON:
                self._go_on()
            case Action.UPGRADE:
                self._change_state(State.TLS)
                if len(self._lines):
                    self._refuse_plain_bytes()
            case Action.REFUSED:
                self._fail(CheckCode.L7STS, answer.text, answer.status)
                self._start_logout()
            case Action.SERVER_BYE:
                self._fail(CheckCode.L7STS, answer.text, answer.status)
                self._change_state(State.OVER)
            case Action.END:
                self._change_state(State.OVER)

    def _go_on(self) -> None:
        if not self._starttls:
            self._start_logout()
        elif self.STARTTLS.decode("ascii") in self.capabilities:
            self._change_state(State.STARTTLS)
            self._queue(self.STARTTLS)
        else:
            self._fail(CheckCode.L7RSP, f"{self.STARTTLS.decode('ascii')} is not offered")
            self._start_logout()

    def _ask(self, words: bytes) -> None:
        # those of before TLS are forgotten (RFC 3501 section 6.2.1, 3207 section 4.2, 2595 section 4, 5804 section 2.2)
        self.capabilities = UNLISTED
        self._change_state(State.CAPABILITIES)
        self._queue(words)

    def _start_logout(self) -> None:
        self._change_state(State.GOODBYE)
        self._queue(self.GOODBYE)

    def _refuse_plain_bytes(self) -> None:
        """They would be taken for ones that came over TLS (as in CVE-2011-0411)."""
        self._fail(CheckCode.L7RSP, f"plain bytes behind the answer to {self.STARTTLS.decode('ascii')}")
        self._change_state(State.OVER)

    def _change_state(self, state: State) -> None:
        self.state = state
        self.is_over = state is State.OVER
        self.wants_tls = state is State.TLS

    def _queue(self, words: bytes) -> None:
        if words:
            self._outgoing += self._command(words)

    def _take_outgoing(self) -> bytes:
        said, self._outgoing = self._outgoing, b""
        return said

    def _no(self, line: bytes) -> NotTheProtocolError:
        """What to raise of a line that does not belong here."""
        return NotTheProtocolError(f"this is not {self.NAME}: {printable(line)}")
