"""Events: the table has every one that the code logs, with the keys that it logs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mailproxy.log import events
from mailproxy.log.events import EVENTS, LEVELS, Event

PACKAGE = Path(events.__file__).parents[1]
MODULES = {file: ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}
BY_CONSTANT = {name: value for name, value in vars(events).items() if isinstance(value, Event)}


def logged() -> Iterator[tuple[str, Event, set[str]]]:
    """Every call that logs an event named in place: where it stands, the event, the keys of its data."""
    for file, tree in MODULES.items():
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="event" | "_tell"),
                    args=[ast.Name(id=name), *_],
                    keywords=keywords,
                ) if name in BY_CONSTANT:
                    keys = {keyword.arg for keyword in keywords if keyword.arg is not None}
                    yield f"{file.name}:{node.lineno}", BY_CONSTANT[name], keys


def test_events_are_made_in_one_module_only() -> None:
    """So that the table has them all."""
    elsewhere = [
        f"{file}:{node.lineno}"
        for file, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Event"
        if file.name != "events.py"
    ]
    assert not elsewhere
    assert set(EVENTS) == set(BY_CONSTANT.values())


def test_every_event_is_used() -> None:
    names = {
        node.id
        for file, tree in MODULES.items()
        if file.name != "events.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Name)
    }
    assert set(BY_CONSTANT) <= names


def test_an_event_has_the_keys_that_are_documented() -> None:
    found = list(logged())
    assert len(found) > 15
    for place, event, keys in found:
        assert keys <= set(event.keys), f"{place}: {event.name}"


def test_names_are_words_for_a_search_and_meanings_one_line() -> None:
    assert len({event.name for event in EVENTS}) == len(EVENTS)
    for event in EVENTS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", event.name)
        assert event.level in LEVELS
        assert event.meaning
        assert not set(event.meaning) & set("\n|")
