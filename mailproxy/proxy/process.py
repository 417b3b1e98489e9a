"""The process that serves: descriptors, garbage collection, errors that Python cannot raise.

Each function changes or reads something that belongs to the whole process. ``mailproxy run`` calls them; an
embedded proxy leaves the process as it is.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
from math import ceil

from mailproxy.config import Config
from mailproxy.log import Log
from mailproxy.log.events import UNRAISABLE

# For listeners, log, resolver, checks and Python itself, and up to 64 pipes of the relay, which works without
# them, too.
RESERVED_DESCRIPTORS = 200
# The hard limit in a container may be 1,000,000,000, where memory ends long before. HAProxy's fd-hard-limit
# is the same.
_MAX_DESCRIPTORS = 1 << 20
_MIN_SESSIONS = 1
_FEW_SESSIONS = 100
_GC_THRESHOLD = 10_000  # objects: those of some hundred sessions


# Descriptors


def fill_standard_descriptors() -> None:
    """Open ``/dev/null`` as standard input, output and error where they are closed.

    Otherwise a socket would get such a number, and what is written to standard error would go to its peer.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def descriptor_limit() -> int:
    """Return the soft limit on open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def usable_descriptors(config: Config) -> int:
    """Return the limit on open files that the proxy runs with: the hard one if it raises its soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not config.process.raise_descriptor_limit:
        return soft
    return max(soft, _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS))


def raise_descriptor_limit(config: Config) -> None:
    """Raise the soft limit on open files if the configuration asks for it. Child processes inherit it.

    This is safe because nothing here uses select(2), which cannot handle descriptors above 1023. If the
    kernel refuses, the limit stays.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (usable_descriptors(config), hard))


def descriptor_shortage(config: Config) -> str | None:
    """Return what is wrong if the descriptors suffice for too few sessions; None if they suffice."""
    configured, limit, workers = config.process.max_sessions, usable_descriptors(config), worker_count(config)
    each = f", in each of {workers} workers" if workers > 1 else ""
    needed = ceil((configured or 0) / workers) * 2 + RESERVED_DESCRIPTORS
    how = "(ulimit -Hn, LimitNOFILE=)"
    if not config.process.raise_descriptor_limit:
        how = "(ulimit -n, LimitNOFILE=, or raise_descriptor_limit = true)"
    if configured is not None and needed > limit:
        return f"{configured} sessions need {needed} descriptors{each}, and the limit here is {limit}: raise it {how} or lower max_sessions"
    possible = _sessions_for(limit) * workers
    if configured is None and possible < _FEW_SESSIONS:
        return f"the limit of {limit} descriptors{each} holds {possible} sessions: raise it {how}"
    return None


def worker_count(config: Config) -> int:
    """Return how many processes serve: as configured, or one for each core that this process may use."""
    workers = config.process.workers
    return workers if isinstance(workers, int) else len(os.sched_getaffinity(0))


def max_sessions_per_process() -> int:
    """Return the number of sessions that the descriptors of one process suffice for. A session takes two."""
    return _sessions_for(descriptor_limit())


def _sessions_for(descriptors: int) -> int:
    return max(_MIN_SESSIONS, (descriptors - RESERVED_DESCRIPTORS) // 2)


def max_sessions(config: Config) -> int:
    """Return the limit on sessions of all workers: as configured, or what the descriptors suffice for."""
    if config.process.max_sessions is not None:
        return config.process.max_sessions
    return max_sessions_per_process() * worker_count(config)


# Python


def tune_gc() -> None:
    """Make garbage collection of cycles rare, and exempt the objects that exist now.

    Call it when everything is loaded, and before a fork. Sessions leave no cycles, so the collector finds
    next to nothing. With Python's default threshold it runs after every dozen of sessions, and now and then
    over the whole program. That takes a fifteenth of a session's processor time (docs/speed.md), mostly
    because it evicts the processor's caches. In a forked child it would also copy the pages of the parent
    that it visits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


def log_unraisable_errors(log: Log) -> None:
    """Log errors that Python cannot raise, such as those in ``__del__``, instead of printing a traceback."""

    def log_error(error: sys.UnraisableHookArgs) -> None:
        log.event(UNRAISABLE, f"ignored: {error.exc_value!r} in {error.object!r}")

    sys.unraisablehook = log_error
