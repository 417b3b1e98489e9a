"""What to write instead of a key or value of another proxy.

The answers are in ``foreign_words``. The key of an answer is shown as it is written in the table that has the
foreign word: ``tls.client_ca`` in a frontend, ``client_ca`` in its ``tls``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mailproxy.config import model
from mailproxy.config.fields import keys_of
from mailproxy.config.lint.foreign_words import VALUES, WORDS, Hint

_CLIENT_SIDE = (model.Frontend, model.FrontendTimeouts, model.FrontendTls, model.Bind, model.Route)
_SERVER_SIDE = (
    model.Backend, model.BackendTimeouts, model.ServerTls, model.Server, model.Stick, model.Check, model.Step, model.Connect,
)  # fmt: skip
ROOTS: Mapping[str, tuple[type, str]] = {
    "process": (model.Process, "[process]"),
    "log": (model.Log, "[log]"),
    "tracing": (model.Tracing, "[tracing]"),
    "admin": (model.Admin, "[admin]"),
    "frontend": (model.Frontend, "a frontend"),
    "bind": (model.Bind, "a bind"),
    "route": (model.Route, "a route"),
    "backend": (model.Backend, "a backend"),
    "server": (model.Server, "a server"),
    "step": (model.Step, "a step of a check"),
}
TARGET = re.compile(rf"({'|'.join(ROOTS)})\.([a-z0-9_]+(?:\.[a-z0-9_]+)*)")

_VALUE = re.compile(r"( = [^,;]+)?")


def normalized(word: str) -> str:
    """Return a word as the table has it."""
    return re.sub(r"[-\s.]+", "_", word.strip().lower()).removeprefix("no_option_").removeprefix("option_")


def about_key(word: str, table: type | None) -> str:
    """Return what to write for a key of another proxy, or why mailproxy has no such key.

    Args:
        word: The unknown key.
        table: The class of the table that has it; None for the top of the file.

    Returns:
        The hint; empty for a word that is not known.
    """
    name = normalized(word)
    hint = WORDS.get(name) or (WORDS["tune"] if name.startswith("tune_") else None)
    answer = "" if hint is None else _answer(hint, table)
    target = TARGET.match(answer)
    if target is None:
        return answer if not answer or answer.startswith("not here") else f"write {answer}"
    placed = _key_in_table(target[1], target[2], table)
    value = _VALUE.match(answer, target.end())
    if placed is None or value is None:
        return ""
    key, owner = placed
    return f"write {key}{value[0]}{owner}{answer[value.end() :]}"


def about_value(key: str, value: object) -> str:
    """Return what to write for a value of another proxy; empty for a value that is not known."""
    word = str(value).lower() if isinstance(value, bool) else value
    return VALUES.get(key, {}).get(word, "") if isinstance(word, str) else ""


def _answer(hint: Hint, table: type | None) -> str:
    if table in _CLIENT_SIDE and hint.client:
        return hint.client
    if table in _SERVER_SIDE and hint.server:
        return hint.server
    return hint.elsewhere or hint.client or hint.server


def _key_in_table(root: str, path: str, table: type | None) -> tuple[str, str] | None:
    """Return a key of the model as it is written in a table.

    Args:
        root: Where the key's path begins, one of ``ROOTS``.
        path: The path of the key.
        table: The table.

    Returns:
        The key, and in words whose key it is if it belongs to another table. None for a key that this version
        does not have.
    """
    owner, title = ROOTS[root]
    names, tables = path.split("."), [owner]
    for name in names:
        key = keys_of(tables[-1]).get(name)
        if key is None:
            return None
        tables.append(key.table or type(None))
    for index in reversed(range(len(names))):
        if table is tables[index] or _has_same(table, tables[index], names[index]):
            return ".".join(names[index:]), ""
    return path, f" of {title}"


def _has_same(table: type | None, other: type, name: str) -> bool:
    """Whether a key has the same meaning in two tables, such as a key that servers inherit."""
    key, same = keys_of(table).get(name) if table else None, keys_of(other)[name]
    if key is None or key.is_list != same.is_list:
        return False
    return key.table is same.table if same.table else key.annotation == same.annotation
