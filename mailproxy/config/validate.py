"""Validation of each table where it is written: unknown keys, invalid values, values of a later version.

Every table is validated, also in defaults and in profiles that no table uses. So a fault names the line that
has to change, not the table that inherits it. Missing keys are found later, when the layers are merged
(``build``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.fields import COMPLETE, SHORT_FORMS, SWITCHABLE, Key, keys_of
from mailproxy.config.layers import Table
from mailproxy.config.lint.hints import about_value
from mailproxy.config.lint.unknown_keys import describe_unknown_key
from mailproxy.config.path import ConfigPath
from mailproxy.config.units import write_duration
from mailproxy.config.values import (
    VALUE_TYPES,
    Account,
    Expanded,
    InvalidValueError,
    Mode,
    PositiveSeconds,
    ProxySource,
    Seconds,
    ValueType,
    printable,
    to_display,
)


def check_named(
    value: object, path: ConfigPath, diagnostics: Diagnostics, *, example: str = ""
) -> Mapping[str, object]:
    """Validate a table of named tables, such as ``frontends``; return it, or an empty one if it is no table.

    Args:
        value: What the file has.
        path: Where it is written.
        diagnostics: Gets the faults.
        example: What to add to the fault.
    """
    if not isinstance(value, dict):
        diagnostics.drop(path, f"{to_display(value)} is not allowed: a table for each name{example}")
        return {}
    return value


def check_table(
    table_type: type,
    value: object,
    path: ConfigPath,
    diagnostics: Diagnostics,
    *,
    without: tuple[str, ...] = (),
) -> Table:
    """Validate a table; return it without its invalid keys, and with short forms written out.

    Args:
        table_type: The model's class.
        value: What the file has.
        path: Where it is written.
        diagnostics: Gets the faults.
        without: Keys of the class that cannot be written here, such as the name of a named table.
    """
    if not isinstance(value, dict):
        allowed = f"a table, [{path}] with one pair of brackets" if _is_list_of_tables(value) else "a table"
        diagnostics.drop(path, f"{to_display(value)} is not allowed: {allowed}")
        return {}
    keys = {name: key for name, key in keys_of(table_type).items() if name not in without}
    valid: Table = {}
    for name, item in value.items():
        key_path = path / name
        if diagnostics.is_invalid(key_path):  # its environment variable is missing, which is reported
            continue
        key = keys.get(name)
        if key is None:
            diagnostics.drop(key_path, describe_unknown_key(name, keys, table_type))
            continue
        checked = _check_key(key, item, key_path, diagnostics)
        if not diagnostics.is_invalid(key_path):
            valid[name] = checked
    return valid


def _check_key(key: Key, value: object, path: ConfigPath, diagnostics: Diagnostics) -> object:
    if key.is_list:
        checked = _check_list(key, value, path, diagnostics)
    elif key.table is not None:
        checked = _check_nested(key, key.table, value, path, diagnostics)
    else:
        assert key.value_type is not None  # noqa: S101 - a key without table has a value type
        checked = _check_value(key.value_type, value, path, diagnostics)
    if key.supported is not None and not diagnostics.is_invalid(path) and not _is_supported(key, checked):
        supported = " or ".join(to_toml(key, value) for value in key.supported if value is not None)
        only = f": only {supported}" if supported else ""
        diagnostics.drop(path, f"{to_display(value)} is not supported yet{only}")
    return checked


def _check_value(value_type: ValueType, value: object, path: ConfigPath, diagnostics: Diagnostics) -> object:
    try:
        structured = value_type.structure(value)
    except InvalidValueError as error:
        remedy = about_value(path.key, value) or _suggest_form(value_type, value)
        diagnostics.drop(path, f"{to_display(value)} is not allowed: {remedy}" if remedy else str(error))
        return value
    # A boolean from a variable of the environment is still the text "true" or "false". As text, both are true
    # in Python.
    return structured if isinstance(structured, bool) else value


def _suggest_form(value_type: ValueType, value: object) -> str:
    """Return how to write a value that is valid but for its quotes or brackets, else an empty string."""
    if isinstance(value, str) and _is_valid(value_type, Expanded(value)):
        return f"without quotes, {printable(value)}"
    if isinstance(value, str) and _is_valid(value_type, [value]):
        return f"in a list, [{to_display(value)}]"
    # Any number is a valid text, once in quotes. That is a remedy only where the text must have a certain
    # form.
    has_form = "enum" in value_type.schema or "pattern" in value_type.schema
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and value_type is VALUE_TYPES[Account]:
        return f'write "#{value}"'
    if is_number and has_form and _is_valid(value_type, to_display(value)):
        return f'in quotes, "{value}"'
    return ""


def _is_valid(value_type: ValueType, value: object) -> bool:
    try:
        value_type.structure(value)
    except ValueError:
        return False
    return True


def _check_list(key: Key, value: object, path: ConfigPath, diagnostics: Diagnostics) -> object:
    if not isinstance(value, list):
        diagnostics.drop(path, f"{to_display(value)} is not allowed: {_describe_list(key, value, path)}")
        return value
    items: list[object] = []
    is_one_value = key.table is None or key.table in COMPLETE
    for index, item in enumerate(value):
        item_path = path / index
        # An item whose environment variable is missing is reported already. It becomes an empty table, so that
        # the items behind it keep their indexes.
        is_lost = diagnostics.is_invalid(item_path)
        items.append({} if is_lost else _check_item(key, item, item_path, diagnostics))
        # Lists of tables keep their other items. Every other list is one value: it is invalid if any of its
        # items is.
        if is_one_value and diagnostics.is_invalid(item_path):
            diagnostics.mark_invalid(path)
    return items


def _check_item(key: Key, item: object, path: ConfigPath, diagnostics: Diagnostics) -> object:
    if key.table in COMPLETE:
        return _check_complete(key.table, item, path, diagnostics)
    if key.table is not None:
        return check_table(key.table, _long_form(key.table, item), path, diagnostics)
    assert key.value_type is not None  # noqa: S101 - a key without table has a value type
    return _check_value(key.value_type, item, path, diagnostics)


def _describe_list(key: Key, value: object, path: ConfigPath) -> str:
    """Return what to write instead of a value that is no list."""
    value_type = _type_of_items(key)
    if value_type is None:
        is_short = isinstance(value, str) and key.table in SHORT_FORMS
        return f"a list{f', [{to_display(value)}], or' if is_short else ' of'} tables, [[{path}]]"
    if not isinstance(value, bool) and _is_valid(value_type, value):
        return f"a list, [{to_display(value)}]"
    example = ', such as ["10.0.0.0/8"]' if value is True and value_type is VALUE_TYPES[ProxySource] else ""
    return f"a list{example}; each {value_type.allowed}"


def _type_of_items(key: Key) -> ValueType | None:
    """Return the type of a list's items, or of their short form; None for tables that inherit."""
    if key.table in COMPLETE:
        return keys_of(key.table)[SHORT_FORMS[key.table]].value_type
    return None if key.table else key.value_type


def _check_complete(table: type[Any], value: object, path: ConfigPath, diagnostics: Diagnostics) -> Table:
    """Validate a table that inherits nothing, or its short form.

    Its path is invalid if any of its keys is, or if a required key is missing.
    """
    keys = keys_of(table)
    short = keys[SHORT_FORMS[table]]
    if not isinstance(value, dict):
        assert short.value_type is not None  # noqa: S101 - short forms are single values
        return {short.name: _check_value(short.value_type, value, path, diagnostics)}
    checked = check_table(table, value, path, diagnostics)
    missing = [key for key in keys.values() if key.required and key.name not in value]
    for key in missing:
        diagnostics.add(path, f"{key.name} is missing: {key.description}")
    if missing or diagnostics.is_invalid(path, subtree=True):
        diagnostics.mark_invalid(path)
    return checked


def _check_nested(key: Key, table: type, value: object, path: ConfigPath, diagnostics: Diagnostics) -> object:
    if value is False and table in SWITCHABLE:
        return False
    if key.value_type is not None and not isinstance(value, (dict, list)):
        return _check_value(key.value_type, value, path, diagnostics)
    return check_table(table, _long_form(table, value), path, diagnostics)


def _long_form(table: type, value: object) -> object:
    short = SHORT_FORMS.get(table)
    return {short: value} if short and isinstance(value, str) else value


def _is_supported(key: Key, value: object) -> bool:
    if value is False and key.table is not None:
        return True
    if isinstance(value, list):
        value = tuple(value)
    if key.value_type is not None and not key.is_list:
        value = key.value_type.structure(value)
    # the types are compared, because 1 == True
    return any(
        value == supported and isinstance(value, bool) == isinstance(supported, bool)
        for supported in key.supported or ()
    )


def to_toml(key: Key, value: Any) -> str:
    """Return a value of a key as it is written in the file."""
    if key.annotation in (Seconds, PositiveSeconds) and value is not None:
        return f'"{write_duration(value)}"'
    if key.annotation is Mode:
        return f'"{value:04o}"'
    return "[]" if value == () else to_display(value)


def _is_list_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
