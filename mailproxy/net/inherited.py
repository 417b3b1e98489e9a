"""Listening sockets that a service manager has passed on, found by name (sd_listen_fds(3))."""

from __future__ import annotations

import os
from itertools import zip_longest

from mailproxy.address import DescriptorAddress

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START: the descriptor after standard error."""

STORED_PREFIX = "mailproxy_"
"""Names of sockets that mailproxy has stored itself begin like this. A bind cannot name them."""

_UNNAMED = "unknown"  # systemd's name for a socket without one
_MAX_SOCKETS = 4096  # more in LISTEN_FDS is a mistake


def descriptor_of(address: DescriptorAddress) -> int:
    """Return the descriptor that a bind names by number or by name.

    A number is taken as it is: a parent other than a service manager may pass sockets without setting
    variables.

    Raises:
        LookupError: This process was passed no socket of that name, or several.
    """
    if isinstance(address.fd, int):
        return address.fd
    if address.fd.startswith(STORED_PREFIX):
        raise LookupError(f"names that begin with {STORED_PREFIX} are mailproxy's own: give it another one")
    names = passed_names()
    matches = [FIRST_DESCRIPTOR + index for index, name in enumerate(names) if name == address.fd]
    if len(matches) == 1:
        return matches[0]
    if matches:
        numbers = ", ".join(f"fd:{fd}" for fd in matches)
        raise LookupError(
            f"{len(matches)} inherited sockets have this name ({numbers}): write the number, "
            "or give each .socket unit one ListenStream= and its own FileDescriptorName="
        )
    known = ", ".join(dict.fromkeys(name for name in names if not name.startswith(STORED_PREFIX))) or "none"
    raise LookupError(f"no inherited socket has this name (FileDescriptorName=), the names are: {known}")


def passed_names() -> list[str]:
    """Return the names of the passed sockets, in the order of their descriptors.

    Raises:
        LookupError: No sockets were passed to this process, or the variables are invalid.
    """
    environment = os.environ
    count = environment.get("LISTEN_FDS")
    if count is None:
        raise LookupError(
            "no socket was passed on (LISTEN_FDS is not set): is the .socket unit enabled and active?"
        )
    pid = environment.get("LISTEN_PID", "")
    if pid != str(os.getpid()):
        raise LookupError(
            f"the passed sockets are for process {pid or '(LISTEN_PID is not set)'}, and this is {os.getpid()}: "
            "let the service manager start mailproxy itself, and no shell around it"
        )
    if not count.isascii() or not count.isdecimal() or int(count) > _MAX_SOCKETS:
        raise LookupError(f"LISTEN_FDS is {count!r}, which is not a valid number of sockets")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    return [name or _UNNAMED for name, _ in zip_longest(names[: int(count)], range(int(count)))]
