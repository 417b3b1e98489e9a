"""The name that ``ps`` and ``top`` show of a process."""

from __future__ import annotations

import ctypes

_SET_NAME = 15  # PR_SET_NAME (linux/prctl.h)


def set_process_name(name: str) -> None:
    """Name this process; the kernel keeps 15 bytes. Does nothing where the C library has no ``prctl``.

    By prctl(2), because ``/proc/self/comm`` is root's in a process that has changed its user.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return
    prctl(_SET_NAME, name.encode(), 0, 0, 0)
