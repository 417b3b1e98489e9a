"""What can go wrong while a certificate is obtained."""

from __future__ import annotations


class AcmeError(Exception):
    """A certificate could not be obtained. The message is for the operator, and has no secrets.

    Attributes:
        retry_after: Seconds that the authority wants to be left alone, None if it does not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ProblemError(AcmeError):
    """The authority has answered with a problem document (RFC 8555 section 6.7).

    Attributes:
        kind: The last part of its type, such as ``badNonce`` or ``rateLimited``.
        status: The HTTP status.
    """

    def __init__(self, kind: str, detail: str, status: int, *, retry_after: float | None = None) -> None:
        self.kind = kind
        self.status = status
        super().__init__(f"the authority refuses: {detail} ({kind})", retry_after=retry_after)


def shown(text: object, limit: int = 300) -> str:
    """Return foreign text for a message: printable, on one line, bounded."""
    line = " ".join(str(text).split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= limit else f"{line[:limit]}…"
