"""The JSON Schema of the configuration, made from the model for editors."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from attrs import NOTHING

from mailproxy.config import model
from mailproxy.config.fields import COMPLETE, SHORT_FORMS, SWITCHABLE, Key, keys_of
from mailproxy.config.values import LogTarget

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Return the schema of a configuration file, by JSON Schema draft 2020-12."""
    tables = _Tables()
    layers = {
        "frontend": tables.nameless(model.Frontend),
        "bind": tables.nameless(model.Bind),
        "backend": tables.nameless(model.Backend),
        "server": tables.nameless(model.Server),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mailproxy configuration",
        "type": "object",
        "additionalProperties": False,
        "required": ["frontends"],
        "properties": {
            "process": tables.named(model.Process),
            "log": tables.named(model.Log),
            "tracing": tables.named(model.Tracing),
            "admin": tables.named(model.Admin),
            "metrics": tables.named(model.Metrics),
            "acme": _by_name(tables.nameless(model.Acme)),
            "defaults": _closed(layers, "defaults of all frontends, binds, backends and servers"),
            "profiles": _by_name(_closed(layers, "defaults of those tables that name this profile")),
            "frontends": _by_name(tables.nameless(model.Frontend)),
            "backends": _by_name(tables.nameless(model.Backend)),
        },
        "$defs": tables.definitions,
    }


class _Tables:
    """The schemas of tables, each once under ``$defs``, and references to them."""

    def __init__(self) -> None:
        self.definitions: Schema = {}

    def named(self, table: type) -> Schema:
        """Return a reference to a table with all of its keys."""
        return self._refer(table, table.__name__, ())

    def nameless(self, table: type) -> Schema:
        """Return a reference to a table whose name is in its heading, or has no meaning."""
        return self._refer(table, f"{table.__name__}Body", ("name",))

    def _refer(self, table: type, title: str, without: tuple[str, ...]) -> Schema:
        if title not in self.definitions:
            properties = {name: self._key(key) for name, key in keys_of(table).items() if name not in without}
            schema = _closed(properties, (table.__doc__ or "").splitlines()[0])
            # other tables require nothing, because another layer may have the key
            if table in COMPLETE:
                schema["required"] = [name for name, key in keys_of(table).items() if key.required]
            self.definitions[title] = schema
        return {"$ref": f"#/$defs/{title}"}

    def _key(self, key: Key) -> Schema:
        schema = self._value(key)
        if key.is_list:
            schema = {"type": "array", "items": schema}
        description = key.description
        if key.default_text:
            description += f" (default: {key.default_text})"
        if key.details:
            description += f". {key.details}"
        schema = {**schema, "description": description}
        if not key.default_text and key.default not in (None, NOTHING) and not key.table:
            schema["default"] = plain(key.default)
        return schema

    def _value(self, key: Key) -> Schema:
        if key.table is None:
            return _scalar(key)
        choices: list[Schema] = [self.named(key.table)]
        if key.value_type is not None:
            choices.append({"type": "boolean"})
        elif key.table in SWITCHABLE and not key.is_list:
            choices.append({"const": False})
        if key.table in SHORT_FORMS:
            choices.append(_scalar(keys_of(key.table)[SHORT_FORMS[key.table]]))
        return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _closed(properties: Schema, description: str) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "description": description,
        "properties": properties,
    }


def _by_name(table: Schema) -> Schema:
    return {"type": "object", "additionalProperties": table}


def _scalar(key: Key) -> Schema:
    assert key.value_type is not None  # noqa: S101 - a key without table has a value type
    if _takes_all_strings(key):
        return dict(key.value_type.schema)
    # the value may also be a string with a variable of the environment
    return {"anyOf": [dict(key.value_type.schema), {"type": "string", "pattern": r"\$\{"}]}


def _takes_all_strings(key: Key) -> bool:
    schema = key.value_type.schema if key.value_type else {}
    return schema.get("type") == "string" and "pattern" not in schema


def plain(value: object) -> object:
    """Return a default as a JSON value."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, (LogTarget, PurePath)) else value
