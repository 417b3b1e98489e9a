"""Times and numbers of nginx and Caddy."""

from __future__ import annotations

import re

from mailproxy.config.units import write_duration
from mailproxy.importers.place import has_variable

_SECONDS = {
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 7 * 86400.0,
    "M": 30 * 86400.0,
    "y": 365 * 86400.0,
}
_PART = re.compile(r"([0-9]{1,12})(ms|[smhdwMy])?\s*")
_TIME_MAX_S = 10 * 365 * 86400.0


def duration(text: str) -> str | None:
    """Return a time such as ``10m`` or ``1h30m`` as mailproxy writes it; None if it is none, or 0."""
    if has_variable(text):
        return text
    seconds, at = 0.0, 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            return None
        seconds += int(match[1]) * _SECONDS[match[2] or "s"]
        at = match.end()
    return write_duration(seconds) if 0 < seconds <= _TIME_MAX_S else None


def number(text: str) -> int | str | None:
    """Return a whole number, or the variable of the environment that has it; None if it is neither."""
    if re.fullmatch(r"[0-9]{1,10}", text) and int(text) < 2**31:
        return int(text)
    return text if has_variable(text) else None
