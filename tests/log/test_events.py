"""Events: the table has every event that the code logs, with the keys that the code passes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mailproxy.log import events
from mailproxy.log.events import EVENTS, LEVELS, Event

PACKAGE = Path(events.__file__).parents[1]
EVENT_CONSTANTS = {name: value for name, value in vars(events).items() if isinstance(value, Event)}


@cache
def modules() -> dict[Path, ast.Module]:
    """Return every module of the package, parsed."""
    return {file: ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}


def logging_calls() -> Iterator[tuple[str, Event, set[str]]]:
    """Yield every call that logs a named event: its position, the event, and the keys of its data."""
    for file, tree in modules().items():
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="event" | "_log_server_event"),
                    args=[ast.Name(id=name), *_],
                    keywords=keywords,
                ) if name in EVENT_CONSTANTS:
                    keys = {keyword.arg for keyword in keywords if keyword.arg is not None}
                    yield f"{file.name}:{node.lineno}", EVENT_CONSTANTS[name], keys


def test_events_are_defined_in_one_module() -> None:
    """Otherwise an event could be missing in the table."""
    elsewhere = [
        f"{file}:{node.lineno}"
        for file, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Event"
        if file.name != "events.py"
    ]
    assert not elsewhere
    assert set(EVENTS) == set(EVENT_CONSTANTS.values())


def test_every_event_is_used() -> None:
    names = {
        node.id
        for file, tree in modules().items()
        if file.name != "events.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Name)
    }
    assert set(EVENT_CONSTANTS) <= names


def test_logged_keys_are_documented() -> None:
    calls = list(logging_calls())
    assert len(calls) > 15
    for position, event, keys in calls:
        assert keys <= set(event.keys), f"{position}: {event.name}"


def test_names_are_hyphenated_words_and_meanings_one_line() -> None:
    assert len({event.name for event in EVENTS}) == len(EVENTS)
    for event in EVENTS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", event.name)
        assert event.level in LEVELS
        assert event.meaning
        assert not set(event.meaning) & set("\n|")
