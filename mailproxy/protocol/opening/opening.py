"""The dialogue with a server before a session is joined to it, as a table that all protocols share.

The server greets. The proxy upgrades the connection with STARTTLS, sends the client's identity, and repeats the
client's own greeting, as far as each is wanted. From then on the session's bytes are relayed. What the server has
sent so far stays here.

Nothing that was received in clear is believed once TLS begins: not the greeting, not the capabilities. Bytes
behind the answer to STARTTLS would be taken for bytes of the TLS session (CVE-2011-0411 and relatives), so they
end the opening. So do a PREAUTH greeting, which would skip STARTTLS, and bytes behind any other answer.

The driver::

    await send(opening.start())
    while not opening.is_over:
        if opening.wants_tls:
            await handshake()
            data = opening.tls_started()
        else:
            data = opening.receive(await receive_some())    # b"" when the server has closed
        await send(data)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from attrs import field, frozen

from mailproxy.protocol.lines import LineBuffer, LineFaultError, excerpt
from mailproxy.protocol.opening.identity import Identity


class State(Enum):
    """What the opening waits for; the value is the text for it."""

    GREETING = "the greeting"
    CAPABILITIES = "the capabilities"
    STARTTLS = "the answer to STARTTLS"
    TLS = "TLS"
    NEW_CAPABILITIES = "the capabilities over TLS"
    IDENTITY = "the answer to the client's identity"
    HELLO = "the answer to the client's greeting"
    READY = "nothing"
    FAILED = "nothing any more"


class Verdict(Enum):
    """What an answer means."""

    YES = "yes"
    NO = "no"
    BYE = "bye"


@frozen
class Answer:
    """A complete answer of the server.

    Attributes:
        verdict: What it means.
        text: Its last line.
        capabilities: What it lists, names with arguments, in upper case; empty if it is no list.
    """

    verdict: Verdict
    text: bytes
    capabilities: Mapping[str, tuple[str, ...]] = field(factory=dict)


class Step(Enum):
    """What the opening does after an answer."""

    AFTER_GREETING = "after the greeting"
    CHECK_STARTTLS = "check that STARTTLS is offered"
    UPGRADE = "upgrade"
    IDENTIFY = "send the identity"
    IDENTIFIED = "after the identity"
    UNIDENTIFIED = "go on without the identity"
    DONE = "done"
    FAIL = "fail"


TABLE: Mapping[tuple[State, Verdict], Step] = {
    (State.GREETING, Verdict.YES): Step.AFTER_GREETING,
    (State.CAPABILITIES, Verdict.YES): Step.CHECK_STARTTLS,
    (State.STARTTLS, Verdict.YES): Step.UPGRADE,
    (State.NEW_CAPABILITIES, Verdict.YES): Step.IDENTIFY,
    (State.IDENTITY, Verdict.YES): Step.IDENTIFIED,
    (State.HELLO, Verdict.YES): Step.DONE,
    (State.GREETING, Verdict.NO): Step.FAIL,
    (State.CAPABILITIES, Verdict.NO): Step.FAIL,
    (State.STARTTLS, Verdict.NO): Step.FAIL,
    (State.NEW_CAPABILITIES, Verdict.NO): Step.UNIDENTIFIED,
    # A server that does not trust the proxy serves the session all the same.
    (State.IDENTITY, Verdict.NO): Step.UNIDENTIFIED,
    (State.HELLO, Verdict.NO): Step.FAIL,
    **{
        (state, Verdict.BYE): Step.FAIL
        for state in State
        if state not in (State.TLS, State.READY, State.FAILED)
    },
}


class OpeningFaultError(LineFaultError):
    """A line that the protocol does not have, or not in this state."""


class Opening(ABC):
    """The client's role towards one server. Subclasses define commands and answers.

    Args:
        starttls: Whether to upgrade the connection.
        identity: The client's identity for the server, None for none.
        hello: The client's own greeting, to be repeated; empty if there was none.
        name: The proxy's own name, for protocols in which a client gives it.

    Attributes:
        state: What it waits for.
        failure: Why it failed, empty if it has not.
        is_identified: Whether the server has taken the identity. None if none was wanted.
        greeting: The server's last greeting, as a client may get it that has had none. Empty if the greeting was
            received in clear on a connection that was upgraded.
        capabilities: What the server has listed on the connection as it is now.
        LINE_MAX: Bytes of a line of the server, with CRLF.
        STARTTLS: The command for the upgrade, and the capability that announces it.
    """

    LINE_MAX: ClassVar[int]
    STARTTLS: ClassVar[bytes] = b"STARTTLS"

    def __init__(
        self,
        *,
        starttls: bool = False,
        identity: Identity | None = None,
        hello: bytes = b"",
        name: str = "localhost",
    ) -> None:
        self.state = State.GREETING
        self.failure = ""
        self.is_identified = None if identity is None else False
        self.greeting = b""
        self.capabilities: Mapping[str, tuple[str, ...]] = {}
        self._starttls = starttls
        self._identity = identity
        self._hello = hello
        self._name = name.encode("ascii")
        self._lines = LineBuffer(self.LINE_MAX, self._literal_bytes)
        self._raw = b""  # the lines of the current answer
        self._outgoing = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name} {self.failure}>"

    @property
    def is_over(self) -> bool:
        """Whether the session may be joined, or the opening has failed."""
        return self.state in (State.READY, State.FAILED)

    @property
    def starttls_wanted(self) -> bool:
        """Whether the connection is still to be upgraded."""
        return self._starttls

    @property
    def wants_tls(self) -> bool:
        """Whether the server waits for the TLS handshake."""
        return self.state is State.TLS

    def start(self) -> bytes:
        """Return the bytes to send first: none, since all servers speak first."""
        return b""

    def receive(self, data: bytes) -> bytes:
        """Take received bytes, empty if the server has closed; return the bytes to send.

        Bytes are ignored once the opening is over.
        """
        if self.is_over:
            return b""
        if self.wants_tls:
            self._fail("bytes in clear text behind the answer to STARTTLS")
        elif not data:
            self._fail(f"closed the connection instead of {self.state.value}")
        else:
            self._lines.feed(data)
            self._read_answers()
        return self._take()

    def tls_started(self) -> bytes:
        """Continue over TLS; return the bytes to send."""
        assert self.wants_tls  # noqa: S101 - the driver asks for it
        self.capabilities, self.greeting, self._starttls = {}, b"", False
        self._go_on_over_tls()
        return self._take()

    # The machine

    def _read_answers(self) -> None:
        try:
            while not self.is_over and not self.wants_tls and (line := self._lines.next_line()) is not None:
                self._raw += line + b"\r\n"
                if (answer := self._read(line)) is not None:
                    self._lines.begin_answer()
                    self._apply(answer)
                    self._raw = b""
        except LineFaultError as fault:
            self._fail(f"{self.state.value}: {fault}")

    def _apply(self, answer: Answer) -> None:
        if len(self._lines):
            # Whatever the server sends unasked would be taken for the answer to the next command.
            self._fail(f"bytes behind {self.state.value}")
            return
        if answer.capabilities:
            self.capabilities = answer.capabilities
        match TABLE[self.state, answer.verdict]:
            case Step.AFTER_GREETING:
                self.greeting = self._raw
                self._after_greeting()
            case Step.CHECK_STARTTLS:
                self._send_starttls()
            case Step.UPGRADE:
                self.state = State.TLS
            case Step.IDENTIFY:
                self._identify()
            case Step.IDENTIFIED:
                self.is_identified = True
                self._after_identity(self._raw)
            case Step.UNIDENTIFIED:
                self._after_identity(b"")
            case Step.DONE:
                self.state = State.READY
            case Step.FAIL:
                self._fail(f"{self.state.value} is: {excerpt(answer.text)}")

    def _after_greeting(self) -> None:
        if self._starttls:
            self._ask()
        elif self._identity is not None:
            self._prepare_identity()
        else:
            self._say_hello()

    def _send_starttls(self) -> None:
        if self.STARTTLS.decode("ascii") in self.capabilities:
            self._send(self.STARTTLS, State.STARTTLS)
        else:
            self._fail(f"{self.STARTTLS.decode('ascii')} is not offered")

    def _go_on_over_tls(self) -> None:
        if self._identity is not None:
            self._prepare_identity()
        else:
            self._say_hello()

    def _identify(self) -> None:
        """Send the identity if the server takes it, or go on without it."""
        assert self._identity is not None  # noqa: S101 - nothing else leads here
        command = self._identity_command(self._identity)
        if command:
            self._send(command, State.IDENTITY)
        else:
            self._after_identity(b"")

    def _after_identity(self, raw: bytes) -> None:  # noqa: ARG002 - one protocol greets again
        self._say_hello()

    def _say_hello(self) -> None:
        if self._hello:
            self._send(self._hello, State.HELLO)
        else:
            self.state = State.READY

    def _send(self, command: bytes, state: State) -> None:
        self.state = state
        self._outgoing += self._command(command)

    def _fail(self, failure: str) -> None:
        self.state, self.failure = State.FAILED, failure

    def _take(self) -> bytes:
        data, self._outgoing = self._outgoing, b""
        return data

    # What protocols add

    @abstractmethod
    def _read(self, line: bytes) -> Answer | None:
        """Return the answer that ends with this line, or None if the answer continues.

        Raises:
            OpeningFaultError: The line is none of the protocol, or not in this state.
        """

    @abstractmethod
    def _ask(self) -> None:
        """Ask for the capabilities before STARTTLS, or go on with those of the greeting."""

    @abstractmethod
    def _prepare_identity(self) -> None:
        """Ask what is needed to know whether the server takes an identity, or send it."""

    @abstractmethod
    def _identity_command(self, identity: Identity) -> bytes:
        """Return the command with the identity, empty if the server does not take it."""

    def _literal_bytes(self, line: bytes) -> int | None:  # noqa: ARG002 - most protocols have no literals
        return None

    def _command(self, words: bytes) -> bytes:
        return words + b"\r\n"


def invalid(line: bytes) -> OpeningFaultError:
    """Return the error for a line that the protocol does not have, or not in this state."""
    return OpeningFaultError(f"unexpected line: {excerpt(line)}")
