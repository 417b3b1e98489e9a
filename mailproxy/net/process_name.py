"""The name that ``ps`` and ``top`` show for a process."""

from __future__ import annotations

import ctypes

_PR_SET_NAME = 15  # linux/prctl.h


def set_process_name(name: str) -> None:
    """Name this process. The kernel keeps 15 bytes. Does nothing where the C library has no ``prctl``.

    prctl(2) also works after the process has changed its user. ``/proc/self/comm`` belongs to root then.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return
    prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
