"""The token of HTTP clients: read from its file, and compared."""

from __future__ import annotations

from pathlib import Path

_TOKEN_MIN = 16  # characters; shorter ones can be guessed
_TOKEN_MAX = 1024


def read_token(file: Path) -> str:
    """Read the token of HTTP clients.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no token, one that is easily guessed, or one that no header can carry.
    """
    with file.open("rb") as stream:
        token = stream.read(_TOKEN_MAX + 1).decode("ascii", "replace").strip()
    if len(token) < _TOKEN_MIN:
        raise ValueError(f"has no token of {_TOKEN_MIN} characters or more: openssl rand -hex 32")
    if len(token) > _TOKEN_MAX or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("is no token: one line of printable ASCII without blanks")
    return token
