"""The state machine that the checks of all mail protocols share, as a table.

The server greets. The check asks for its capabilities, upgrades to TLS if it is to, asks again, and logs out.
A protocol adds its commands and the format of its answers.

The check also logs out after a refusal, and waits for the answer. So each check is one line in the server's
log, that of a client that logged out. It does not log out after the server's own BYE, nor from a server that
waits for a TLS handshake: they would not read it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from enum import Enum, auto
from typing import ClassVar

from attrs import frozen

from mailproxy.protocol.capabilities import UNLISTED, Capabilities
from mailproxy.protocol.checks.dialogue import CheckDialogue
from mailproxy.protocol.checks.result import CheckCode, excerpt
from mailproxy.protocol.lines import LineBuffer, LineFaultError


class State(Enum):
    """What the check waits for; the value is the text for it."""

    GREETING = "the greeting"
    CAPABILITIES = "the capabilities"
    STARTTLS = "the answer to STARTTLS"
    TLS = "TLS"  # the handshake, which the driver makes
    LOGOUT = "the answer to the logout"
    OVER = "nothing"


class Verdict(Enum):
    """What an answer means."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()  # the server does not know the command
    BYE = auto()  # the server closes the connection now


class Action(Enum):
    """What the check does after an answer."""

    ASK = auto()  # for the capabilities
    ASK_FALLBACK = auto()  # for the capabilities, with the protocol's older command
    GO_ON = auto()  # to STARTTLS or to the logout, with the capabilities as known
    UPGRADE = auto()  # to TLS
    REFUSED = auto()  # fail and log out
    SERVER_BYE = auto()  # fail without a logout
    END = auto()


@frozen(kw_only=True)
class Answer:
    """A complete answer of the server.

    Attributes:
        verdict: What it means.
        text: An ``excerpt`` of it.
        status: Its reply code, 0 in protocols without reply codes.
        capabilities: The list that it contains, if any.
    """

    verdict: Verdict
    text: str
    status: int = 0
    capabilities: Capabilities | None = None


Table = Mapping[tuple[State, Verdict], Action]

_BEFORE_LOGOUT = (State.GREETING, State.CAPABILITIES, State.STARTTLS)

TABLE: Table = {
    (State.GREETING, Verdict.YES): Action.ASK,
    (State.CAPABILITIES, Verdict.YES): Action.GO_ON,
    (State.STARTTLS, Verdict.YES): Action.UPGRADE,
    **{(state, Verdict.NO): Action.REFUSED for state in _BEFORE_LOGOUT},
    **{(state, Verdict.UNKNOWN): Action.REFUSED for state in _BEFORE_LOGOUT},
    **{(state, Verdict.BYE): Action.SERVER_BYE for state in _BEFORE_LOGOUT},
    # Any answer to the logout will do: what the check is about was decided before.
    **{(State.LOGOUT, verdict): Action.END for verdict in Verdict},
}


class NotTheProtocolError(LineFaultError):
    """A line that does not exist in the protocol, or not in this state."""


class MailCheck(CheckDialogue):
    """The check of a mail protocol. Subclasses define commands, limits and ``_read``.

    Args:
        starttls: Whether to upgrade the connection to TLS.

    Attributes:
        state: What the check waits for.
        greeting: The server's greeting, as an ``excerpt``.
        capabilities: The last list. Those from before STARTTLS are dropped.
        NAME: The protocol's name for messages.
        LINE_MAX: Bytes of a line of the server, with CRLF.
        ASK: The command for the capabilities, empty if the server lists them unasked.
        STARTTLS: The command for the upgrade, and the capability that announces it.
        LOGOUT: The command that logs out.
        TABLE: The action after each answer.
    """

    NAME: ClassVar[str]
    LINE_MAX: ClassVar[int]
    ASK: ClassVar[bytes]
    STARTTLS: ClassVar[bytes]
    LOGOUT: ClassVar[bytes]
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
        # The answer to the logout does not change the result.
        return self.state in (State.LOGOUT, State.OVER)

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
        """Return a logout command that is valid in any state. This dialogue does not read the answer to it."""
        return self.LOGOUT + b"\r\n"

    @abstractmethod
    def _read(self, line: bytes) -> Answer | None:
        """Return the answer that ends with this line, or None if the answer continues.

        Raises:
            NotTheProtocolError: The line is none of the protocol, or not in this state.
        """

    def _literal_bytes(self, line: bytes) -> int | None:  # noqa: ARG002 - most protocols have no literals
        return None

    def _command(self, words: bytes) -> bytes:
        return words + b"\r\n"

    def _fallback_command(self) -> None:
        """Queue the older command for the capabilities; for protocols whose table has ASK_FALLBACK."""
        raise NotImplementedError

    def _receive_answer(self) -> None:
        try:
            while not self.is_over and not self.wants_tls and (line := self._lines.next_line()) is not None:
                if answer := self._read(line):
                    self._lines.begin_answer()
                    self._apply(answer)
        except LineFaultError as fault:
            # Where the next answer begins is unknown now, so the check does not wait for it.
            self._fail(CheckCode.L7RSP, f"{self.state.value}: {fault}")
            if self.state is not State.LOGOUT:
                self._queue(self.LOGOUT)
            self._change_state(State.OVER)

    def _receive_end(self) -> None:
        # The server need not answer the logout: the result is known. One that has refused, or is being
        # stopped, may not.
        if self.state is not State.LOGOUT:
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
        # Capabilities from before TLS are dropped (RFC 3501 section 6.2.1, 3207 section 4.2, 2595 section 4,
        # 5804 section 2.2).
        self.capabilities = UNLISTED
        self._change_state(State.CAPABILITIES)
        self._queue(words)

    def _start_logout(self) -> None:
        self._change_state(State.LOGOUT)
        self._queue(self.LOGOUT)

    def _refuse_plain_bytes(self) -> None:
        """Fail, because bytes sent before TLS would be taken for bytes sent over TLS (as in CVE-2011-0411)."""
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
        data, self._outgoing = self._outgoing, b""
        return data

    def _invalid(self, line: bytes) -> NotTheProtocolError:
        """Return the error for a line that the protocol does not have, or not in this state."""
        return NotTheProtocolError(f"this is not {self.NAME}: {excerpt(line)}")
