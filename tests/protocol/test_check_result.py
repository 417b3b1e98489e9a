"""Results of health checks: their text matches HAProxy's log lines."""

from __future__ import annotations

import pytest

from mailproxy.errors import ServerError
from mailproxy.protocol.checks.result import INFO_MAX, CheckCode, CheckFailedError, CheckResult, excerpt


@pytest.mark.parametrize(
    ("result", "line"),  # as in HAProxy 2.6 after "reason: "
    [
        (
            CheckResult(CheckCode.L4CON, "Connection refused"),
            'Layer4 connection problem, info: "Connection refused"',
        ),
        (CheckResult(CheckCode.L4TOUT), "Layer4 timeout"),
        (CheckResult(CheckCode.L7OK, "(tcp-check)"), 'Layer7 check passed, code: 0, info: "(tcp-check)"'),
        (CheckResult(CheckCode.L7STS, "go away", 554), 'Layer7 wrong status, code: 554, info: "go away"'),
        (CheckResult(CheckCode.L7RSP, "what?"), 'Layer7 invalid response, info: "what?"'),
    ],
)
def test_result_text_matches_haproxy(result: CheckResult, line: str) -> None:
    assert str(result) == line
    assert str(CheckFailedError(result)) == line
    assert isinstance(CheckFailedError(result), ServerError)


def test_passed_codes() -> None:
    assert {code.name for code in CheckCode if code.is_passed} == {"L4OK", "L6OK", "L7OK", "L7OKC"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"hello", "hello"),
        (b"a\r\nb\tc\0\x1b[0m", "a??b?c??[0m"),
        ("gr\u00fc\u00dfe".encode(), "gr\u00fc\u00dfe"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("\u202e\u2028", "??"),
        (b"x" * 1000, "x" * INFO_MAX),
        ("\U0001f4e7" * 1000, "\U0001f4e7" * INFO_MAX),
        (("\U0001f4e7" * 1000).encode(), "\U0001f4e7" * INFO_MAX),
    ],
)
def test_excerpt_is_bounded_and_printable(text: bytes | str, expected: str) -> None:
    assert excerpt(text) == expected
