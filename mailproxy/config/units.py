"""Durations and sizes as people write them."""

from __future__ import annotations

import math
import re

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_LONGEST_S = (
    10 * 365 * 86400.0
)  # beyond this it is a slip, and far beyond it the clock's arithmetic loses its grain


def parse_duration(value: object) -> float:
    """``"300ms"``, ``"5s"``, ``"31m"``, ``"1h"``, ``"2d"`` or a number of seconds, as seconds; ValueError otherwise."""
    if isinstance(value, str):
        parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)?", value)
        if not parts:
            raise ValueError
        seconds = float(parts[1]) * _SECONDS[parts[2] or "s"]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValueError  # noqa: TRY004 - the caller wants one kind of error for every unfit value
    if not 0 <= seconds <= _LONGEST_S:  # nan is not, and an integer too large for a float is not converted
        raise ValueError
    return float(seconds)


def parse_size(value: object) -> int:
    """``"200k"`` = 204 800, ``"1m"``, ``"1g"`` or a number; ValueError otherwise."""
    if isinstance(value, str):
        parts = re.fullmatch(r"([0-9]{1,15})([kmg]?)", value.lower())
        if not parts:
            raise ValueError
        return int(parts[1]) * _BYTES[parts[2]]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError


def write_duration(seconds: float) -> str:
    """Seconds in the largest unit that divides them: ``31m``, ``300ms``."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and math.isclose(count, round(count)):
            return f"{round(count)}{unit}"
    return f"{seconds:g}s"
