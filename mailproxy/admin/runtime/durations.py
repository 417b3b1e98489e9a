"""Durations as HAProxy's commands take them."""

from __future__ import annotations

import re

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


def parse_cli_duration(text: str) -> float | None:
    """Return the seconds of a whole number with a unit, or without one for seconds; None if it is no duration."""
    match = re.fullmatch(r"([0-9]{1,9})(us|ms|s|m|h|d|)", text)
    return None if match is None else int(match[1]) * _UNITS[match[2]]
