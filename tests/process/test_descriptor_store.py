"""Listening sockets over a restart: the service manager keeps them, and connections wait in their queues."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.net.passing.store import stored_name
from tests.support.ports import free_port
from tests.support.service_manager import Service, ServiceManager, wait_for_exit
from tests.support.steady_logins import SteadyLogins
from tests.support.worker_group import Client, GreetingServer, configuration, wait_until

pytestmark = pytest.mark.slow

WORKERS = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def server() -> Iterator[GreetingServer]:
    each = GreetingServer("s1")
    yield each
    each.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as each:
        yield each


def text_for(server: GreetingServer, binds: str, *, workers: int = 1, more: str = "") -> str:
    text = configuration(server, workers=workers, drain_timeout="30s", more=more)
    return text.replace('bind = [{ address = "127.0.0.1:0" }]', f"bind = [{binds}]")


def start(manager: ServiceManager, text: str, *options: str, is_main: bool = True) -> Service:
    """Start a process of the service and wait until it is ready."""
    if is_main:
        manager.main_pid = 0
    service = manager.start(text, *options, is_main=is_main)
    service.__enter__()
    if is_main:
        manager.run(service)
    service.wait_for("mailproxy is ready")
    if is_main:
        wait_until(lambda: manager.is_ready or None)
    return service


def stop(service: Service) -> None:
    service.send(signal.SIGTERM)
    assert service.wait() == 0
    assert "Traceback" not in service.text
    service.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1:143", "mailproxy_127.0.0.1%3A143"),
        ("*:143", "mailproxy_*%3A143"),
        ("[::]:993", "mailproxy_[%3A%3A]%3A993"),
        ("unix:/run/mailproxy/imap.sock", "mailproxy_unix%3A%2Frun%2Fmailproxy%2Fimap.sock"),
    ],
)
def test_name_has_the_address_without_colons(address: str, name: str) -> None:
    assert stored_name(address) == name


def test_name_is_never_too_long() -> None:
    names = {stored_name(f"unix:/{'ü' * 100}{number}") for number in range(10)}
    assert len(names) == 10
    assert max(map(len, names)) <= 255


@WORKERS
def test_connections_wait_during_a_restart(
    server: GreetingServer, manager: ServiceManager, workers: int
) -> None:
    port = free_port()
    text = text_for(server, f'"127.0.0.1:{port}"', workers=workers)
    service = start(manager, text)
    wait_until(lambda: manager.names == [stored_name(f"127.0.0.1:{port}")] * workers or None)
    for _ in range(3):
        with SteadyLogins(("127.0.0.1", port), rate=100, threads=20) as load:
            load.wait_for(10)
            stop(service)
            time.sleep(0.3)  # no process is there
            service = start(manager, text)
            load.wait_for(30)
        assert load.faults == []
        assert manager.names == [stored_name(f"127.0.0.1:{port}")] * workers
    assert f"listening sockets that the service manager has kept: {workers}" in service.text
    stop(service)


def test_restart_after_a_crash_keeps_the_queue(server: GreetingServer, manager: ServiceManager) -> None:
    port = free_port()
    text = text_for(server, f'"127.0.0.1:{port}"')
    service = start(manager, text)
    wait_until(lambda: manager.names or None)
    service.process.kill()
    service.process.wait()
    client = Client(("127.0.0.1", port))
    service = start(manager, text)
    assert client.greeting == "s1"
    client.close()
    stop(service)


def test_number_of_workers_may_change_at_a_restart(server: GreetingServer, manager: ServiceManager) -> None:
    port = free_port()
    for workers in (1, 3, 1, 2):
        clients = []
        if manager.stored:
            clients = [Client(("127.0.0.1", port)) for _ in range(20)]
        service = start(manager, text_for(server, f'"127.0.0.1:{port}"', workers=workers))
        assert {client.greeting for client in clients} <= {"s1"}
        for client in clients:
            client.close()
        wait_until(lambda workers=workers: len(manager.names) >= workers)  # type: ignore[misc]
        stop(service)


@WORKERS
def test_unix_socket_keeps_its_file(
    server: GreetingServer, manager: ServiceManager, tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "imap.sock"
    text = text_for(server, f'"unix:{path}"', workers=workers)
    service = start(manager, text)
    wait_until(lambda: manager.names or None)
    inode = path.stat().st_ino
    stop(service)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        service = start(manager, text)
        assert client.recv(100) == b"s1\r\n"
    assert path.stat().st_ino == inode
    stop(service)
    path.unlink()  # as systemd does with RuntimeDirectory=
    service = start(manager, text)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert client.recv(100) == b"s1\r\n"
    wait_until(lambda: len(manager.names) == 1 or None)
    stop(service)


@WORKERS
def test_address_that_is_gone_is_forgotten(
    server: GreetingServer, manager: ServiceManager, workers: int
) -> None:
    ports = free_port(), free_port()
    service = start(
        manager, text_for(server, ", ".join(f'"127.0.0.1:{port}"' for port in ports), workers=workers)
    )
    wait_until(lambda: len(manager.names) == 2 * workers or None)
    stop(service)
    service = start(manager, text_for(server, f'"127.0.0.1:{ports[0]}"', workers=workers))
    wait_until(lambda: manager.names == [stored_name(f"127.0.0.1:{ports[0]}")] * workers or None)
    with pytest.raises(ConnectionRefusedError):
        Client(("127.0.0.1", ports[1]))
    stop(service)


def test_reload_updates_the_store(server: GreetingServer, manager: ServiceManager) -> None:
    ports = free_port(), free_port()
    service = start(manager, text_for(server, f'"127.0.0.1:{ports[0]}"'))
    wait_until(lambda: manager.names or None)
    service.edit(text_for(server, f'"127.0.0.1:{ports[1]}"'))
    service.send(signal.SIGHUP)
    wait_until(lambda: manager.names == [stored_name(f"127.0.0.1:{ports[1]}")] or None)
    stop(service)


@WORKERS
def test_sockets_of_units_are_not_stored(
    server: GreetingServer, manager: ServiceManager, workers: int
) -> None:
    """The manager has them anyway. Their names stay apart."""
    port = free_port()
    manager.units["imap"] = socket.create_server(("127.0.0.1", 0))
    text = text_for(server, f'"fd:imap", "127.0.0.1:{port}"', workers=workers)
    for _ in range(2):
        service = start(manager, text)
        wait_until(lambda: manager.names == [stored_name(f"127.0.0.1:{port}")] * workers or None)
        for address in (manager.units["imap"].getsockname(), ("127.0.0.1", port)):
            client = Client(address)
            assert client.greeting == "s1"
            client.close()
        stop(service)


def test_bind_cannot_name_a_stored_socket(server: GreetingServer, manager: ServiceManager) -> None:
    service = manager.start(text_for(server, '"fd:mailproxy_x"'))
    with service:
        assert service.wait() == 2
        assert "names that begin with mailproxy_ are mailproxy's own" in service.text


@WORKERS
def test_nothing_is_stored_without_a_store(server: GreetingServer, tmp_path: Path, workers: int) -> None:
    with ServiceManager(tmp_path, capacity=0) as manager:
        path = tmp_path / "imap.sock"
        service = start(manager, text_for(server, f'"127.0.0.1:0", "unix:{path}"', workers=workers))
        stop(service)
        assert not path.exists()
        assert [lines for _, lines in manager.messages if "FDSTORE=1" in lines] == []


@WORKERS
def test_manager_follows_a_handover(
    server: GreetingServer, manager: ServiceManager, tmp_path: Path, workers: int
) -> None:
    """The old process names the new one, whose messages count from then on. Then a restart works."""
    port = free_port()
    text = text_for(
        server, f'"127.0.0.1:{port}"', workers=workers, more=f'[admin]\nsocket = "{tmp_path / "admin.sock"}"'
    )
    old = start(manager, text)
    with SteadyLogins(("127.0.0.1", port), rate=100, threads=20) as load:
        load.wait_for(10)
        new = start(manager, text, "--replace", is_main=False)
        wait_until(lambda: manager.main_pid == new.process.pid or None)
        wait_until(lambda: manager.is_ready or None)
        wait_for_exit(old.process.pid)
        assert not any("STOPPING=1" in lines for _, lines in manager.messages)
        assert manager.names == [stored_name(f"127.0.0.1:{port}")] * workers
        stop(new)
        new = start(manager, text)
        load.wait_for(30)
    assert load.faults == []
    stop(new)
    assert os.waitstatus_to_exitcode(old.process.wait()) == 0
    old.__exit__(None, None, None)
