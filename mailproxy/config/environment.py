"""Variables of the environment in the strings of a configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.path import ConfigPath
from mailproxy.config.values import Expanded, to_display

_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{)")


def expand(value: Any, path: ConfigPath, diagnostics: Diagnostics) -> Any:
    """Replace variables of the environment in every string of nested tables and lists.

    ``${NAME}`` and ``${NAME:-default}`` are variables, ``$$`` is a dollar sign.
    """
    if isinstance(value, Mapping):
        return {str(name): expand(item, path / str(name), diagnostics) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [expand(item, path / index, diagnostics) for index, item in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$$":
            return "$"
        if name is None:
            allowed = "${NAME}, ${NAME:-default}, or $$ for a dollar sign"
            diagnostics.drop(path, f"{to_display(value)} is not allowed: {allowed}")
            return ""
        if name not in os.environ and default is None:
            diagnostics.drop(path, f"the environment has no {name}")
            return ""
        # as in a shell, an empty variable counts as absent where there is a default
        return os.environ.get(name, "") or default or ""

    text = _VARIABLE.sub(replace, value)
    # A string that is one variable and nothing else may also be a number or a boolean.
    return Expanded(text) if _VARIABLE.fullmatch(value) else text
