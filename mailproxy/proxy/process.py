"""The descriptor limit and what it means for the number of sessions."""

from __future__ import annotations

import contextlib
import os
import resource
from math import ceil

from mailproxy.config import Config

# For listeners, log, resolver, checks, Python itself; and up to 64 pipes of the relay, which does without if there are none.
RESERVED_DESCRIPTORS = 200
# Containers may have a hard limit of a thousand million; memory ends long before. HAProxy's fd-hard-limit is the same.
_MOST_DESCRIPTORS = 1 << 20
_FEWEST = 1
_FEW_SESSIONS = 100


def descriptor_limit() -> int:
    """The soft limit on open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def usable_descriptors(config: Config) -> int:
    """The limit on open files that the running proxy has: the hard one where it raises its soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not config.process.raise_descriptor_limit:
        return soft
    return max(soft, _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS))


def raise_descriptor_limit(config: Config) -> None:
    """Raise the soft limit on open files, if the configuration says so; child processes inherit it.

    Nothing here uses select(2), which takes no descriptor above 1023. A kernel that refuses leaves the limit as it is.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (usable_descriptors(config), hard))


def descriptor_shortage(config: Config) -> str | None:
    """Why the descriptors do not hold the sessions that the configuration wants, or only few; None where they do."""
    wanted, limit, workers = config.process.max_sessions, usable_descriptors(config), worker_count(config)
    each = f", in each of {workers} workers" if workers > 1 else ""
    needed = ceil((wanted or 0) / workers) * 2 + RESERVED_DESCRIPTORS
    how = "(ulimit -Hn, LimitNOFILE=)"
    if not config.process.raise_descriptor_limit:
        how = "(ulimit -n, LimitNOFILE=, or raise_descriptor_limit = true)"
    if wanted is not None and needed > limit:
        return f"{wanted} sessions need {needed} descriptors{each}, and the limit here is {limit}: raise it {how} or lower max_sessions"
    held = _sessions_held(limit) * workers
    if wanted is None and held < _FEW_SESSIONS:
        return f"the limit of {limit} descriptors{each} holds {held} sessions: raise it {how}"
    return None


def worker_count(config: Config) -> int:
    """How many processes serve: what the configuration says, or one for each core that this process may use."""
    workers = config.process.workers
    return workers if isinstance(workers, int) else len(os.sched_getaffinity(0))


def max_sessions_per_process() -> int:
    """What the descriptors of one process hold: a session takes two."""
    return _sessions_held(descriptor_limit())


def _sessions_held(descriptors: int) -> int:
    return max(_FEWEST, (descriptors - RESERVED_DESCRIPTORS) // 2)


def max_sessions(config: Config) -> int:
    """What the configuration says, else what the descriptors hold, of all workers together."""
    if config.process.max_sessions is not None:
        return config.process.max_sessions
    return max_sessions_per_process() * worker_count(config)
