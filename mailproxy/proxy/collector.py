"""Python's collector of cycles in a process that does nothing but serve sessions."""

from __future__ import annotations

import gc

_OBJECTS = 10_000  # some hundred sessions


def tune_gc() -> None:
    """Let it look for cycles rarely, and never again at what is there now. For when all is loaded, and before a fork.

    Sessions leave no cycles, so there is next to nothing to find; but looking for it after every dozen of sessions, and now
    and then at all of the program, takes a fifteenth of what a session costs: mostly by what it drives out of the
    processor's caches. And a child would copy pages of its parent's to look at them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS)
