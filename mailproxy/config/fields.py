"""The keys of the model's classes, computed once: names, value types, nested tables, lists."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

import attrs
from attrs import frozen

from mailproxy.config import model
from mailproxy.config.values import VALUE_TYPES, ValueType, value_type_of

# Tables that ``false`` switches off where they would be inherited.
SWITCHABLE = (model.FrontendTls, model.SessionRate, model.ServerTls, model.Stick, model.Check)
# Tables with a short form, and the key whose value the short form is.
SHORT_FORMS = {
    model.Server: "address",
    model.Bind: "address",
    model.Check: "type",
    model.CertificateFiles: "certificate",
}
# Tables that inherit nothing: a required key must be in the table itself.
COMPLETE = (model.CertificateFiles,)


@frozen(kw_only=True)
class Key:
    """One key of a table.

    Attributes:
        name: The name in the file.
        attribute: The name in the model's class.
        annotation: The type, without ``| None``, and of a list that of its items.
        value_type: What a single value must be; None for a table.
        table: The class of a table; None for a single value. Keys such as ``check.tls`` take either, and have
            both.
        is_list: Whether the key takes a list of such values or tables.
        description: The meaning, as a cell of the documentation's table.
        details: Sentences that the documentation has below the table; may be empty.
        supported: The values that this version can use; None for all.
        default: The default; ``attrs.NOTHING`` for a required key.
        default_text: The default in words where it is computed; else empty.
    """

    name: str
    attribute: str
    annotation: Any
    value_type: ValueType | None
    table: type[Any] | None
    is_list: bool
    description: str
    details: str
    supported: tuple[object, ...] | None
    default: object
    default_text: str

    @property
    def required(self) -> bool:
        """Whether the key has no default."""
        return self.default is attrs.NOTHING


# a dictionary, because the type checker does not take classes for hashable arguments of functools.cache
_keys: dict[type[Any], Mapping[str, Key]] = {}


def keys_of(table: type[Any]) -> Mapping[str, Key]:
    """Return the keys of a table by their names in the file."""
    if table not in _keys:
        attrs.resolve_types(table)
        _keys[table] = {key.name: key for key in map(_key, attrs.fields(table))}
    return _keys[table]


def _key(attribute: attrs.Attribute[Any]) -> Key:
    annotation = without_none(attribute.type)
    value_type, table, is_list = value_type_of(annotation), None, False
    if value_type is None and get_origin(annotation) is tuple:
        annotation, is_list = get_args(annotation)[0], True
        value_type = value_type_of(annotation)
    if value_type is None:
        members = get_args(annotation) or (annotation,)
        table = next((member for member in members if attrs.has(member)), None)
        value_type = VALUE_TYPES[bool] if bool in members else None
    default = attribute.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types Factory as a function
        default = ()
    return Key(
        name=attribute.name.rstrip("_"), attribute=attribute.name, annotation=annotation, value_type=value_type, table=table,
        is_list=is_list, default=default, **attribute.metadata,
    )  # fmt: skip


def without_none(annotation: Any) -> Any:
    """Return an annotation without ``| None``."""
    members = get_args(annotation)
    if get_origin(annotation) not in (Union, types.UnionType) or type(None) not in members:
        return annotation
    return functools.reduce(operator.or_, [member for member in members if member is not type(None)])
