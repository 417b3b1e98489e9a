"""mailproxy with several worker processes: its processes, the worker of each client, and the servers."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.support.ports import free_port
from tests.support.program import TIMEOUT_S, Program

T = TypeVar("T")

LATE_S = 2.0


class GreetingServer(threading.Thread):
    """A server that sends its name as a greeting and echoes. It can be closed and opened again at its address."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True)
        self.name = name
        self.port = free_port()  # no client takes it while this server is closed
        self.open()

    def open(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=500)
        self.accepting = threading.Thread(target=self.serve, args=(self.listener,), daemon=True)
        self.accepting.start()

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
        self.accepting.join()  # or it could accept at the next socket with this descriptor
        self.listener.close()


class Client:
    """A client of the proxy."""

    def __init__(self, address: tuple[str, int], source: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection(address, timeout=TIMEOUT_S, source_address=(source, 0))

    @property
    def greeting(self) -> str:
        """Read and return the first line from the server."""
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
    """The supervisor and its children. All of them are ended at the end of the `with` block."""

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
        """Return the process ids of children by name: `worker 1`, `worker 2`, `control`."""
        names = {comm(pid): pid for pid in self.pids}
        return {name.removeprefix("mp "): pid for name, pid in names.items() if name.startswith("mp ")}

    @property
    def pids(self) -> list[int]:
        """Return the process ids of all children."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in children.split()]

    @property
    def workers(self) -> list[int]:
        return [pid for name, pid in sorted(self.children.items()) if name.startswith("worker")]

    def connect(self, source: str = "127.0.0.1", *, bind: int = 0) -> Client:
        client = Client(self.addresses[bind], source)
        self._clients.callback(client.close)
        return client

    def connect_to_worker(self, worker: int, source: str = "127.0.0.1") -> Client:
        """Return a client that this worker (0 or 1) serves. It has not read anything yet."""
        while True:
            client = self.connect(source)
            if self.worker_of(client) == worker:
                return client
            drop(client)

    def connect_to_server(self, server: str, worker: int) -> Client:
        """Return a client that this worker serves, and that has read the greeting of this server."""
        while True:
            client = self.connect_to_worker(worker)
            if client.greeting == server:
                return client
            drop(client)

    def worker_of(self, client: Client) -> int:
        """Return the number of the worker that has accepted this connection, as soon as one has."""
        addresses = client.sock.getpeername(), client.sock.getsockname()

        def find() -> int | None:
            if inode := inode_of(*addresses):
                for worker, pid in enumerate(self.workers):
                    if f"socket:[{inode}]" in descriptor_targets(pid):
                        return worker
            return None

        try:
            return wait_until(find)
        except AssertionError:
            raise AssertionError(
                f"no worker has {addresses}, inode {inode_of(*addresses)}:\n{self.text}"
            ) from None

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.text.splitlines() if re.search(pattern, line)]

    def kill_and_wait(self, name: str) -> int:
        """Kill a child with SIGKILL and wait for its replacement. Return the old process id."""
        old = self.children[name]
        self._seen_pids.update(self.children.values())
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.children.get(name, old) != old)
        return old


def drop(client: Client) -> None:
    """Close a client that a worker has accepted, and wait until its session has ended: tests count sessions."""
    addresses = client.sock.getpeername(), client.sock.getsockname()
    client.close()
    wait_until(lambda: inode_of(*addresses) == 0)


_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_TCP_LISTEN = 10
_ANY_COOKIE = b"\xff" * 8


def inode_of(local: tuple[str, int], remote: tuple[str, int]) -> int:
    """Return the inode of the TCP socket with these IPv4 addresses, 0 if there is none or it is not accepted yet.

    One socket is asked for (sock_diag(7)). /proc/net/tcp would have those of all tests, and takes 10 ms.
    """
    hosts = [socket.inet_aton(host).ljust(16, b"\0") for host, _ in (local, remote)]
    query = struct.pack("=BBxxI", socket.AF_INET, socket.IPPROTO_TCP, 0xFFFFFFFF)  # in every state
    query += struct.pack(">HH16s16sI", local[1], remote[1], *hosts, 0) + _ANY_COOKIE
    header = struct.pack("=IHHII", 16 + len(query), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as netlink:
        netlink.send(header + query)
        answer = netlink.recv(4096)
    if struct.unpack_from("=H", answer, 4)[0] != _SOCK_DIAG_BY_FAMILY:  # an error: not found
        return 0
    if answer[17] == _TCP_LISTEN:  # found in place of a connection that is gone
        return 0
    inode: int = struct.unpack_from("=I", answer, 84)[0]
    return inode


def descriptor_targets(pid: int) -> set[str]:
    """Return the link targets of a process's descriptors."""
    targets = set()
    folder = Path(f"/proc/{pid}/fd")
    try:
        for entry in folder.iterdir():
            try:
                targets.add(str(entry.readlink()))
            except OSError:
                continue
    except OSError:
        return set()
    return targets


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_open(address: tuple[str, int]) -> bool:
    """Whether connections are accepted, or wait for that."""
    try:
        Client(address).close()
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:  # by the end of the process
        return True
    return True


def pause(pid: int) -> None:
    """Stop a process with SIGSTOP. The signal alone would leave it running for a moment."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


def wait_until(condition: Callable[[], T | None]) -> T:
    """Wait until the condition is neither None nor False, and return its value."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        if (value := condition()) is not None and value is not False:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {TIMEOUT_S} s: {condition}")


def configuration(
    *servers: GreetingServer, more: str = "", backend: str = "", server: str = "", **process: object
) -> str:
    """Return a configuration with two workers, one frontend and these servers.

    Args:
        more: text at the end.
        backend: keys of the backend.
        server: keys of each server.
        process: keys of the table `process`.
    """
    keys = {"workers": 2, "drain_timeout": "300ms", **process}
    process_keys = "\n".join(f"{key} = {value!r}".replace("'", '"') for key, value in keys.items())
    entries = ", ".join(
        f'{{ name = "{each.name}", address = "127.0.0.1:{each.port}", {server} }}'.replace(", }", " }")
        for each in servers
    )
    log = "" if "[log" in more else '[log]\nformat = "tcplog"'
    return f"""
[process]
{process_keys}
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
    servers = [GreetingServer(name) for name in names]
    yield servers
    for each in servers:
        each.close()
