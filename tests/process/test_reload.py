"""SIGHUP to the program with one process: it reads the configuration again and uses it in place."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_process import Echo, configuration, connect_greeted
from tests.process.test_service_manager import Manager
from tests.support.program import Program


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


def reload(program: Program, text: str) -> None:
    program.edit(text)
    program.send(signal.SIGHUP)


def test_edited_configuration_is_used(echo: Echo, tmp_path: Path) -> None:
    text = configuration(echo)
    with Program(text, tmp_path) as program:
        address = program.addresses[0]
        client = connect_greeted(address)
        reload(
            program, f"{text}\n[frontends.more]\nprotocol = 'tcp'\nbackend = 'b'\nbind = ['127.0.0.2:0']\n"
        )
        program.wait_for(r"reloaded in \d+ ms: \+ frontend more; \+ bind more 127.0.0.2:0")
        port = int(program.wait_for(r"127.0.0.2:\d+, mode").removesuffix(", mode").rpartition(":")[2])
        connect_greeted(("127.0.0.2", port)).close()
        connect_greeted(address).close()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        client.close()
        program.send(signal.SIGHUP)
        program.wait_for(r"reloaded in \d+ ms: nothing has changed")


def test_faulty_configuration_is_not_used(echo: Echo, tmp_path: Path) -> None:
    text = configuration(echo)
    with Program(text, tmp_path) as program:
        address = program.addresses[0]
        reload(program, text.replace("backend", "backnd"))
        fault = program.wait_for(r"reload failed, the configuration stays as it was: .*")
        assert f"{program.file}:" in fault
        assert "did you mean backend?" in fault
        connect_greeted(address).close()
        program.file.unlink()
        program.send(signal.SIGHUP)
        program.wait_for(r"cannot be read: No such file or directory")
        connect_greeted(address).close()
        reload(program, text)
        program.wait_for(r"reloaded in \d+ ms: nothing has changed")


@pytest.mark.parametrize(("workers", "is_faulty"), [(1, False), (1, True), (2, False)])
def test_service_manager_is_notified(echo: Echo, tmp_path: Path, workers: int, is_faulty: bool) -> None:
    manager = Manager(str(tmp_path / "notify"))
    environment = {**os.environ, "NOTIFY_SOCKET": manager.name}
    text = configuration(echo, f"[process]\nworkers = {workers}\n")
    with Program(text, tmp_path, env=environment) as program:
        assert manager.receive()[1][0] == "READY=1"
        reload(program, "nonsense" if is_faulty else text)
        _, lines = manager.receive()
        assert lines[0] == "RELOADING=1"
        assert lines[1].startswith("MONOTONIC_USEC=")
        assert manager.receive()[1][0] == "READY=1"
    manager.socket.close()


def test_signals_in_a_row_lose_no_session(echo: Echo, tmp_path: Path) -> None:
    text = configuration(echo)
    with Program(text, tmp_path) as program:
        address = program.addresses[0]
        for number in range(20):
            reload(program, f"{text}\n[process]\ndrain_timeout = {number + 1}\n")
            for _ in range(5):
                connect_greeted(address).close()
        program.wait_for(r"process.drain_timeout: .* -> 20s")
        with socket.create_connection(address, timeout=10) as client:
            assert client.recv(1)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert "failed" not in program.text
