"""How the model's classes declare their keys."""

from __future__ import annotations

from typing import Any

from attrs import Factory, field

REQUIRED: Any = object()


def setting(
    description: str,
    default: Any = REQUIRED,
    *,
    default_text: str = "",
    supported: tuple[object, ...] | None = None,
    details: str = "",
) -> Any:
    """Declare a key of the configuration.

    Args:
        description: What the key means, in at most 15 words: a cell of the table in the documentation.
        default: The value if no layer has the key, or a class that makes it. None means that there is no
            value, or that the default is computed as ``default_text`` says.
        default_text: The default in words, where it is computed.
        supported: The values that this version can use; None for all.
        details: Sentences that do not fit the description. The documentation has them below the table.
    """
    metadata = {
        "description": description,
        "default_text": default_text,
        "supported": supported,
        "details": details,
    }
    if default is REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, type):
        return field(default=Factory(default), metadata=metadata)
    return field(default=default, metadata=metadata)
