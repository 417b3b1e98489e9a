"""The faults of a configuration that are found while it is read, and the keys that have them."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import Factory, define

from mailproxy.config.path import ConfigPath
from mailproxy.errors import Fault


@define
class Diagnostics:
    """Every fault found so far.

    A key with a fault is left out of the configuration. Its path is remembered as invalid, so that rules
    about keys that depend on it report no follow-on faults.
    """

    faults: list[Fault] = Factory(list)
    _invalid: set[ConfigPath] = Factory(set)

    def add(self, path: ConfigPath, fact: str) -> None:
        """Add a fault, once."""
        fault = Fault(path, fact)
        if fault not in self.faults:
            self.faults.append(fault)

    def drop(self, path: ConfigPath, fact: str) -> None:
        """Add a fault of a key that is left out of the configuration."""
        self.add(path, fact)
        self.mark_invalid(path)

    def mark_invalid(self, path: ConfigPath) -> None:
        """Remember that a key is left out, for a fault that is already reported."""
        self._invalid.add(path)

    def is_invalid(self, path: ConfigPath, *, subtree: bool = False) -> bool:
        """Whether this key is left out; with ``subtree``, also whether any key below it is."""
        if subtree:
            return any(invalid.is_within(path) for invalid in self._invalid)
        return path in self._invalid

    def is_any_invalid(self, paths: Iterable[ConfigPath], *, subtree: bool = False) -> bool:
        """Whether ``is_invalid`` holds for at least one of several paths."""
        return any(self.is_invalid(path, subtree=subtree) for path in paths)
