"""Free ports of the loopback interface that no client can take, and the listening sockets."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from itertools import count, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from mailproxy.importers.ports import protocol_of_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Below Linux's ephemeral ports, so that no client socket takes one. Ports such as 20143 are left out: an importer takes
# them for ports of IMAP.
PORTS = tuple(port for port in range(20_000, 32_000) if protocol_of_port(port) is None)

# A port is free until the tested program binds it, which may be seconds later. Until then, no other test process on this
# machine may choose it: an abstract Unix socket with its number as a name says so. The kernel removes it with the process.
_claims: deque[socket.socket] = deque()
_MOST_CLAIMS = 500

_counter = count(os.getpid() * 7 + int(time.monotonic() * 1000))


def free_port(hosts: Iterable[str] = ("127.0.0.1",)) -> int:
    """Return a port that is free on all of these addresses. Each call returns another one, until all were used."""
    hosts = tuple(hosts)
    for n in islice(_counter, len(PORTS)):
        port = PORTS[n * 13 % len(PORTS)]  # far from those of processes that started a little later
        if all(_is_free(host, port) for host in hosts) and _claim(port):
            return port
    raise AssertionError("no free port")


def first_free_port(number: int) -> int:
    """Return the first of ``number`` neighbouring ports that are free on 127.0.0.1."""
    for _ in range(len(PORTS)):
        first = free_port()
        if all(_is_free("127.0.0.1", port) and _claim(port) for port in range(first + 1, first + number)):
            return first
    raise AssertionError("no free ports")


def free_ports(number: int, hosts: Iterable[str]) -> list[int]:
    """Return different free ports."""
    hosts = tuple(hosts)
    return [free_port(hosts) for _ in range(number)]


def _claim(port: int) -> bool:
    """Claim a port for this process. Return False if another process has claimed it."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0mailproxy-tests-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    if len(_claims) > _MOST_CLAIMS:
        _claims.popleft().close()
    return True


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return not are_listening([(host, port)])


def are_listening(addresses: Iterable[tuple[str, int]]) -> bool:
    """Whether sockets listen on all of these addresses.

    The kernel's table is read, because a trial connection would be a session with a log line that tests compare.
    """
    listening = _listening()
    return all(_kernel_address(host, port) in listening for host, port in addresses)


def attempts_to_connect(host: str, port: int) -> int:
    """Return the number of sockets that are connecting to this address without an answer yet."""
    return sum(
        remote == _kernel_address(host, port) and state == "02" for _, remote, state in _kernel_sockets()
    )


def _kernel_address(host: str, port: int) -> str:
    return f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"


def _listening() -> set[str]:
    """Return all listening addresses. The kernel lists them first, so thousands of other sockets are not read."""
    with Path("/proc/net/tcp").open(encoding="ascii") as table:
        rows = (line.split() for line in islice(table, 1, None))
        return {local for _, local, _, *_ in takewhile(lambda row: row[3] == "0A", rows)}


def _kernel_sockets() -> Iterator[tuple[str, str, str]]:
    """Yield local address, remote address and state, in the notation of proc(5)."""
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        yield local, remote, state
