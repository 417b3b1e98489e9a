"""Messages to the service manager that started the process (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
import time

# When the manager's queue stays full for this long, the message is dropped: sessions must not wait for it.
_TIMEOUT_S = 1.0


def has_service_manager() -> bool:
    """Whether a service manager expects messages."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify_ready() -> None:
    """Report that every bind listens and clients are served."""
    _notify("READY=1", "STATUS=Ready for clients.")


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


def _notify(*assignments: str, timeout: float = _TIMEOUT_S) -> None:
    """Send assignments such as ``READY=1`` in one message. Does nothing without a service manager.

    Errors are ignored: an unreachable service manager must not stop the service.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):  # unset, or a vsock, which only virtual machines use
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.sendto("\n".join(assignments).encode(), address)
