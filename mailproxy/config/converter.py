"""The converter that makes the model's classes of valid tables."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from mailproxy.address import BindAddress, ServerAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.fields import SHORT_FORMS, keys_of, without_none
from mailproxy.config.values import VALUE_TYPES, LogTarget, value_type_of

_T = TypeVar("_T")


# To make a converter takes 10 ms, and tests of embedding programs read many small configurations.
@lru_cache(maxsize=4)
def make_converter(folder: Path) -> cattrs.Converter:
    """Return a converter with a strict hook for every value type; it makes paths absolute."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def structure(value: object, annotation: Any) -> Any:
        annotation = without_none(annotation)
        value_type = value_type_of(annotation)
        assert value_type is not None  # noqa: S101 - the hook is for value types only
        return _absolute(value_type.structure(value), annotation, folder)

    converter.register_structure_hook_func(
        lambda annotation: value_type_of(without_none(annotation)) is not None, structure
    )
    for annotation in VALUE_TYPES:
        if isinstance(annotation, type):  # cattrs' own hooks for plain classes would come first
            converter.register_structure_hook(annotation, structure)
    converter.register_structure_hook_func(
        lambda annotation: without_none(annotation) == model.ServerTls | bool,
        lambda value, _: value if isinstance(value, bool) else converter.structure(value, model.ServerTls),
    )
    converter.register_structure_hook_func(
        lambda annotation: annotation == model.KeepAlive | bool,
        lambda value, _: value if isinstance(value, bool) else converter.structure(value, model.KeepAlive),
    )
    for table in (*SHORT_FORMS, model.Step):
        _register_table(converter, table)
    return converter


def _register_table(converter: cattrs.Converter, table: type[_T]) -> None:
    renamed = {
        key.attribute: cattrs.gen.override(rename=key.name)
        for key in keys_of(table).values()
        if key.attribute != key.name
    }
    from_dict = cattrs.gen.make_dict_structure_fn(table, converter, _cattrs_forbid_extra_keys=True, **renamed)  # type: ignore[arg-type]
    short = SHORT_FORMS.get(table)

    def structure(value: Any, _type: object) -> Any:
        return from_dict({short: value} if short and isinstance(value, str) else value, table)

    converter.register_structure_hook(table, structure)


def _absolute(value: Any, annotation: Any, folder: Path) -> Any:
    if annotation is Path:
        return folder / value
    if annotation is LogTarget and value.path is not None:
        return LogTarget(str(folder / value.path))
    if annotation in (BindAddress, ServerAddress) and isinstance(value, UnixAddress):
        return UnixAddress(str(folder / value.path))
    return value
