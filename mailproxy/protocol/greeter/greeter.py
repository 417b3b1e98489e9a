"""The state machine that the greeters of all protocols share, as a table.

The proxy greets, answers what a client may ask in clear text, and upgrades the connection. A protocol adds its
verbs and the format of its answers. Nothing that logs in is answered. Where STARTTLS is not required, a command
that the greeter does not answer ends its part: the session goes on to a server, in clear, and the command with
it, unread.

The driver reads and writes::

    await send(greeter.greet())
    while True:
        while answer := greeter.next_answer():      # one command at a time, so that answers stay small
            await send(answer)
        if greeter.outcome is not None:
            break
        greeter.receive(await receive_some())

Injection (CVE-2011-0411 and relatives). Bytes that are received with or behind STARTTLS would be taken for bytes
of the TLS session. The greeter then answers nothing more, and the outcome is INJECTION. The driver must look
once more before it sends the answer to STARTTLS, because bytes may arrive between the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum, auto
from typing import ClassVar

from mailproxy.protocol.greeter.commands import CommandBuffer, CommandLine, EndlessCommandError

# The bytes that one client may send before TLS. The longest dialogues of real clients have some hundred.
TOTAL_MAX = 65536
_VERB_MAX = 32  # bytes in which a verb must end, where the session is joined as soon as it is known
_TAG_MAX = 64


class State(Enum):
    """How far the client has come."""

    GREETED = auto()  # greeted, and the protocol wants the client's name first
    READY = auto()


class Command(Enum):
    """What a client asks for, as far as the greeter tells it apart."""

    CAPABILITIES = auto()
    HELLO = auto()  # the client's name, answered with the capabilities
    OLD_HELLO = auto()  # the client's name alone
    NOOP = auto()
    IDENTIFY = auto()
    RESET = auto()
    STARTTLS = auto()
    LOGOUT = auto()
    HELP = auto()
    LOGIN = auto()
    OTHER = auto()  # needs a login, or a server
    IDENTITY = auto()  # what only a proxy may send, such as XCLIENT
    UNKNOWN = auto()
    INVALID = auto()  # a verb that the greeter knows, with arguments that do not fit


class Action(Enum):
    """What the greeter does."""

    LIST = auto()  # the capabilities
    WELCOME = auto()  # answer HELLO with the capabilities
    OLD_WELCOME = auto()
    ACCEPT = auto()
    IDENTIFY = auto()
    UPGRADE = auto()
    LOG_OUT = auto()
    NO_HELP = auto()
    NO_LOGIN = auto()  # not without TLS
    NOT_YET = auto()  # not without TLS, or not in this state
    NO_NAME = auto()  # the client has not given its name
    FORBIDDEN = auto()
    UNKNOWN = auto()
    INVALID = auto()


class Outcome(Enum):
    """How the greeter's part has ended."""

    UPGRADE = auto()  # the answer to STARTTLS is to be sent, and TLS begins
    JOIN = auto()  # the session goes on to a server, in clear
    LEFT = auto()  # the client has logged out
    TOO_MANY_ERRORS = auto()
    INJECTION = auto()


REFUSALS = frozenset(
    {
        Action.NO_HELP, Action.NO_LOGIN, Action.NOT_YET, Action.NO_NAME, Action.FORBIDDEN, Action.UNKNOWN,
        Action.INVALID,
    }
)  # fmt: skip
"""Actions that answer a bad command. ``max_errors`` counts them."""

Table = Mapping[tuple[State, Command], Action]

TABLE: Table = {
    (State.READY, Command.CAPABILITIES): Action.LIST,
    (State.READY, Command.HELLO): Action.WELCOME,
    (State.READY, Command.OLD_HELLO): Action.OLD_WELCOME,
    (State.READY, Command.NOOP): Action.ACCEPT,
    (State.READY, Command.IDENTIFY): Action.IDENTIFY,
    (State.READY, Command.RESET): Action.ACCEPT,
    (State.READY, Command.STARTTLS): Action.UPGRADE,
    (State.READY, Command.LOGOUT): Action.LOG_OUT,
    (State.READY, Command.HELP): Action.NO_HELP,
    (State.READY, Command.LOGIN): Action.NO_LOGIN,
    (State.READY, Command.OTHER): Action.NOT_YET,
    (State.READY, Command.IDENTITY): Action.FORBIDDEN,
    (State.READY, Command.UNKNOWN): Action.UNKNOWN,
    (State.READY, Command.INVALID): Action.INVALID,
}
"""The action for each command. Protocols without a HELLO have one state."""


class Greeter(ABC):
    """The server's role before TLS. Subclasses define verbs and answers.

    Args:
        capabilities: What is announced, one line each, as ``announcement`` makes them.
        text: The text of the greeting.
        host: The proxy's name, for protocols in which a server gives it.
        required: Whether a client must upgrade. Otherwise a command that is not answered joins it to a server.
        max_errors: The number of bad commands that ends the session.

    Attributes:
        state: How far the client has come.
        outcome: How the greeter's part has ended, None until then.
        errors: The number of bad commands so far.
        hello: The client's own greeting, to be repeated to a server: verb and name, empty if there was none.
        VERBS: What each verb asks for, in upper case.
        TABLE: The action for each command in each state.
        FIRST: The state behind the greeting.
        HAS_LITERALS: Whether the protocol has literals.
    """

    VERBS: ClassVar[Mapping[bytes, Command]]
    TABLE: ClassVar[Table] = TABLE
    FIRST: ClassVar[State] = State.READY
    HAS_LITERALS: ClassVar[bool] = False

    def __init__(
        self,
        capabilities: tuple[bytes, ...],
        *,
        text: str,
        host: str = "localhost",
        required: bool = True,
        max_errors: int = 10,
    ) -> None:
        self.state = self.FIRST
        self.outcome: Outcome | None = None
        self.errors = 0
        self.hello = b""
        self._capabilities = capabilities
        self._text = text.encode("ascii", "replace")
        self._host = host.encode("ascii", "replace")
        self._required = required
        self._max_errors = max_errors
        self._commands = CommandBuffer(literals=self.HAS_LITERALS)
        self._received = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name} {self.outcome and self.outcome.name}>"

    @property
    def unread(self) -> bytes:
        """The bytes that the client has sent and the greeter has not read: those of a session that is joined."""
        return self._commands.rest()

    @abstractmethod
    def greet(self) -> bytes:
        """Return the greeting."""

    def refuse_early_talker(self) -> bytes:
        """Return the last words to a client that did not wait for the greeting; empty if the protocol has none."""
        return b""

    def plain_greeting(self) -> bytes:
        """Return a greeting that announces nothing, so that a client asks the server for its capabilities."""
        return self.greet()

    def receive(self, data: bytes) -> None:
        """Take received bytes; ``next_answer`` answers them. Ignored once there is an outcome."""
        if self.outcome is None:
            self._received += len(data)
            self._commands.feed(data)

    def note_error(self) -> None:
        """Count an error that is not a command, such as a client that did not wait for the greeting."""
        self.errors += 1

    def next_answer(self) -> bytes:
        """Read one command, and return the answer to it.

        Returns:
            Empty if a command is incomplete, or if there is an outcome without an answer.
        """
        if self.outcome is not None:
            return b""
        if not self._required and self._joins_early():
            return self._end(Outcome.JOIN)
        # A command of which a literal was dropped can be refused, but not passed on.
        unread = b"" if self._required or self._commands.is_inside_command() else self._commands.rest()
        try:
            line = self._commands.next_command()
        except EndlessCommandError:
            return self._end(Outcome.TOO_MANY_ERRORS, self._too_many_errors())
        if line is None:
            return self._end(Outcome.TOO_MANY_ERRORS, self._too_many_errors()) if self._is_flood else b""
        action = self._action(line)
        if action not in REFUSALS:
            return self._do(action, line.text)
        if unread and action is not Action.FORBIDDEN:
            self._commands = CommandBuffer(literals=self.HAS_LITERALS)
            self._commands.feed(unread)
            return self._end(Outcome.JOIN)
        return self._refuse(action, line.text)

    def _do(self, action: Action, line: bytes) -> bytes:
        if action is Action.UPGRADE:
            if len(self._commands):
                return self._end(Outcome.INJECTION)
            self.outcome = Outcome.UPGRADE
        elif action is Action.LOG_OUT:
            self.outcome = Outcome.LEFT
        elif action in (Action.WELCOME, Action.OLD_WELCOME):
            self.hello, self.state = line, State.READY
        return self._answer(action, line)

    def _refuse(self, action: Action, line: bytes) -> bytes:
        self.errors += 1
        if self.errors >= self._max_errors or self._is_flood:
            return self._end(Outcome.TOO_MANY_ERRORS, self._too_many_errors(action, line))
        return self._answer(action, line)

    @property
    def _is_flood(self) -> bool:
        return self._received > TOTAL_MAX

    def _joins_early(self) -> bool:
        """Whether the next command, of which the verb is known, is one that a server answers."""
        if self._commands.is_inside_command():
            return False
        beginning, is_complete = self._commands.beginning(), self._commands.has_line()
        verb = self._verb(beginning)
        # A line that never gets a verb is the server's, too.
        if (
            not is_complete
            and len(beginning) <= _VERB_MAX + _TAG_MAX
            and not self._is_verb_complete(beginning)
        ):
            return False
        if is_complete and not beginning:
            return False
        command = self.VERBS.get(verb, Command.UNKNOWN)
        action = self.TABLE[self.state, command]
        return action in REFUSALS and action is not Action.FORBIDDEN

    def _is_verb_complete(self, beginning: bytes) -> bool:
        return b" " in beginning

    def _verb(self, line: bytes) -> bytes:
        """Return the verb of a line, in upper case."""
        return line.partition(b" ")[0].upper()

    def _arguments(self, line: bytes) -> bytes:
        """Return what follows the verb of a line."""
        return line.partition(b" ")[2].strip(b" ")

    def _action(self, line: CommandLine) -> Action:
        command = self.VERBS.get(self._verb(line.text), Command.UNKNOWN)
        # A login is refused before its literal is sent.
        has_odd_literal = line.has_literal and command is not Command.LOGIN
        if line.fault or has_odd_literal or not self._is_valid(command, line.text):
            command = Command.INVALID
        return self.TABLE[self.state, command]

    def _is_valid(self, command: Command, line: bytes) -> bool:
        """Whether the arguments fit the command. A server reads those of the commands that are refused."""
        return command is not Command.STARTTLS or not self._arguments(line)

    @abstractmethod
    def _answer(self, action: Action, line: bytes) -> bytes:
        """Return the answer to a command."""

    @abstractmethod
    def _too_many_errors(self, action: Action | None = None, line: bytes = b"") -> bytes:
        """Return the last words to a client with too many errors, with the answer to its last command, if any."""

    def _end(self, outcome: Outcome, answer: bytes = b"") -> bytes:
        self.outcome = outcome
        return answer
