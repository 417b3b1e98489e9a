"""Durations such as ``"300ms"`` and sizes such as ``"200k"``."""

from __future__ import annotations

import math
import re

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)?")
# A longer duration is a mistake, and far beyond it the arithmetic of clocks loses precision.
_DURATION_MAX_S = 10 * 365 * 86400.0


def parse_duration(value: object) -> float:
    """Return a duration in seconds, from ``"300ms"``, ``"5s"``, ``"31m"``, ``"1h"``, ``"2d"`` or a number.

    Raises:
        ValueError: It is none of these, or longer than ten years.
    """
    if isinstance(value, str):
        parts = _DURATION.fullmatch(value)
        if not parts:
            raise ValueError
        seconds = float(parts[1]) * _SECONDS[parts[2] or "s"]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValueError  # noqa: TRY004 - one kind of error for every invalid value
    # The comparison is false for nan. An integer too large for a float is compared as it is.
    if not 0 <= seconds <= _DURATION_MAX_S:
        raise ValueError
    return float(seconds)


def parse_size(value: object) -> int:
    """Return a size from ``"200k"`` (204,800), ``"1m"``, ``"1g"`` or a number.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, str):
        parts = re.fullmatch(r"([0-9]{1,15})([kmg]?)", value.lower())
        if not parts:
            raise ValueError
        return int(parts[1]) * _BYTES[parts[2]]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError


def write_duration(seconds: float) -> str:
    """Return seconds in the largest unit that divides them: ``31m``, ``300ms``."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and math.isclose(count, round(count)):
            return f"{round(count)}{unit}"
    return f"{seconds:g}s"
