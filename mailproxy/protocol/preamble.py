"""The one answer that every preamble has in common: not enough bytes yet."""

from __future__ import annotations

from attrs import frozen


@frozen
class NeedMore:
    """Nothing can be said yet. ``total``: bytes, from the first one, below which asking again makes no sense."""

    total: int
