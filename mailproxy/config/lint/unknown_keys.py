"""What to write instead of an unknown key or name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mailproxy.config import model
from mailproxy.config.fields import keys_of
from mailproxy.config.lint.hints import about_key
from mailproxy.config.values import printable

# Below the first, difflib's similarity suggests nothing. From the second on, a key of the same table is a
# better answer than the same key of another table.
_MIN_SIMILARITY = 0.6
_CLOSE_SIMILARITY = 0.8

_TITLES = {
    "a frontend": model.Frontend, "a frontend's timeouts": model.FrontendTimeouts, "a frontend's tls": model.FrontendTls,
    "max_session_rate_per_client": model.SessionRate, "a bind": model.Bind, "a route": model.Route, "a backend": model.Backend,
    "a backend's timeouts": model.BackendTimeouts, "a backend's tls": model.ServerTls, "a server": model.Server,
    "a check": model.Check, "stick": model.Stick, "[process]": model.Process, "[acme.NAME]": model.Acme, "[log]": model.Log,
    "[tracing]": model.Tracing,
}  # fmt: skip


def suggest_nearest(name: str, known: Iterable[str], *, min_similarity: float = _MIN_SIMILARITY) -> str:
    """Return ``, did you mean …?`` if a known name is similar, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=min_similarity)
    return f", did you mean {printable(close[0])}?" if close else ""


def describe_unknown_key(name: str, known: Iterable[str], table: type | None = None) -> str:
    """Return the fact about an unknown key, with the best remedy there is.

    In this order: the key or reason for a word of another proxy, the tables that have the key, the nearest
    key, all known keys.

    Args:
        name: The unknown key.
        known: The keys that the table has.
        table: The table's class; None for the top of the file, and for tables of named tables.
    """
    known = list(known)
    if answer := about_key(name, table):
        return f"unknown key: {answer}"
    owners = [
        title
        for title, owner in _TITLES.items()
        if name in keys_of(owner) and name not in ("name", "profile")
    ]
    if owners and not suggest_nearest(name, known, min_similarity=_CLOSE_SIMILARITY):
        return f"unknown key here, it is one of {' and of '.join(owners)}; known here are {', '.join(known)}"
    return f"unknown key{suggest_nearest(name, known) or '; known are ' + ', '.join(known)}"
