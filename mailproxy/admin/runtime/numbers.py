"""Whole numbers as HAProxy's commands take them."""

from __future__ import annotations

import re

_SESSION_ID = re.compile(r"(?:0x)?([0-9a-f]{1,16})", re.IGNORECASE)
_DIGITS_MAX = 18  # Python refuses to convert thousands, and no value here is as large
_OUT_OF_RANGE = 10**_DIGITS_MAX


def split_number(text: str) -> tuple[int | None, str]:
    """Return the number that a text begins with in ASCII digits, None without one, and what follows.

    A number of more than 18 digits becomes 10**18, as strtol(3) returns its largest number.
    """
    rest = text.lstrip("0123456789")
    digits = text[: len(text) - len(rest)]
    if not digits:
        return None, rest
    return (int(digits) if len(digits) <= _DIGITS_MAX else _OUT_OF_RANGE), rest


def parse_number(text: str) -> int | None:
    """Return the number that a text is, perhaps with a minus sign; None if it is none."""
    is_negative = text.startswith("-")
    number, rest = split_number(text.removeprefix("-"))
    if number is None or rest:
        return None
    return -number if is_negative else number


def parse_session_id(text: str) -> int | None:
    """Return the id that ``show sess`` and the log write as ``0x1a`` or ``1a``; None if it is none."""
    match = _SESSION_ID.fullmatch(text)
    return None if match is None else int(match[1], 16)
