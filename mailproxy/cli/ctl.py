"""``mailproxy ctl``: commands to a running proxy, one from the command line or many from a prompt."""

from __future__ import annotations

import codecs
import contextlib
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click
from attrs import frozen

from mailproxy.address import TcpAddress, parse_bind
from mailproxy.config import AdminSocket

DEFAULT_SOCKET = Path("/run/mailproxy/admin.sock")
_LEVELS = ("admin", "operator", "user")
_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 60.0  # commands that wait for workers take some seconds
_MARK = re.compile(r"^\[(\d)\]:", re.MULTILINE)
_ERROR_SEVERITY_MAX = 3  # syslog's LOG_ERR
_HISTORY = Path("~/.mailproxy_history")
_HISTORY_LENGTH = 1000


class NoAnswerError(Exception):
    """The proxy cannot be reached. The message says why, and what to do."""


@frozen
class Answer:
    """The answer to a line of commands, and whether one of them was an error."""

    text: str
    is_error: bool


@frozen
class AdminAddress:
    """Where an admin socket is: a path, or host and port."""

    path: Path | None
    tcp: tuple[str, int] | None = None

    def __str__(self) -> str:
        return str(self.path) if self.tcp is None else f"{self.tcp[0]}:{self.tcp[1]}"

    def ask(self, commands: str) -> Answer:
        """Send a line of commands, and return the answer.

        Raises:
            NoAnswerError: The proxy cannot be reached, or does not answer.
        """
        try:
            with self._connect() as sock:
                # The proxy marks errors then, so that they need not be guessed from their words.
                # The last one closes the connection also behind the command "prompt".
                sock.sendall(f"set severity-output number;{commands};quit\n".encode())
                sock.settimeout(_ANSWER_TIMEOUT_S)
                data = b"".join(iter(lambda: sock.recv(65536), b""))
        except TimeoutError:
            raise NoAnswerError(f"{self}: no answer from the proxy") from None
        except OSError as error:
            raise NoAnswerError(f"{self}: {error.strerror or error}{_remedy(error)}") from None
        return _parse(data.decode("utf-8", "replace"))

    def stream(self, command: str) -> Iterator[str]:
        """Send a command whose answer goes on, and yield its text as it comes.

        Raises:
            NoAnswerError: The proxy cannot be reached, or has refused the command.
        """
        try:
            with self._connect() as sock:
                sock.sendall(f"set severity-output number;{command}\n".encode())
                sock.settimeout(None)
                # Waits as long as the proxy is silent. The first answer is the empty one to the other command.
                decoder, is_first = codecs.getincrementaldecoder("utf-8")("replace"), True
                while data := sock.recv(65536):
                    text = decoder.decode(data)
                    if is_first:
                        text = text.removeprefix("\n")
                        is_first = not text
                        if _MARK.match(text):  # a line of the log may begin with an IPv6 address in brackets
                            raise NoAnswerError(_parse(text).text.strip())
                    yield text
        except OSError as error:
            raise NoAnswerError(f"{self}: {error.strerror or error}{_remedy(error)}") from None

    def _connect(self) -> socket.socket:
        if self.tcp is not None:
            return socket.create_connection(self.tcp, timeout=_CONNECT_TIMEOUT_S)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect(str(self.path))
        except BaseException:
            sock.close()
            raise
        return sock


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return ": only members of the socket's group may use it"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return ": is the proxy running, and does its configuration have an [admin] socket?"
    return ""


def _parse(text: str) -> Answer:
    """Take the marks out of an answer, and the empty answer to the command that asked for them."""
    text = text.removeprefix("\n")
    severities = [int(match[1]) for match in _MARK.finditer(text)]
    return Answer(_MARK.sub("", text), any(each <= _ERROR_SEVERITY_MAX for each in severities))


def parse_socket(text: str) -> AdminAddress:
    """Return the address that ``-s`` names: a path, or ``HOST:PORT``.

    Raises:
        ValueError: It is neither.
    """
    if "/" in text or ":" not in text:
        return AdminAddress(Path(text))
    address = parse_bind(text)
    if not isinstance(address, TcpAddress) or address.port is None:
        raise ValueError(f"{text}: a path or HOST:PORT")
    return AdminAddress(None, (address.host, address.port))


def choose_socket(sockets: Iterable[AdminSocket]) -> AdminAddress | None:
    """Return the admin socket of a configuration that may do most, None if it has none."""
    ordered = sorted(sockets, key=lambda each: (_LEVELS.index(each.level), each.path is None))
    for each in ordered:
        if each.path is not None:
            return AdminAddress(each.path)
        if isinstance(each.address, TcpAddress):
            return AdminAddress(None, (each.address.host, each.address.port or 0))
    return None


def run_tail(address: AdminAddress, command: str) -> int:
    """Print what ``tail`` sends until the proxy ends, the user does, or nothing reads on. Return the exit code."""
    try:
        for text in address.stream(command):
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        sys.stdout = None  # or Python would report it once more at its end
        return 0
    except NoAnswerError as error:
        click.echo(str(error), err=True)
        return 1
    click.echo(f"{address}: the proxy has closed the connection", err=True)
    return 1


def run_command(address: AdminAddress, commands: str) -> int:
    """Send a line of commands, print the answer, and return the exit code."""
    try:
        answer = address.ask(commands)
    except NoAnswerError as error:
        click.echo(str(error), err=True)
        return 1
    if text := answer.text.rstrip("\n"):
        click.echo(text, err=answer.is_error)
    return int(answer.is_error)


def run_prompt(address: AdminAddress) -> int:
    """Read lines of commands until the end of the input, and return the exit code: 1 if any was an error.

    Each line has a connection of its own, so that the prompt outlives a restart of the proxy.
    """
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    code = 0
    with _readline(address) if is_terminal else contextlib.nullcontext():
        for line in _lines("mailproxy> " if is_terminal else ""):
            if line in ("quit", "exit"):
                break
            if line.split()[:1] == ["tail"]:
                run_tail(address, line)
            elif line:
                code = run_command(address, line) or code
    return 0 if is_terminal else code


def _lines(prompt: str) -> Iterator[str]:
    while True:
        try:
            yield input(prompt).strip()
        except EOFError:
            if prompt:
                click.echo()
            return
        except KeyboardInterrupt:
            click.echo()


@contextlib.contextmanager
def _readline(address: AdminAddress) -> Iterator[None]:
    """Give the prompt a history and completion, if Python has readline."""
    try:
        import readline  # late: only the prompt needs it, and some builds of Python lack it
    except ImportError:
        yield
        return
    history = _HISTORY
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the user has no home directory
        history = _HISTORY.expanduser()
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY_LENGTH)
    readline.set_completer_delims(" \t;")
    readline.parse_and_bind("tab: complete")
    readline.set_completer(
        make_completer(_vocabulary(address), readline.get_line_buffer, readline.get_begidx)
    )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(history)


def make_completer(
    vocabulary: Sequence[tuple[str, ...]], line: Callable[[], str], begin: Callable[[], int]
) -> Callable[[str, int], str | None]:
    """Return readline's function that completes a word of a command.

    Args:
        vocabulary: The words of each command. Its last entry are words that may follow any command.
        line: Returns the line.
        begin: Returns where the word begins in it.
    """
    *commands, names = vocabulary

    def complete(text: str, number: int) -> str | None:
        before = tuple(line()[: begin()].rpartition(";")[2].split())
        following = {
            words[len(before)]
            for words in commands
            if words[: len(before)] == before and len(words) > len(before)
        }
        candidates = sorted(word for word in following or set(names) if word.startswith(text))
        return f"{candidates[number]} " if number < len(candidates) else None

    return complete


def _vocabulary(address: AdminAddress) -> list[tuple[str, ...]]:
    """Ask the proxy for its commands, and for the names of frontends, backends and servers."""
    try:
        commands = address.ask("help").text
        states = address.ask("show servers state").text
        figures = address.ask("show stat -1 1 -1").text
    except NoAnswerError:
        return [()]
    words = [
        tuple(word for word in line.partition(":")[0].split() if word[0] not in "<[{(")
        for line in commands.splitlines()
        if line.startswith("  ")
    ]
    rows = [line.split() for line in states.splitlines() if line[:1].isdigit() and " " in line]
    names = {row[1] for row in rows} | {f"{row[1]}/{row[3]}" for row in rows}
    frontends = {line.partition(",")[0] for line in figures.splitlines() if line and not line.startswith("#")}
    return [*words, tuple(sorted(names | frontends))]
