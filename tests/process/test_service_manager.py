"""mailproxy under a service manager such as systemd: state messages and inherited sockets."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process.test_process import Echo, configuration, connect_greeted
from tests.support.ports import free_port
from tests.support.program import TIMEOUT_S, Program
from tests.support.socket_activation import SocketActivatedProgram
from tests.support.worker_group import is_open, wait_until

pytestmark = pytest.mark.slow

WORKERS = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


# State messages, for which Type=notify waits


class Manager:
    """The socket that NOTIFY_SOCKET names. A message is the sender's process id and its lines."""

    def __init__(self, address: str) -> None:
        self.name = address.replace("\0", "@")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.bind(address)

    def receive(self) -> tuple[int, list[str]]:
        data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        ((_, _, credentials),) = ancillary
        return struct.unpack("3i", credentials)[0], data.decode().splitlines()

    def receive_until_ready(self) -> None:
        """Receive READY=1. A supervisor may send it after its first WATCHDOG=1."""
        while "READY=1" not in self.receive()[1]:
            pass
        while self.has_message:
            self.receive()

    @property
    def has_message(self) -> bool:
        self.socket.setblocking(False)
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(TIMEOUT_S)


@pytest.fixture
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """Return a manager whose socket has a path, or, with the parameter "abstract", an abstract name."""
    abstract = f"\0mailproxy-test-{os.getpid()}-{tmp_path.name}"
    notify_socket = Manager(
        abstract if getattr(request, "param", "path") == "abstract" else str(tmp_path / "notify")
    )
    yield notify_socket
    notify_socket.socket.close()


@WORKERS
@pytest.mark.parametrize("manager", ["path", "abstract"], indirect=True)
def test_manager_gets_ready_and_stopping(echo: Echo, tmp_path: Path, manager: Manager, workers: int) -> None:
    port = free_port()
    text = configuration(echo, f"[process]\nworkers = {workers}\n").replace(
        "127.0.0.1:0", f"127.0.0.1:{port}"
    )
    with Program(text, tmp_path, env={**os.environ, "NOTIFY_SOCKET": manager.name}) as program:
        assert manager.receive() == (program.process.pid, ["READY=1", "STATUS=Ready for clients."])
        client = connect_greeted(("127.0.0.1", port))
        program.send(signal.SIGTERM)
        sender, lines = manager.receive()
        assert (sender, lines) == (
            program.process.pid,
            ["STOPPING=1", "STATUS=Stopping, open sessions have 30 s to end."],
        )
        program.send(signal.SIGTERM)
        assert manager.receive() == (program.process.pid, ["STOPPING=1", "STATUS=Stopping now."])
        client.close()
        assert program.wait() == 0
    assert not manager.has_message


@WORKERS
def test_manager_gets_nothing_from_faulty_start(
    echo: Echo, tmp_path: Path, manager: Manager, workers: int
) -> None:
    """No message is sent before the binds listen: here another program has one address."""
    text = configuration(echo, f"[process]\nworkers = {workers}\n").replace("127.0.0.1:0", echo.address)
    with Program(text, tmp_path, env={**os.environ, "NOTIFY_SOCKET": manager.name}) as program:
        assert program.wait() == 2
    assert not manager.has_message


@pytest.mark.parametrize("name", ["/nowhere/notify", "vsock:2:1234", "@mailproxy-test-nobody", "relative"])
def test_unreachable_manager_has_no_effect(echo: Echo, tmp_path: Path, name: str) -> None:
    with Program(configuration(echo), tmp_path, env={**os.environ, "NOTIFY_SOCKET": name}) as program:
        connect_greeted(program.addresses[0]).close()
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert "Traceback" not in program.text


# Sockets, as a .socket unit passes them


def open_listeners(stack: ExitStack, count: int = 1) -> list[socket.socket]:
    return [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=500)) for _ in range(count)]


def inherited_configuration(echo: Echo, *names: str, more: str = "") -> str:
    binds = ", ".join(f'"fd:{name}"' for name in names)
    return (
        f'{more}\n[frontends.imap]\nprotocol = "imap"\nbackend = "b"\nbind = [{binds}]\n'
        f'[backends.b]\nservers = ["{echo.address}"]\ncheck = "none"\n'
    )


@WORKERS
def test_sockets_are_found_by_name_or_number(echo: Echo, tmp_path: Path, workers: int) -> None:
    """The name decides in any order. A number selects a socket without a name."""
    with ExitStack() as stack:
        sockets = open_listeners(stack, 3)
        text = inherited_configuration(echo, "imaps", "imap", "5", more=f"[process]\nworkers = {workers}\n")
        with SocketActivatedProgram(text, tmp_path, sockets, "imap:imaps:") as program:
            program.wait_for("mailproxy is ready")
            for sock, name in zip(sockets, ("imap", "imaps", "5"), strict=True):
                client = connect_greeted(sock.getsockname())
                client.close()
                program.wait_for(f"listens on 127.0.0.1:{sock.getsockname()[1]} .*fd:{name}\\b")
            program.send(signal.SIGTERM)
            assert program.wait() == 0
            assert "Traceback" not in program.text


@pytest.mark.parametrize(
    ("names", "other_pid", "reason"),
    [
        ("smtp:pop3:smtp", False, "no inherited socket has this name (FileDescriptorName=), the names are: smtp, pop3"),
        (None, False, "no inherited socket has this name (FileDescriptorName=), the names are: unknown"),
        ("a:imap:imap", False, "2 inherited sockets have this name (fd:4, fd:5): write the number, or give each .socket unit one ListenStream= and its own FileDescriptorName="),
        ("imap", True, "the passed sockets are for process {other}, and this is {pid}: let the service manager start mailproxy itself, and no shell around it"),
    ],
)  # fmt: skip
def test_unknown_socket_name_is_a_fault(
    echo: Echo, tmp_path: Path, names: str | None, other_pid: bool, reason: str
) -> None:
    with ExitStack() as stack:
        sockets = open_listeners(stack, 3)
        with SocketActivatedProgram(
            inherited_configuration(echo, "imap"), tmp_path, sockets, names, other_pid=other_pid
        ) as program:
            assert program.wait() == 2
            pid = program.process.pid
            assert program.text == (
                f"{program.file}:5:9: frontends.imap.bind[0]: cannot listen on fd:imap: "
                f"{reason.format(pid=pid, other=pid + 1)}\n"
            )


def test_socket_name_without_service_manager_is_a_fault(echo: Echo, tmp_path: Path) -> None:
    with Program(inherited_configuration(echo, "imap"), tmp_path) as program:
        assert program.wait() == 2
        assert program.text == (
            f"{program.file}:5:9: frontends.imap.bind[0]: cannot listen on fd:imap: no socket was passed on "
            "(LISTEN_FDS is not set): is the .socket unit enabled and active?\n"
        )


# Restarts


class ClientThread(threading.Thread):
    """Connects again and again and expects a greeting each time."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.greeted = 0
        self.faults: list[str] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.005):
            try:
                with socket.create_connection(self.address, timeout=TIMEOUT_S) as client:
                    if client.recv(100) != b"* OK\r\n":
                        self.faults.append("no greeting")
                self.greeted += 1
            except OSError as error:
                self.faults.append(repr(error))


@WORKERS
def test_restart_with_inherited_socket_refuses_no_client(echo: Echo, tmp_path: Path, workers: int) -> None:
    """A process ends with a session that never ends by itself. Only then the next one starts."""
    process = f'[process]\nworkers = {workers}\ndrain_timeout = "1s"\n'
    with ExitStack() as stack:
        sockets = open_listeners(stack)
        client_threads = [ClientThread(sockets[0].getsockname()) for _ in range(4)]
        text = inherited_configuration(echo, "imap", more=process)
        for round_ in range(3):
            folder = tmp_path / str(round_)
            folder.mkdir()
            with SocketActivatedProgram(text, folder, sockets, "imap") as program:
                program.wait_for("mailproxy is ready")
                silent = connect_greeted(sockets[0].getsockname())
                if round_ == 0:
                    for client_thread in client_threads:
                        client_thread.start()
                before = sum(client_thread.greeted for client_thread in client_threads)
                while sum(client_thread.greeted for client_thread in client_threads) < before + 20:
                    assert program.process.poll() is None
                    time.sleep(0.01)
                if round_ == 2:
                    for client_thread in client_threads:
                        client_thread.is_over.set()
                        client_thread.join()
                program.send(signal.SIGTERM)
                assert program.wait() == 0
                assert silent.recv(100) == b""
                silent.close()
        assert [fault for client_thread in client_threads for fault in client_thread.faults] == []


@WORKERS
def test_next_process_starts_while_first_drains(echo: Echo, tmp_path: Path, workers: int) -> None:
    """The ports are free from then on. Sessions of the first process continue."""
    port = free_port()
    text = configuration(echo, f"[process]\nworkers = {workers}\n").replace(
        "127.0.0.1:0", f"127.0.0.1:{port}"
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with Program(text, tmp_path / "first") as first:
        first.wait_for("mailproxy is ready")
        old = connect_greeted(("127.0.0.1", port))
        first.send(signal.SIGTERM)
        first.wait_for("no more connections are accepted")
        wait_until(lambda: not is_open(("127.0.0.1", port)))
        with Program(text, tmp_path / "second") as second:
            second.wait_for("mailproxy is ready")
            connect_greeted(("127.0.0.1", port)).close()
            old.sendall(b"still here\r\n")
            assert old.recv(100) == b"still here\r\n"
            old.close()
            assert first.wait() == 0
            connect_greeted(("127.0.0.1", port)).close()
            second.send(signal.SIGINT)
            assert second.wait() == 0


# The watchdog


@WORKERS
def test_watchdog_is_fed_until_the_end(echo: Echo, tmp_path: Path, manager: Manager, workers: int) -> None:
    """Twice in WATCHDOG_USEC, also while sessions drain."""
    environment = {**os.environ, "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "400000"}
    with Program(
        configuration(echo, f"[process]\nworkers = {workers}\n"), tmp_path, env=environment
    ) as program:
        alive = (program.process.pid, ["WATCHDOG=1"])
        client = connect_greeted(program.addresses[0])
        manager.receive_until_ready()
        started = time.monotonic()
        assert [manager.receive() for _ in range(10)] == [alive] * 10
        assert time.monotonic() - started > 9 * 0.2 - 0.1
        program.send(signal.SIGTERM)
        assert manager.receive()[1][0] in ("STOPPING=1", "WATCHDOG=1")
        messages = [manager.receive() for _ in range(3)]
        assert alive in messages
        client.close()
        assert program.wait() == 0


@WORKERS
def test_watchdog_is_silent_when_the_loop_is_stopped(
    echo: Echo, tmp_path: Path, manager: Manager, workers: int
) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "200000"}
    with Program(
        configuration(echo, f"[process]\nworkers = {workers}\n"), tmp_path, env=environment
    ) as program:
        manager.receive_until_ready()
        program.send(signal.SIGSTOP)
        # The signal alone leaves it running for a moment.
        os.waitid(os.P_PID, program.process.pid, os.WSTOPPED)
        while manager.has_message:
            manager.receive()
        time.sleep(0.5)
        assert not manager.has_message
        program.send(signal.SIGCONT)
        assert manager.receive()[1] == ["WATCHDOG=1"]


@WORKERS
@pytest.mark.parametrize(
    "variables",
    [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "10000", "WATCHDOG_PID": "1"}],
)
def test_watchdog_of_others_is_not_fed(
    echo: Echo, tmp_path: Path, manager: Manager, workers: int, variables: dict[str, str]
) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": manager.name, **variables}
    with Program(
        configuration(echo, f"[process]\nworkers = {workers}\n"), tmp_path, env=environment
    ) as program:
        assert manager.receive()[1][0] == "READY=1"
        time.sleep(0.2)
        assert not manager.has_message
        program.send(signal.SIGTERM)
        assert program.wait() == 0
