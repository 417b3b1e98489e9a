"""A scripted check: what to send and what to expect, step by step, within one connection.

The meanings are HAProxy's ``tcp-check`` (src/tcpcheck.c, and tried with 2.6):

- An expectation is looked at when something came, and again with everything that comes. It is met as soon as it matches.
  If it has not when the connection ends or 16384 bytes are there, it fails.
- A negated one fails as soon as it matches. It is passed when the connection ends or the buffer is full, and until then
  it waits like any other: the check's time limit is a failure for it, too (L7TOUT). A connection that ends without a
  byte is an empty answer, which neither kind takes.
- Expectations in a row look at the same bytes. Behind a ``send`` they look at what came later.

Two things differ, and both so that the outcome does not hang on how the network cut what the server said. "Later" begins
where the match before the ``send`` ended, while HAProxy drops whatever happened to be read by then. And ``^`` and ``$``
are those of any line, because the rest of a greeting may stand before the answer that ``^250`` is meant for.
HAProxy has no time limit for a step; where one has its own, ``step_time_is_up`` says what it means.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from attrs import frozen

from mailproxy.protocol.checks.dialogue import CheckDialogue
from mailproxy.protocol.checks.result import CheckCode, printable

BUFFER_MAX = 16384  # bytes that an expectation looks at: HAProxy's tune.bufsize


@frozen
class Send:
    """Send these bytes."""

    data: bytes


@frozen(kw_only=True)
class Expect:
    """``pattern`` matches somewhere; ``words`` are the ones that the configuration has for it."""

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
    """Make a step from its one value. Raises ValueError with the fact.

    Text is sent and looked for in UTF-8, and a regular expression is one over bytes. Hex may have spaces.
    """
    given = [each is not None for each in (send, send_hex, expect, expect_regex, expect_hex)]
    if sum(given) != 1:
        raise ValueError("a step has exactly one of send, send_hex, expect, expect_regex and expect_hex")
    if negated and (send is not None or send_hex is not None):
        raise ValueError("only an expectation can be negated")
    if send is not None:
        return Send(_filled(send.encode(), "send"))
    if send_hex is not None:
        return Send(_filled(_from_hex(send_hex), "send_hex"))
    if expect is not None:
        return Expect(
            pattern=_literally(_filled(expect.encode(), "expect")),
            words=f"string '{expect}'",
            negated=negated,
        )
    if expect_hex is not None:
        wanted = _filled(_from_hex(expect_hex), "expect_hex")
        return Expect(pattern=_literally(wanted), words=f"binary '{wanted.hex()}'", negated=negated)
    text = expect_regex or ""
    return Expect(pattern=_compiled(text), words=f"regex '{text}'", negated=negated)


def _filled(data: bytes, key: str) -> bytes:
    if not data:
        raise ValueError(f"{key} is empty")
    if key.startswith("expect") and len(data) > BUFFER_MAX:
        raise ValueError(f"{key} has {len(data)} bytes, and no more than {BUFFER_MAX} are looked at")
    return data


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"{printable(text)!r} is not hex: digits 0 to 9 and a to f, two a byte") from None


def _literally(data: bytes) -> re.Pattern[bytes]:
    return re.compile(re.escape(data))


def _compiled(text: str) -> re.Pattern[bytes]:
    if not text:
        raise ValueError("expect_regex is empty")
    try:
        with (
            warnings.catch_warnings()
        ):  # as where the configuration is read: "[[" may mean something else in a later Python
            warnings.simplefilter("ignore")
            return re.compile(text.encode(), re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{printable(text)!r} is not a regular expression: {error}") from None


class ScriptCheck(CheckDialogue):
    """The steps between two connects. ``first`` is the first one's number in the whole script, for what is said of it."""

    def __init__(self, steps: Iterable[ScriptStep], *, first: int = 1) -> None:
        self._steps = tuple(steps)
        self._first = first
        self._index = 0  # of the step that waits
        self._buffer = bytearray()
        self._start = (
            0  # in the buffer, of what expectations look at; the byte before it tells where lines begin
        )
        self._matched = 0  # the end of what was matched since the last send
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at step {self.step} of {self._first + len(self._steps) - 1} {self.failure or ''}>"

    @property
    def step(self) -> int:
        """The number of the step that waits."""
        return self._first + self._index

    @property
    def expecting(self) -> str:
        if self._index == len(self._steps):
            return "nothing"
        step = self._steps[self._index]
        wanted = f"expect {'! ' if step.negated else ''}{step.words}" if isinstance(step, Expect) else "send"
        return printable(f"at step {self.step} of the script ({wanted})")

    def start(self) -> bytes:
        return self._run()

    def receive(self, data: bytes) -> bytes:
        said = b""
        self._has_ended |= not data
        while not self.is_over:
            # A send makes room; what does not fit before it is looked at behind it.
            room = self._start + BUFFER_MAX - len(self._buffer)
            self._buffer += data[:room]
            data = data[room:]
            said += self._run()
            if not data:
                break
        return said

    def on_step_timeout(self) -> bytes:
        """The step's own time limit is over; return what to send. A negated expectation has held out, any other fails."""
        if not self.is_over:
            step = self._steps[self._index]
            if isinstance(step, Expect) and step.negated:
                self._pass()
                return self._run()
            self._end(CheckCode.L7TOUT, self.expecting)
        return b""

    def _run(self) -> bytes:
        """Take the steps that can be taken; return what they send."""
        said = b""
        while not self.is_over:
            if self._index == len(self._steps):
                self.is_over = True
                break
            step = self._steps[self._index]
            if isinstance(step, Send):
                said += step.data
                self._forget()
                self._index += 1
            elif not self._match(step):
                break
        return said

    def _match(self, step: Expect) -> bool:
        """Can it go on?"""
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
        """A negated expectation has looked at all that there is."""
        self._matched = len(self._buffer)
        self._index += 1

    def _forget(self) -> None:
        """What was matched so far is none of the next expectations' business."""
        kept = max(self._matched, self._start)
        del self._buffer[: max(kept - 1, 0)]
        self._start = self._matched = min(kept, 1)

    def _end(self, code: CheckCode, info: str) -> None:
        self._fail(code, info)
        self.is_over = True
