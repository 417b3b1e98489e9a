"""Messages to the service manager that started the process (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

# When the manager's queue stays full for this long, the message is dropped: sessions must not wait for it.
_TIMEOUT_S = 1.0


def has_service_manager() -> bool:
    """Whether a service manager expects messages."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify_ready(*, main_pid: int | None = None) -> None:
    """Report that every bind listens and clients are served. ``main_pid``: by this process, which is the main one now."""
    main = () if main_pid is None else (f"MAINPID={main_pid}",)
    _notify(*main, "READY=1", "STATUS=Ready for clients.")


def notify_reloading() -> None:
    """Report that a reload has begun (``Type=notify-reload`` of systemd.service(5)).

    ``notify_ready`` reports its end.
    """
    _notify(
        "RELOADING=1",
        f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}",
        "STATUS=Reloading.",
    )


def notify_draining(seconds: float) -> None:
    """Report that no more clients are accepted, and within how many seconds sessions have to end."""
    _notify("STOPPING=1", f"STATUS=Stopping, open sessions have {seconds:g} s to end.")


def notify_handed_over(successor: int, seconds: float) -> None:
    """Report that another process serves from now on.

    If the service manager has it in the same service, it is the main process from now on. Only this one can say
    so, because messages of others are not accepted (``NotifyAccess=main``). Otherwise this service stops.
    """
    if is_same_service(successor):
        _notify(f"MAINPID={successor}")
    else:
        notify_draining(seconds)


def is_same_service(pid: int) -> bool:
    """Whether a process is in the control group of this one: systemd has one for each service."""
    try:
        return Path("/proc/self/cgroup").read_bytes() == Path(f"/proc/{pid}/cgroup").read_bytes()
    except OSError:
        return False


def notify_stopping() -> None:
    """Report that all sessions are closed now."""
    _notify("STOPPING=1", "STATUS=Stopping now.")


def watchdog_interval() -> float | None:
    """Return how often to call ``notify_alive``, in seconds; None if the service manager has no watchdog.

    It is half of the silence after which the manager ends the process (sd_watchdog_enabled(3)).
    """
    own = str(os.getpid())
    if os.environ.get("WATCHDOG_PID", own) != own:
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 2e6 if microseconds > 0 else None


def notify_alive() -> None:
    """Report that the loop runs. Never waits: a message that is lost is followed by another one."""
    _notify("WATCHDOG=1", timeout=0)


def store_descriptor(name: str, fd: int) -> None:
    """Have the service manager keep a copy of a descriptor for the next process (``FileDescriptorStoreMax=``).

    It does not watch the descriptor: a frontend that is paused shuts its sockets down, which would remove them.
    """
    _notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=[fd])


def forget_descriptors(name: str) -> None:
    """Have the service manager close all descriptors that it keeps under a name."""
    _notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def _notify(*assignments: str, descriptors: Sequence[int] = (), timeout: float = _TIMEOUT_S) -> None:
    """Send assignments such as ``READY=1`` in one message. Does nothing without a service manager.

    Errors are ignored: an unreachable service manager must not stop the service.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):  # unset, or a vsock, which only virtual machines use
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        data = "\n".join(assignments).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        sock.sendmsg([data], rights, 0, address)
