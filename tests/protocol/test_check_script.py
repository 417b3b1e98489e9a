"""Scripted health checks: the meaning of each step as in HAProxy, and each invalid step."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailproxy.protocol.checks.result import CheckCode
from mailproxy.protocol.checks.script import BUFFER_MAX, Expect, ScriptCheck, ScriptStep, Send, compile_step
from tests.support.protocol.check_transcripts import byte_by_byte, outcome, run_transcript


def expect(text: str, *, negated: bool = False) -> ScriptStep:
    return compile_step(expect=text, negated=negated)


def regex(text: str, *, negated: bool = False) -> ScriptStep:
    return compile_step(expect_regex=text, negated=negated)


def send(text: str) -> ScriptStep:
    return compile_step(send=text)


LOGOUT = (expect("* OK"), send("a1 LOGOUT\r\n"), regex("^a1 OK"))


def test_script_runs_its_steps() -> None:
    run_transcript(
        ScriptCheck(LOGOUT),
        """
S: * OK ready
C: a1 LOGOUT
S: * BYE
S: a1 OK done
= Layer7 check passed, code: 0
""",
    )


def test_leading_sends_are_sent_at_once() -> None:
    check = ScriptCheck([send("x\r\n"), compile_step(send_hex="79 0D0a"), expect("z")])
    assert check.start() == b"x\r\ny\r\n"
    assert check.step == 3
    assert not check.is_over


def test_script_may_only_send_or_be_empty() -> None:
    check = ScriptCheck([send("x")])
    assert check.start() == b"x"
    assert check.is_over
    empty = ScriptCheck([])
    assert empty.start() == b""
    assert empty.is_over
    assert empty.result.code is CheckCode.L7OK


def test_script_never_wants_tls() -> None:
    check = ScriptCheck(LOGOUT)
    assert not check.wants_tls
    with pytest.raises(RuntimeError):
        check.tls_started()


def test_consecutive_expectations_match_the_same_bytes() -> None:
    check = ScriptCheck([expect("b"), expect("a"), compile_step(expect_hex="61 62")])
    assert check.receive(b"ab") == b""
    assert check.is_over
    assert check.failure is None


@pytest.mark.parametrize("greeting", [b"+OK", b"+OK ready\r\n"])
def test_expectation_after_send_ignores_earlier_bytes(greeting: bytes) -> None:
    check = ScriptCheck([expect("+OK"), send("NOOP\r\n"), expect("+OK")])
    assert check.receive(greeting) == b"NOOP\r\n"
    assert not check.is_over
    check.receive(b"+OK\r\n")
    assert check.is_over


@pytest.mark.parametrize(
    "rest", [b" mail 250 ready\r\n", b" mail\r\n", b"\r\n", b" mail, no line begins with 250 \r\n"]
)
def test_line_start_matches_after_rest_of_greeting(rest: bytes) -> None:
    for pieces in ([b"220" + rest], [b"220", rest]):
        check = ScriptCheck([expect("220"), send("EHLO x\r\n"), regex("^250[ -]")])
        assert b"".join(check.receive(piece) for piece in pieces) == b"EHLO x\r\n"
        assert not check.is_over
        check.receive(b"250 mail\r\n")
        assert check.is_over
        assert check.failure is None


def test_text_is_utf8_and_regex_matches_bytes() -> None:
    check = ScriptCheck([expect("grüße"), regex(r"\xff\d+(?i:ok)")])
    check.receive("grüße".encode() + b"\xff12oK")
    assert check.is_over
    assert check.failure is None


# Ends, as in HAProxy 2.6

NEVER = expect("NEVER")
NOT_BAD = expect("BAD", negated=True)


@pytest.mark.parametrize(
    ("step", "received", "is_closed", "line"),
    [
        (
            NEVER,
            b"* OK",
            True,
            "Layer7 invalid response, info: \"did not match content (string 'NEVER') at step 2\"",
        ),
        (NEVER, b"", True, 'Layer7 invalid response, info: "got an empty response at step 2"'),
        (
            NEVER,
            b"x" * 20_000,
            False,
            "Layer7 invalid response, info: \"did not match content (string 'NEVER') at step 2\"",
        ),
        (NEVER, b"* OK", False, None),
        (NOT_BAD, b"* OK", True, "Layer7 check passed, code: 0"),
        (NOT_BAD, b"", True, 'Layer7 invalid response, info: "got an empty response at step 2"'),
        (NOT_BAD, b"x" * 20_000, False, "Layer7 check passed, code: 0"),
        (NOT_BAD, b"* OK", False, None),
        (
            NOT_BAD,
            b"* OK BAD",
            False,
            "Layer7 invalid response, info: \"matched unwanted content (string 'BAD') at step 2\"",
        ),
        (
            regex("^x+y", negated=True),
            b"* OK\nxxy",
            False,
            "Layer7 invalid response, info: \"matched unwanted content (regex '^x+y') at step 2\"",
        ),
        (
            compile_step(expect_hex="0A"),
            b"x",
            True,
            "Layer7 invalid response, info: \"did not match content (binary '0a') at step 2\"",
        ),
    ],
)
def test_end_of_expectation_matches_haproxy(
    step: ScriptStep, received: bytes, is_closed: bool, line: str | None
) -> None:
    for pieces in ([received] if received else [], byte_by_byte(received)):
        check = ScriptCheck([step], first=2)
        outcome(check, pieces)
        if is_closed:
            check.receive(b"")
        assert check.is_over is (line is not None)
        if line:
            assert str(check.result) == line


def test_steps_after_negated_expectation_run_after_close() -> None:
    check = ScriptCheck([NOT_BAD, send("bye\r\n"), expect("x", negated=True)])
    check.receive(b"* OK")
    assert check.receive(b"") == b"bye\r\n"
    assert check.failure  # no further bytes were received
    assert check.failure.info == "got an empty response at step 3"


# Timeouts


@pytest.mark.parametrize(
    ("step", "expecting"),
    [
        (NEVER, "at step 1 of the script (expect string 'NEVER')"),
        (NOT_BAD, "at step 1 of the script (expect ! string 'BAD')"),
        (regex("a+"), "at step 1 of the script (expect regex 'a+')"),
    ],
)
def test_timeout_names_the_step(step: ScriptStep, expecting: str) -> None:
    check = ScriptCheck([step])
    check.receive(b"x")
    assert check.expecting == expecting


def test_step_timeout_passes_negated_expectation_only() -> None:
    check = ScriptCheck([NOT_BAD, send("x"), NEVER])
    check.receive(b"* OK")
    assert check.on_step_timeout() == b"x"
    assert check.step == 3
    assert check.on_step_timeout() == b""
    assert check.is_over
    assert check.result.code is CheckCode.L7TOUT
    assert check.result.info == "at step 3 of the script (expect string 'NEVER')"
    result = check.result
    assert check.on_step_timeout() == b""
    assert check.result is result
    assert ScriptCheck([]).expecting == "nothing"


# Size limits


def test_buffer_size_matches_haproxy() -> None:
    for spare, is_matched in ((3, True), (2, False)):
        check = ScriptCheck([expect("end")])
        check.receive(b"x" * (BUFFER_MAX - spare) + b"end")
        assert check.is_over
        assert (check.failure is None) is is_matched


def test_send_empties_the_buffer() -> None:
    check = ScriptCheck([expect("a"), send("1"), expect("b", negated=True), send("2"), expect("c")])
    sent = check.receive(b"a" + b"x" * BUFFER_MAX + b"c")
    assert sent == b"12"
    assert check.is_over
    assert check.failure is None


# Configured steps


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({}, "a step has exactly one of"),
        ({"send": "a", "expect": "b"}, "a step has exactly one of"),
        ({"send": "a", "negated": True}, "only an expectation can be negated"),
        ({"send_hex": "00", "negated": True}, "only an expectation can be negated"),
        ({"send": ""}, "send is empty"),
        ({"send_hex": " "}, "send_hex is empty"),
        ({"send_hex": "0"}, "'0' is not hex: digits 0 to 9 and a to f, two a byte"),
        ({"expect": ""}, "expect is empty"),
        ({"expect": "x" * (BUFFER_MAX + 1)}, "expect has 16385 bytes, and no more than 16384 are matched"),
        ({"expect_hex": ""}, "expect_hex is empty"),
        ({"expect_hex": "zz"}, "'zz' is not hex"),
        ({"expect_regex": ""}, "expect_regex is empty"),
        ({"expect_regex": "("}, "'\\(' is not a regular expression: missing \\), unterminated subpattern"),
        ({"expect_regex": "*"}, "'\\*' is not a regular expression: nothing to repeat"),
        ({"expect_regex": "a{99999999999}"}, "is not a regular expression"),
    ],
)
def test_invalid_step_is_refused(step: dict[str, str | bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_step(**step)  # type: ignore[arg-type]  # invalid on purpose


def test_valid_step_is_a_value() -> None:
    assert send("a") == compile_step(send_hex="61") == Send(b"a")
    step = expect(".*", negated=True)
    assert isinstance(step, Expect)
    assert step.negated
    assert not step.pattern.search(b"anything")


# Split input

_texts = st.sampled_from(["a", "b", "ab", "aab", "ba", "abba"])
_steps = st.lists(
    st.one_of(
        st.builds(expect, _texts, negated=st.booleans()),
        st.builds(lambda text: regex(f"^{text}"), _texts),
        st.sampled_from(["1", "2", "3"]).map(send),
    ),
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(
    _steps,
    st.lists(st.sampled_from([b"a", b"b", b"\n"]), max_size=60).map(b"".join),
    st.data(),
    st.booleans(),
)
def test_result_is_independent_of_splits(
    steps: list[ScriptStep], data: bytes, draw: st.DataObject, is_closed: bool
) -> None:
    cuts = draw.draw(st.sets(st.integers(0, len(data)), max_size=8))
    pieces = [data[a:b] for a, b in pairwise([0, *sorted(cuts), len(data)]) if a < b]
    end = [b""] if is_closed else []
    expected = outcome(ScriptCheck(steps), [*([data] if data else []), *end])
    assert expected == outcome(ScriptCheck(steps), [*pieces, *end])
    assert expected == outcome(ScriptCheck(steps), [*byte_by_byte(data), *end])


def test_script_is_decided_at_its_end() -> None:
    """A script has no logout of its own that could follow the result."""
    script = ScriptCheck((expect("* OK"),))
    script.start()
    assert not script.is_decided
    script.receive(b"* OK ready\r\n")
    assert script.is_decided


def test_step_timeout_after_the_end_changes_nothing() -> None:
    """The timer of the last step may fire when the check has its result."""
    script = ScriptCheck((expect("* OK"),))
    script.start()
    script.receive(b"* OK ready\r\n")
    result = script.result
    assert script.on_step_timeout() == b""
    assert script.result == result
