"""The proxies at work: started, watched, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configurations import Place, kind_of
from faults import Fault, Mistake, NotStartedFault

START_SECONDS = 20.0
STOP_SECONDS = 5.0


def free_ports() -> Iterator[int]:
    """Below the range that outgoing connections take theirs from, so that none is taken between here and the proxy."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    end = (
        first_outgoing if first_outgoing > 12_000 else 32_000
    )  # some machines give nearly all to connections
    ports = range(10_000, end)
    begin = os.getpid() * 101 % len(ports)  # another run may be looking for its own at this moment
    for port in (*ports[begin:], *ports[:begin]):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
    raise Mistake("no free ports are left on 127.0.0.1")


def listening_ports() -> set[int]:
    """Seen without connecting: that would be a session for the proxy."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    return {int(words[1].rpartition(":")[2], 16) for words in rows if words[3] == "0A"}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that was started here."""

    name: str
    place: Place
    process: subprocess.Popen[bytes]

    def check_alive(self, patience: float = 0) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise Fault(f"the proxy ended by itself with code {self.process.wait(patience)}")

    def await_ports(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not listening_ports().issuperset(self.place.ports.values()):
            if self.process.poll() is not None:
                raise NotStartedFault(f"it ended with code {self.process.returncode} before it listened")
            if time.monotonic() > deadline:
                raise NotStartedFault(f"it does not listen after {START_SECONDS:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """Politely, then with its process group: that holds nothing but what it started itself."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(name: str, place: Place, *, open_files: int | None = None) -> Iterator[Proxy]:
    """A fresh proxy that listens, with so many open files if that is said. What it says goes to a file; it is gone
    afterwards.
    """
    # setpriv becomes the proxy, which then ends with this process even if that is killed
    command = ["setpriv", "--pdeathsig", "TERM", *kind_of(name).command(place)]
    if open_files:
        command = ["prlimit", f"--nofile={open_files}", *command]
    with (place.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=place.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    proxy = Proxy(name, place, process)
    try:
        proxy.await_ports()
        yield proxy
    except NotStartedFault:
        raise
    except Fault:
        proxy.check_alive(patience=0.5)  # its end comes a moment after that of its sessions, and says more
        raise
    finally:
        proxy.stop()
