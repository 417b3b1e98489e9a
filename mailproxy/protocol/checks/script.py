"""A scripted check: what to send and what to expect, step by step, on one connection.

It means what HAProxy's ``tcp-check`` means (src/tcpcheck.c, tried with 2.6):

- An expectation is matched against the buffer each time that bytes arrive. It passes with the first match. It
  fails if the connection ends without one, or with 16,384 bytes in the buffer.
- A negated expectation fails with the first match. It passes if the connection ends without one, or if the
  buffer is full. Until then it waits like any other, so the check's timeout is a failure for it, too
  (L7TOUT).
- A connection that ends without a byte is an empty answer, which fails both kinds.
- Consecutive expectations are matched against the same bytes. After a ``send`` they are matched against later
  bytes.

There are two differences to HAProxy, so that the result does not depend on how the network has split the
answer:

- "Later" bytes begin where the match before the ``send`` ended. HAProxy drops all bytes that it happened to
  have read.
- ``^`` and ``$`` match at every line, because the rest of a greeting may be in front of the answer for
  ``^250``.

HAProxy has no timeout for a step. What that of a step means here is in ``on_step_timeout``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from attrs import frozen

from mailproxy.protocol.checks.dialogue import CheckDialogue
from mailproxy.protocol.checks.result import CheckCode, excerpt

BUFFER_MAX = 16384  # bytes that an expectation is matched against: HAProxy's tune.bufsize


@frozen
class Send:
    """Send these bytes."""

    data: bytes


@frozen(kw_only=True)
class Expect:
    """Expect that a pattern matches anywhere in the buffer.

    Attributes:
        pattern: The pattern.
        words: The expectation as the configuration has it, for messages.
        negated: Expect that it does not match.
    """

    pattern: re.Pattern[bytes]
    words: str
    negated: bool = False


ScriptStep = Send | Expect


def compile_step(
    *,
    send: str | None = None,
    send_hex: str | None = None,
    expect: str | None = None,
    expect_regex: str | None = None,
    expect_hex: str | None = None,
    negated: bool = False,
) -> ScriptStep:
    """Compile a step, which has exactly one value.

    Text is encoded in UTF-8. Regular expressions are matched against bytes.

    Args:
        send: Text to send.
        send_hex: Bytes to send in hexadecimal, with or without spaces.
        expect: Text to expect.
        expect_regex: A regular expression to expect.
        expect_hex: Bytes to expect in hexadecimal, with or without spaces.
        negated: Expect that there is no match.

    Raises:
        ValueError: There is not exactly one value, or it is empty, too long or invalid; the message says
            which.
    """
    values = (send, send_hex, expect, expect_regex, expect_hex)
    if sum(value is not None for value in values) != 1:
        raise ValueError("a step has exactly one of send, send_hex, expect, expect_regex and expect_hex")
    if negated and (send is not None or send_hex is not None):
        raise ValueError("only an expectation can be negated")
    if send is not None:
        return Send(_checked(send.encode(), "send"))
    if send_hex is not None:
        return Send(_checked(_from_hex(send_hex), "send_hex"))
    if expect is not None:
        return Expect(
            pattern=_literally(_checked(expect.encode(), "expect")),
            words=f"string '{expect}'",
            negated=negated,
        )
    if expect_hex is not None:
        wanted = _checked(_from_hex(expect_hex), "expect_hex")
        return Expect(pattern=_literally(wanted), words=f"binary '{wanted.hex()}'", negated=negated)
    text = expect_regex or ""
    return Expect(pattern=_compiled(text), words=f"regex '{text}'", negated=negated)


def _checked(data: bytes, key: str) -> bytes:
    if not data:
        raise ValueError(f"{key} is empty")
    if key.startswith("expect") and len(data) > BUFFER_MAX:
        raise ValueError(f"{key} has {len(data)} bytes, and no more than {BUFFER_MAX} are matched")
    return data


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"{excerpt(text)!r} is not hex: digits 0 to 9 and a to f, two a byte") from None


def _literally(data: bytes) -> re.Pattern[bytes]:
    return re.compile(re.escape(data))


def _compiled(text: str) -> re.Pattern[bytes]:
    if not text:
        raise ValueError("expect_regex is empty")
    try:
        # Python warns of "[[", which may get another meaning. The configuration's reader ignores that, too.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(text.encode(), re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{excerpt(text)!r} is not a regular expression: {error}") from None


class ScriptCheck(CheckDialogue):
    """The steps of a script on one connection.

    Args:
        steps: The steps.
        first: The number of the first step in the whole script, for messages. Connects count as steps, too.
    """

    def __init__(self, steps: Iterable[ScriptStep], *, first: int = 1) -> None:
        self._steps = tuple(steps)
        self._first = first
        self._index = 0  # of the current step
        self._buffer = bytearray()
        # Offset in the buffer from which expectations are matched. The byte before it stays there for ``^``.
        self._start = 0
        self._matched = 0  # end of the last match since the last send
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at step {self.step} of {self._first + len(self._steps) - 1} {self.failure or ''}>"

    @property
    def step(self) -> int:
        """The number of the current step."""
        return self._first + self._index

    @property
    def expecting(self) -> str:
        if self._index == len(self._steps):
            return "nothing"
        step = self._steps[self._index]
        wanted = f"expect {'! ' if step.negated else ''}{step.words}" if isinstance(step, Expect) else "send"
        return excerpt(f"at step {self.step} of the script ({wanted})")

    def start(self) -> bytes:
        return self._run()

    def receive(self, data: bytes) -> bytes:
        answer = b""
        self._has_ended |= not data
        while not self.is_over:
            # Bytes that do not fit in the buffer wait for the next send, which makes room.
            room = self._start + BUFFER_MAX - len(self._buffer)
            self._buffer += data[:room]
            data = data[room:]
            answer += self._run()
            if not data:
                break
        return answer

    def on_step_timeout(self) -> bytes:
        """Handle the timeout of the current step; return the bytes to send.

        A negated expectation passes, because it has not matched so far. Any other step fails with L7TOUT.
        """
        if not self.is_over:
            step = self._steps[self._index]
            if isinstance(step, Expect) and step.negated:
                self._pass()
                return self._run()
            self._end(CheckCode.L7TOUT, self.expecting)
        return b""

    def _run(self) -> bytes:
        """Run steps until one has to wait; return the bytes to send."""
        data = b""
        while not self.is_over:
            if self._index == len(self._steps):
                self.is_over = True
                break
            step = self._steps[self._index]
            if isinstance(step, Send):
                data += step.data
                self._drop_matched()
                self._index += 1
            elif not self._match(step):
                break
        return data

    def _match(self, step: Expect) -> bool:
        """Match an expectation against the buffer; return whether the next step can run."""
        size = len(self._buffer) - self._start
        is_last = self._has_ended or size >= BUFFER_MAX
        if not size:
            if is_last:
                self._end(CheckCode.L7RSP, f"got an empty response at step {self.step}")
            return False
        match = step.pattern.search(self._buffer, self._start)
        if match and step.negated:
            self._end(CheckCode.L7RSP, f"matched unwanted content ({step.words}) at step {self.step}")
        elif match:
            self._matched = max(self._matched, match.end())
            self._index += 1
            return True
        elif is_last and step.negated:
            self._pass()
            return True
        elif is_last:
            self._end(CheckCode.L7RSP, f"did not match content ({step.words}) at step {self.step}")
        return False

    def _pass(self) -> None:
        """Pass a negated expectation, which has been matched against the whole buffer."""
        self._matched = len(self._buffer)
        self._index += 1

    def _drop_matched(self) -> None:
        """Drop what has been matched, except its last byte, which tells ``^`` whether a line begins."""
        start = max(self._matched, self._start)
        del self._buffer[: max(start - 1, 0)]
        self._start = self._matched = min(start, 1)

    def _end(self, code: CheckCode, info: str) -> None:
        self._fail(code, info)
        self.is_over = True
