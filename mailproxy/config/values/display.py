"""How values, names and texts are shown in messages."""

from __future__ import annotations

import re
from datetime import date, time

NAME_MAX = 128  # characters; a longer name would only make log lines long
_DISPLAY_MAX = 80  # characters of a value in a message


def to_display(value: object) -> str:
    """Return a value as it is written in the file, on one line and shortened to 80 characters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "a list of tables"
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, list):
        return _shorten(f"[{', '.join(map(to_display, value))}]")
    try:
        text = f'"{printable(value)}"' if isinstance(value, str) else repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
    return _shorten(text)


def _shorten(text: str) -> str:
    return text if len(text) <= _DISPLAY_MAX else text[: _DISPLAY_MAX - 4] + "…" + text[-1]


def printable(text: str) -> str:
    """Return the text on one line, with characters that do not print escaped as in TOML.

    No terminal acts on such a text.
    """
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def as_name(text: str) -> str:
    """Return a name made of an address: characters that a name cannot have become ``_``."""
    return re.sub(r"[^A-Za-z0-9_.:\[\]*/-]", "_", text)[:NAME_MAX]
