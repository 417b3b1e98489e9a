"""Paths of keys in a configuration, such as ``frontends.imap.bind[0].mode``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen

from mailproxy.config.values import printable

_STEP = re.compile(r"\[([0-9]+)\]|([^.\[\]]+)")


@frozen
class ConfigPath:
    """The path of a key in the file: names of tables and keys, and indices in lists.

    ``path / "mode"`` is the path of a key in the table at ``path``, ``path / 0`` that of the first item of
    its list. As text, names are quoted where TOML needs quotes: ``backends."mail.example".servers[0]``.
    """

    steps: tuple[str | int, ...] = ()

    def __truediv__(self, step: str | int) -> ConfigPath:
        return ConfigPath((*self.steps, step))

    def __str__(self) -> str:
        return "".join(map(_text, self.steps)).removeprefix(".")

    def joinpath(self, *steps: str | int) -> ConfigPath:
        """Return the path of a key several steps below."""
        return ConfigPath((*self.steps, *steps))

    def is_within(self, other: ConfigPath) -> bool:
        """Whether the path is the other one or below it."""
        return self.steps[: len(other.steps)] == other.steps

    @property
    def key(self) -> str:
        """The name of the key; of a list's item, the name of the list."""
        return next((step for step in reversed(self.steps) if isinstance(step, str)), "")

    def with_parents(self) -> Iterator[ConfigPath]:
        """Yield the path and each path above it, the longest first."""
        for length in range(len(self.steps), 0, -1):
            yield ConfigPath(self.steps[:length])


ROOT_PATH = ConfigPath()


def frontend_path(name: str) -> ConfigPath:
    """Return the path of a frontend's table."""
    return ROOT_PATH / "frontends" / name


def bind_path(frontend: str, index: int) -> ConfigPath:
    """Return the path of a bind's table, by its index in the frontend."""
    return frontend_path(frontend) / "bind" / index


def backend_path(name: str) -> ConfigPath:
    """Return the path of a backend's table."""
    return ROOT_PATH / "backends" / name


def server_path(backend: str, index: int) -> ConfigPath:
    """Return the path of a server's table, by its index in the backend."""
    return backend_path(backend) / "servers" / index


def parse_path(text: str) -> ConfigPath:
    """Return the path that a text names; every name in it must be one that needs no quotes."""
    return ConfigPath(tuple(int(index) if index else name for index, name in _STEP.findall(text)))


def _text(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if not step or not step.replace("_", "").replace("-", "").isalnum():
        return f'."{printable(step)}"'
    return f".{step}"
