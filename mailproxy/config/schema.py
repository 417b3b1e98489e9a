"""The JSON Schema of the configuration, for editors; made from the model."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from attrs import NOTHING

from mailproxy.config import model
from mailproxy.config.shape import SHORT_FORMS, SWITCHABLE, Key, keys_of
from mailproxy.config.values import LogTarget

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of a whole file, JSON Schema draft 2020-12."""
    layers = {
        "frontend": _table(model.Frontend, without=("name",)),
        "bind": _table(model.Bind, without=("name",)),
        "backend": _table(model.Backend, without=("name",)),
        "server": _table(model.Server, without=("name",)),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mailproxy configuration",
        "type": "object",
        "additionalProperties": False,
        "required": ["frontends"],
        "properties": {
            "process": _table(model.Process),
            "log": _table(model.Log),
            "admin": _table(model.Admin),
            "defaults": _closed(layers, "what holds for those that do not say otherwise"),
            "profiles": _named(_closed(layers, "the same under a name")),
            "frontends": _named(_table(model.Frontend, without=("name",))),
            "backends": _named(_table(model.Backend, without=("name",))),
        },
    }


def _closed(properties: Schema, description: str) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "description": description,
        "properties": properties,
    }


def _named(table: Schema) -> Schema:
    return {"type": "object", "additionalProperties": table}


def _table(table: type, *, without: tuple[str, ...] = ()) -> Schema:
    # Nothing is required here: what one table lacks another layer may give.
    properties = {name: _key(key) for name, key in keys_of(table).items() if name not in without}
    return _closed(properties, (table.__doc__ or "").splitlines()[0])


def _key(key: Key) -> Schema:
    schema = _value(key)
    if key.many:
        schema = {"type": "array", "items": schema}
    schema = {**schema, "description": key.meaning}
    if key.shown:
        schema["description"] += f" (default: {key.shown})"
    elif key.default not in (None, NOTHING) and not key.table:
        schema["default"] = plain(key.default)
    return schema


def _value(key: Key) -> Schema:
    if key.table is None:
        assert key.kind is not None  # noqa: S101 - a key without table has a kind
        # a variable of the environment may stand for any number or truth, or be a part of a string
        return (
            dict(key.kind.schema)
            if _takes_all_strings(key)
            else {"anyOf": [dict(key.kind.schema), {"type": "string", "pattern": r"\$\{"}]}
        )
    choices: list[Schema] = [_table(key.table)]
    if key.kind is not None:
        choices.append({"type": "boolean"})
    elif key.table in SWITCHABLE and not key.many:
        choices.append({"const": False})
    if key.table in SHORT_FORMS:
        choices.append(_value(keys_of(key.table)[SHORT_FORMS[key.table]]))
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _takes_all_strings(key: Key) -> bool:
    schema = key.kind.schema if key.kind else {}
    return schema.get("type") == "string" and "pattern" not in schema


def plain(value: object) -> object:
    """A default as JSON has it."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, (LogTarget, PurePath)) else value
