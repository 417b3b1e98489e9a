"""A proxy of several processes: which they are, who serves whom, and the servers behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.support.ports import free_port
from tests.support.program import TIMEOUT_S, Program

T = TypeVar("T")

SOON_S = 0.1  # in which processes know of each other, but for a busy machine
LATE_S = 2.0


class GreetingServer(threading.Thread):
    """A server that greets with its name and echoes, on every connection. It can go, and come again at its address."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True)
        self.name = name
        self.port = free_port()  # no client takes it while this server is gone
        self.open()

    def open(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=500)
        threading.Thread(target=self.serve, args=(self.listener,), daemon=True).start()

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve_connection, args=(connection,), daemon=True).start()

    def serve_connection(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(self.name.encode() + b"\r\n")
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Client:
    """A client; ``greeting`` is what it was told first."""

    def __init__(self, address: tuple[str, int], source: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection(address, timeout=TIMEOUT_S, source_address=(source, 0))

    @property
    def greeting(self) -> str:
        data = b""
        while not data.endswith(b"\r\n"):
            more = self.sock.recv(1)
            if not more:
                raise ConnectionResetError("closed without a greeting")
            data += more
        return data.decode().strip()

    def is_greeted_within(self, seconds: float) -> bool:
        self.sock.settimeout(seconds)
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return False
        finally:
            self.sock.settimeout(TIMEOUT_S)

    def echoes(self) -> bool:
        self.sock.sendall(b"still here\r\n")
        return self.sock.recv(100) == b"still here\r\n"

    def is_closed(self) -> bool:
        try:
            return self.sock.recv(100) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()


class WorkerGroup(Program):
    """The launcher and its children; in its block all of them are ended."""

    def __init__(self, text: str, folder: Path, **options: Any) -> None:
        super().__init__(text, folder, **options)
        self._clients = ExitStack()
        self._seen_pids: set[int] = set()

    def __exit__(self, *error: Any) -> None:
        self._clients.close()
        self._seen_pids.update(self.children.values())
        super().__exit__(*error)
        for pid in self._seen_pids:
            if comm(pid).startswith("mp "):
                os.kill(pid, signal.SIGKILL)

    @property
    def children(self) -> dict[str, int]:
        """Their process ids by ``worker 1``, ``worker 2``, ``control``."""
        names = {comm(pid): pid for pid in self.pids}
        return {name.removeprefix("mp "): pid for name, pid in names.items() if name.startswith("mp ")}

    @property
    def pids(self) -> list[int]:
        """Those of its children."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in children.split()]

    @property
    def workers(self) -> list[int]:
        return [pid for name, pid in sorted(self.children.items()) if name.startswith("worker")]

    def connect(self, source: str = "127.0.0.1", *, bind: int = 0) -> Client:
        guest = Client(self.addresses[bind], source)
        self._clients.callback(guest.close)
        return guest

    def connect_to_worker(self, worker: int, source: str = "127.0.0.1") -> Client:
        """One whom this worker (0 or 1) serves, and who has not read anything yet."""
        while True:
            guest = self.connect(source)
            if self.worker_of(guest) == worker:
                return guest
            guest.close()

    def connect_to_server(self, server: str, worker: int) -> Client:
        """One whom this worker serves, and who has been greeted by that server."""
        while True:
            guest = self.connect_to_worker(worker)
            if guest.greeting == server:
                return guest
            guest.close()

    def worker_of(self, guest: Client) -> int:
        """Which worker has accepted this connection? Waits until one has."""
        host, port = guest.sock.getsockname()
        needle = f"{address(*guest.sock.getpeername())} {address(host, port)} "

        def find() -> int | None:
            found = re.search(
                rf": {needle}(?:\S+ ){{6}}\s*(\d+)", collapse_blanks(Path("/proc/net/tcp").read_text())
            )
            if found is None or found[1] == "0":
                return None
            for worker, pid in enumerate(self.workers):
                if f"socket:[{found[1]}]" in descriptor_targets(pid):
                    return worker
            return None

        return wait_until(find)

    def lines(self, words: str) -> list[str]:
        return [line for line in self.text.splitlines() if re.search(words, line)]

    def kill_and_wait(self, name: str) -> int:
        """kill -9, and wait for another one in its place."""
        old = self.children[name]
        self._seen_pids.update(self.children.values())
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.children.get(name, old) != old)
        return old


def address(host: str, port: int) -> str:
    """As /proc/net/tcp has it."""
    number = int.from_bytes(socket.inet_aton(host), "little")
    return f"{number:08X}:{port:04X}"


def collapse_blanks(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text)


def descriptor_targets(pid: int) -> set[str]:
    """What the descriptors of a process are."""
    found = set()
    folder = Path(f"/proc/{pid}/fd")
    try:
        for entry in folder.iterdir():
            try:
                found.add(str(entry.readlink()))
            except OSError:
                continue
    except OSError:
        return set()
    return found


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    """And no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], T | None]) -> T:
    """Wait until it holds; what it gives."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        if (value := condition()) is not None and value is not False:
            return value
        time.sleep(0.005)
    raise AssertionError(f"never: {condition}")


def configuration(
    *servers: GreetingServer, more: str = "", backend: str = "", server: str = "", **process: object
) -> str:
    """Two workers, one frontend, these servers; ``more`` stands at the end, ``backend`` and ``server`` among their keys."""
    keys = {"workers": 2, "drain_timeout": "300ms", **process}
    settings = "\n".join(f"{key} = {value!r}".replace("'", '"') for key, value in keys.items())
    entries = ", ".join(
        f'{{ name = "{each.name}", address = "127.0.0.1:{each.port}", {server} }}'.replace(", }", " }")
        for each in servers
    )
    log = "" if "[log" in more else '[log]\nformat = "tcplog"'
    return f"""
[process]
{settings}
{log}
[frontends.imap]
protocol = "tcp"
backend = "b"
log_null = true
bind = [{{ address = "127.0.0.1:0" }}]
[backends.b]
balance = "roundrobin"
check = "none"
servers = [{entries}]
{backend}
{more}
"""


@contextmanager
def greeting_servers(*names: str) -> Iterator[list[GreetingServer]]:
    made = [GreetingServer(name) for name in names]
    yield made
    for each in made:
        each.close()
