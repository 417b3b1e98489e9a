"""Proxies as processes: starting, watching and stopping them."""

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
from typing import Protocol

from cases import is_offered
from configurations import ProxySetup, variant_of
from errors import MeasurementError, ProxyNotStartedError, UsageError

START_SECONDS = 20.0
STOP_SECONDS = 5.0


def free_ports() -> Iterator[int]:
    """Yield free ports below the range of outgoing connections, which could take them first."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # Some machines give nearly all ports to outgoing connections.
    end = first_outgoing if first_outgoing > 12_000 else 32_000
    ports = range(10_000, end)
    begin = os.getpid() * 101 % len(ports)  # two runs at the same time start at different ports
    for port in (*ports[begin:], *ports[:begin]):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
    raise UsageError("no free ports are left on 127.0.0.1")


def listening_ports() -> set[int]:
    """Return the listening TCP ports. A test connection would be a session for the proxy."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    return {int(words[1].rpartition(":")[2], 16) for words in rows if words[3] == "0A"}


class Tool(Protocol):
    """A program that runs a proxy, such as valgrind."""

    @property
    def start_seconds(self) -> float: ...

    @property
    def environment(self) -> dict[str, str]: ...

    def command(self, proxy: list[str]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    name: str
    setup: ProxySetup
    process: subprocess.Popen[bytes]

    def check_alive(self, timeout: float = 0) -> None:
        """Raise MeasurementError if the proxy has ended, or ends within this number of seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise MeasurementError(f"the proxy ended with code {self.process.wait(timeout)}")

    def wait_until_listening(self, seconds: float = START_SECONDS) -> None:
        """Wait until the proxy listens on all ports that it offers. Raises ProxyNotStartedError."""
        deadline = time.monotonic() + seconds
        program = variant_of(self.name).program
        ports = {port for bind, port in self.setup.ports.items() if is_offered(bind, program)}
        while not listening_ports().issuperset(ports):
            if self.process.poll() is not None:
                raise ProxyNotStartedError(
                    f"the proxy ended with code {self.process.returncode} before it listened"
                )
            if time.monotonic() > deadline:
                raise ProxyNotStartedError(f"the proxy does not listen after {seconds:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """Terminate the proxy, then kill its process group, which holds only its own children."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(
    name: str, setup: ProxySetup, *, open_files: int | None = None, tool: Tool | None = None
) -> Iterator[Proxy]:
    """Start a proxy, and stop it afterwards. Its output goes to a file.

    Args:
        name: The name of the variant.
        setup: Its folder and ports.
        open_files: Its limit of open files; None leaves the limit of this process.
        tool: What runs the proxy; None for the system itself.
    """
    variant = variant_of(name)
    command, environment = variant.command(setup), variant.environment(setup.programs)
    if tool:
        command, environment = tool.command(command), environment | tool.environment
    # setpriv becomes the proxy, which then gets SIGTERM when this process ends, even if it is killed.
    command = ["setpriv", "--pdeathsig", "TERM", *command]
    if open_files:
        command = ["prlimit", f"--nofile={open_files}", *command]
    with (setup.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=setup.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    proxy = Proxy(name, setup, process)
    try:
        proxy.wait_until_listening(tool.start_seconds if tool else START_SECONDS)
        yield proxy
    except ProxyNotStartedError:
        raise
    except MeasurementError:
        # Its sessions fail a moment before the proxy itself ends, and its end explains more.
        proxy.check_alive(timeout=0.5)
        raise
    finally:
        proxy.stop()
