"""What all parsers of preambles return while bytes are missing."""

from __future__ import annotations

from attrs import frozen


@frozen
class NeedMore:
    """The preamble is incomplete.

    Attributes:
        total: Bytes, counted from the preamble's first one, that are needed at least. Fewer never complete
            it.
    """

    total: int
