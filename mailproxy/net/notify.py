"""Messages to the service manager that started the process (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket

_TIMEOUT_S = 1.0  # a full queue: the message is lost rather than the sessions held up


def has_service_manager() -> bool:
    """Whether a service manager wants messages."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify_ready() -> None:
    """Say that every bind listens and clients are served."""
    _notify("READY=1", "STATUS=Ready for clients.")


def notify_draining(seconds: float) -> None:
    """Say that no more clients are accepted, and how long sessions have to end."""
    _notify("STOPPING=1", f"STATUS=Stopping, open sessions have {seconds:g} s to end.")


def notify_stopping() -> None:
    """Say that all sessions are closed now."""
    _notify("STOPPING=1", "STATUS=Stopping now.")


def _notify(*assignments: str) -> None:
    """Send assignments such as ``READY=1``, all in one message; without a service manager this does nothing.

    Raises nothing: a service manager that cannot be reached must not stop the service.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):  # absent, or a machine's vsock, which only virtual machines use
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.sendto("\n".join(assignments).encode(), address)
