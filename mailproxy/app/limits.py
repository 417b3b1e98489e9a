"""The descriptor limit and what it means for the number of sessions."""

from __future__ import annotations

import resource

from mailproxy.config import Config

DESCRIPTORS_KEPT = 200  # for listeners, log, resolver, Python itself
_FEWEST = 1


def descriptor_limit() -> int:
    """The soft limit on open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def max_sessions(config: Config) -> int:
    """What the configuration says, else what the descriptors hold: a session takes two."""
    if config.process.max_sessions is not None:
        return config.process.max_sessions
    return max(_FEWEST, (descriptor_limit() - DESCRIPTORS_KEPT) // 2)
