"""HAProxy's times, sizes and numbers."""

from __future__ import annotations

import re

from mailproxy.config.units import write_duration
from mailproxy.importers.place import has_variable

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME_MAX_S = 10 * 365 * 86400.0  # the longest duration of mailproxy's configuration
_TIME = re.compile(r"([0-9]{1,18})(us|ms|s|m|h|d)?")
_SIZE = re.compile(r"([0-9]{1,12})([kKmMgG]?)")


def parse_time(text: str, unit: str = "ms") -> float | None:
    """Return a time in seconds; None if it is none, or none that mailproxy can have.

    Args:
        text: The time.
        unit: The unit of a number without one.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    seconds = int(match[1]) * _SECONDS[match[2] or unit]
    return seconds if 0 < seconds <= _TIME_MAX_S else None


def duration(text: str, unit: str = "ms") -> str | None:
    """Return a time as mailproxy writes it; None if it is none. A variable of the environment is kept."""
    if has_variable(text):
        return text
    seconds = parse_time(text, unit)
    return None if seconds is None else write_duration(seconds)


def number(text: str) -> int | str | None:
    """Return a whole number, or the variable of the environment that has it; None if it is neither."""
    if re.fullmatch(r"[0-9]{1,10}", text) and int(text) < 2**31:
        return int(text)
    return text if has_variable(text) else None


def size(text: str) -> str | int | None:
    """Return a size such as ``200k``; None if it is none."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    return int(match[1]) if not match[2] else f"{int(match[1])}{match[2].lower()}"
