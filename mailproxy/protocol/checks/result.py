"""How a health check ended: HAProxy's code, its words for it, and what the server itself said."""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from mailproxy.errors import ServerError

# Characters of an information: HAProxy's HCHK_DESC_LEN. A server could fill the log otherwise.
INFO_MAX = 128


class CheckCode(Enum):
    """HAProxy's: the name is what ``show stat`` has, the value what the log says (src/check.c, check_statuses)."""

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
    HANA = "Health analyze"  # of the connections of sessions

    @property
    def is_passed(self) -> bool:
        return self in _PASSED

    @property
    def has_status(self) -> bool:
        """Does HAProxy write a ``code:`` with it?"""
        return self in _WITH_STATUS


_PASSED = frozenset({CheckCode.L4OK, CheckCode.L6OK, CheckCode.L7OK, CheckCode.L7OKC})
_WITH_STATUS = frozenset({CheckCode.L7OK, CheckCode.L7OKC, CheckCode.L7STS})


@frozen
class CheckResult:
    """``info`` is printable and bounded; ``status`` is the protocol's number where it has numbers, else 0.

    As text it is what stands behind HAProxy's ``reason:``, up to the duration.
    """

    code: CheckCode
    info: str = ""
    status: int = 0

    def __str__(self) -> str:
        status = f", code: {self.status}" if self.code.has_status else ""
        info = f', info: "{self.info}"' if self.info else ""
        return f"{self.code.value}{status}{info}"


class CheckFailedError(ServerError):
    """A check failed; ``result`` says how."""

    def __init__(self, result: CheckResult) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        return str(self.result)


def printable(said: bytes | str) -> str:
    """What somebody else wrote, fit for a line of a log: no control characters, at most INFO_MAX of the others."""
    # an octet makes at least a quarter of a character
    text = said[: 4 * INFO_MAX].decode("utf-8", "replace") if isinstance(said, bytes) else said[:INFO_MAX]
    return "".join(each if each.isprintable() else "?" for each in text[:INFO_MAX]).strip()
