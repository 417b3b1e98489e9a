"""TOML text to tables, and the errors of the TOML parser as messages that say what to write."""

from __future__ import annotations

import re
from typing import Any

import tomli

from mailproxy.config.path import ROOT_PATH
from mailproxy.config.source.source_map import line_and_column
from mailproxy.config.values import printable
from mailproxy.errors import Fault

_WORD = re.compile(r"[^\s,\[\]{}#=\"']+")
_PYTHON_KEY = re.compile(r"\((?:(?:'[^']*'|\"[^\"]*\")(?:, |,)?)+\)")
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")
_TRUTHS = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
_SHOWN_MAX = 40  # characters of a word in a message

# What to report instead of the parser's message.
_MESSAGES = {
    "Unclosed array": "a list is not closed, or a comma is missing between two of its items",
    "Unclosed inline table": "a table is not closed, or a comma is missing between two of its keys",
    "Unterminated string": "a closing quote is missing",
    "Illegal character '\\n'": "a closing quote is missing at the end of the line",
    "Expected '=' after a key in a key/value pair": "a key is followed by = and its value; a table's name is in [brackets]",
    "Cannot overwrite a value": "the key is given twice in its table",
    "Unescaped '\\' in a string": "write \\\\ for a backslash, or put the string in 'single quotes'",
}
_VALUE_ERRORS = (
    "Invalid value",
    "Expected newline or end of document after a statement",
    "Unclosed array",
    "Unclosed inline table",
)


class SyntaxFault(Exception):  # noqa: N818 - carries the fault that is reported, and is not reported itself
    """The text is not TOML.

    Attributes:
        fault: What is wrong, with line and column.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def decode(data: bytes) -> str:
    """Return the text of a file. Raises SyntaxFault if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        fact = f"is not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
        line, column = line_and_column(before, len(before))
        raise SyntaxFault(Fault("", fact, line=line, column=column)) from None


def parse(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        SyntaxFault: The text is not TOML.
        ValueError: A number has more digits than Python converts.
        RecursionError: Lists or tables are nested too deeply.
    """
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        fact = f"is not TOML: {_describe(error)}"
        raise SyntaxFault(Fault("", fact, line=error.lineno, column=error.colno)) from None


def _describe(error: tomli.TOMLDecodeError) -> str:
    if error.msg in _VALUE_ERRORS and (remedy := _value_remedy(error)):
        return remedy
    if error.msg in _MESSAGES:
        return _MESSAGES[error.msg]
    message = _PYTHON_KEY.sub(lambda match: _dotted(match[0]), error.msg)
    twice = re.fullmatch(
        r"Cannot (?:declare|redefine namespace|mutate immutable namespace) (.+?)(?: twice)?", message
    )
    if twice:
        return (
            f"{twice[1]} is given twice: write [{twice[1]}] once, or [[{twice[1]}]] for each table of a list"
        )
    return message


def _dotted(key: str) -> str:
    """Return a key that the parser shows as a Python tuple, such as ``('a', 'b c')``, as TOML writes it."""
    return str(ROOT_PATH.joinpath(*(double or single for double, single in _QUOTED.findall(key))))


def _value_remedy(error: tomli.TOMLDecodeError) -> str:
    """Return what to write instead of a word without quotes; empty if the error is about something else."""
    line_start = error.doc.rfind("\n", 0, error.pos) + 1
    line = error.doc[line_start:].partition("\n")[0]
    column = error.pos - line_start
    word = next((match for match in _WORD.finditer(line) if match.start() <= column < match.end()), None)
    if word is None or (error.msg != "Invalid value" and word.start() == column):
        return ""  # the parser stopped between two values
    shown, lower = printable(word[0][:_SHOWN_MAX]), word[0].lower()
    if truth := _TRUTHS.get(lower):
        return f"{shown} is no value: write {truth}"
    return f'{shown} is no value: strings stand in quotes, "{shown}"'
