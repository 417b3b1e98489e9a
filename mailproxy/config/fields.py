"""What the model's classes say about their keys, worked out once: names, kinds, nested tables, lists."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

import attrs
from attrs import frozen

from mailproxy.config import model
from mailproxy.config.values import KINDS, ValueType, value_type_of

# Tables that false switches off where they would be inherited.
SWITCHABLE = (model.FrontendTls, model.SessionRate, model.ServerTls, model.Stick, model.Check)
# Tables with a short form, and the key that the short form stands for.
SHORT_FORMS = {
    model.Server: "address",
    model.Bind: "address",
    model.Check: "type",
    model.CertificateFiles: "certificate",
}
# Tables that inherit nothing: what they lack no other layer gives.
COMPLETE = (model.CertificateFiles,)


@frozen(kw_only=True)
class Key:
    """One key of a table. Exactly one of ``kind`` and ``table`` is set, except that TLS of a check may be both."""

    name: str
    attribute: str
    annotation: Any
    kind: ValueType | None
    table: type[Any] | None
    is_list: bool
    description: str
    supported: tuple[object, ...] | None
    default: object
    default_text: str

    @property
    def required(self) -> bool:
        return self.default is attrs.NOTHING


def keys_of(table: type[Any]) -> Mapping[str, Key]:
    """The keys of a table by the name that they have in the file."""
    if table not in _known:
        attrs.resolve_types(table)
        _known[table] = {key.name: key for key in map(_key, attrs.fields(table))}
    return _known[table]


_known: dict[type[Any], Mapping[str, Key]] = {}


def _key(attribute: attrs.Attribute[Any]) -> Key:
    annotation = without_none(attribute.type)
    kind, table, many = value_type_of(annotation), None, False
    if kind is None and get_origin(annotation) is tuple:
        annotation, many = get_args(annotation)[0], True
        kind = value_type_of(annotation)
    if kind is None:
        members = get_args(annotation) or (annotation,)
        table = next((member for member in members if attrs.has(member)), None)
        kind = KINDS[bool] if bool in members else None
    default = attribute.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types Factory as a function
        default = ()
    return Key(
        name=attribute.name.rstrip("_"), attribute=attribute.name, annotation=annotation, kind=kind, table=table,
        is_list=many, description=attribute.metadata["meaning"], supported=attribute.metadata["only"], default=default,
        default_text=attribute.metadata["shown"],
    )  # fmt: skip


def without_none(annotation: Any) -> Any:
    """An annotation with ``| None`` taken off."""
    if get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation):
        rest = [member for member in get_args(annotation) if member is not type(None)]
        union: Any = rest[0]
        for member in rest[1:]:
            union = union | member
        return union
    return annotation
