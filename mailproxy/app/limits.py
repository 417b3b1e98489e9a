"""The descriptor limit and what it means for the number of sessions."""

from __future__ import annotations

import os
import resource

from mailproxy.config import Config

# For listeners, log, resolver, checks, Python itself; and up to 64 pipes of the relay, which does without if there are none.
DESCRIPTORS_KEPT = 200
_FEWEST = 1


def descriptor_limit() -> int:
    """The soft limit on open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def worker_count(config: Config) -> int:
    """How many processes serve: what the configuration says, or one for each core that this process may use."""
    workers = config.process.workers
    return workers if isinstance(workers, int) else len(os.sched_getaffinity(0))


def own_max_sessions() -> int:
    """What the descriptors of one process hold: a session takes two."""
    return max(_FEWEST, (descriptor_limit() - DESCRIPTORS_KEPT) // 2)


def max_sessions(config: Config) -> int:
    """What the configuration says, else what the descriptors hold, of all workers together."""
    if config.process.max_sessions is not None:
        return config.process.max_sessions
    return own_max_sessions() * worker_count(config)
