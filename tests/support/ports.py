"""Ports of the loopback interface for tests: which nobody has and no client can take in between, and who listens."""

from __future__ import annotations

import os
import socket
import time
from itertools import count, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PORTS = range(20_000, 32_000)  # under Linux's ephemeral ports: no client socket can take one in between

_asked = count(os.getpid() * 7 + int(time.monotonic() * 1000))


def free_port(hosts: Iterable[str] = ("127.0.0.1",)) -> int:
    """A port that nobody has on any of these addresses; another one each time, until all were given."""
    hosts = tuple(hosts)
    for n in islice(_asked, len(PORTS)):
        port = PORTS[n * 13 % len(PORTS)]  # far from those of who began a little later
        if all(_is_free(host, port) for host in hosts):
            return port
    raise AssertionError("no free port")


def free_ports(number: int, hosts: Iterable[str]) -> list[int]:
    """Different ones."""
    hosts = tuple(hosts)
    return [free_port(hosts) for _ in range(number)]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return not are_listening([(host, port)])


def are_listening(addresses: Iterable[tuple[str, int]]) -> bool:
    """Asked of the kernel: a connection to try it would be a session, with a line in the log that is looked at."""
    there = _listening()
    return all(_kernels(host, port) in there for host, port in addresses)


def attempts_to_connect(host: str, port: int) -> int:
    """How many sockets have asked for a connection there and had no answer yet."""
    return sum(remote == _kernels(host, port) and state == "02" for _, remote, state in _kernel_sockets())


def _kernels(host: str, port: int) -> str:
    return f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"


def _listening() -> set[str]:
    """Where anybody listens. The kernel lists these first, and all others, which may be thousands, need not be read."""
    with Path("/proc/net/tcp").open(encoding="ascii") as table:
        rows = (line.split() for line in islice(table, 1, None))
        return {local for _, local, _, *_ in takewhile(lambda row: row[3] == "0A", rows)}


def _kernel_sockets() -> Iterator[tuple[str, str, str]]:
    """Local address, remote address and state, in proc(5)'s figures."""
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        yield local, remote, state
