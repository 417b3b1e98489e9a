"""The result of a health check: HAProxy's code and text for it, and the server's own answer."""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from mailproxy.errors import ServerError

# Characters of ``info``: HAProxy's HCHK_DESC_LEN. Without a limit a server could fill the log.
INFO_MAX = 128


class CheckCode(Enum):
    """HAProxy's check statuses (src/check.c, check_statuses): the name as in ``show stat``, the value as in the log."""

    UNK = "Unknown"
    INI = "Initializing"
    SOCKERR = "Socket error"
    L4OK = "Layer4 check passed"
    L4TOUT = "Layer4 timeout"
    L4CON = "Layer4 connection problem"
    L6OK = "Layer6 check passed"
    L6TOUT = "Layer6 timeout"
    L6RSP = "Layer6 invalid response"
    L7TOUT = "Layer7 timeout"
    L7RSP = "Layer7 invalid response"
    L7OK = "Layer7 check passed"
    L7OKC = "Layer7 check conditionally passed"
    L7STS = "Layer7 wrong status"
    HANA = "Health analyze"  # failed connections of sessions; no check was made

    @property
    def is_passed(self) -> bool:
        """Whether a check with this code has passed."""
        return self in _PASSED

    @property
    def has_status(self) -> bool:
        """Whether HAProxy logs a ``code:`` with it."""
        return self in _WITH_STATUS


_PASSED = frozenset({CheckCode.L4OK, CheckCode.L6OK, CheckCode.L7OK, CheckCode.L7OKC})
_WITH_STATUS = frozenset({CheckCode.L7OK, CheckCode.L7OKC, CheckCode.L7STS})


@frozen
class CheckResult:
    """The result of a check. Its text is what HAProxy logs between ``reason:`` and the duration.

    Attributes:
        code: HAProxy's code.
        info: Details, an ``excerpt``.
        status: The protocol's reply code, 0 in protocols without reply codes.
    """

    code: CheckCode
    info: str = ""
    status: int = 0

    def __str__(self) -> str:
        status = f", code: {self.status}" if self.code.has_status else ""
        info = f', info: "{self.info}"' if self.info else ""
        return f"{self.code.value}{status}{info}"


class CheckFailedError(ServerError):
    """A check has failed with this result."""

    def __init__(self, result: CheckResult) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        return str(self.result)


def excerpt(text: bytes | str) -> str:
    """Return the beginning of a peer's text as it may be logged: INFO_MAX characters, ``?`` for unprintable ones."""
    if isinstance(text, bytes):
        text = text[: 4 * INFO_MAX].decode("utf-8", "replace")  # a character has at most four bytes
    return "".join(char if char.isprintable() else "?" for char in text[:INFO_MAX]).strip()
