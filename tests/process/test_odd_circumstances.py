"""The program in unusual circumstances: its user, its standard descriptors, existing files, odd input."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.process.test_process import Echo, configuration, connect_greeted
from tests.support.ports import free_port
from tests.support.program import TIMEOUT_S, Program

pytestmark = pytest.mark.slow

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which is then given up by the program")

AS_NOBODY = '[process]\nuser = "nobody"\n'


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


def assert_echoed(client: socket.socket, line: bytes = b"still here\r\n") -> None:
    client.sendall(line)
    assert client.recv(100) == line


def connect_to_unix_socket(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(path))
    assert client.recv(100) == b"* OK\r\n"
    return client


# The user


@needs_root
def test_drain_works_although_unix_path_cannot_be_removed(echo: Echo, tmp_path: Path) -> None:
    """The socket is in a folder of root, and the program runs as another user.

    Sessions must not be cut because of that.
    """
    path = tmp_path / "imap.sock"
    text = configuration(echo, AS_NOBODY).replace(
        "[backends.b]", f'[[frontends.imap.bind]]\naddress = "unix:{path}"\n[backends.b]'
    )
    with Program(text, tmp_path) as program, ExitStack() as stack:
        address = program.addresses[0]
        clients = [
            stack.enter_context(client) for client in (connect_greeted(address), connect_to_unix_socket(path))
        ]
        program.send(signal.SIGTERM)
        program.wait_for("no more connections are accepted, open sessions .2. have 30s to end")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=10)
        for client in clients:
            assert_echoed(client)
            client.close()
        assert program.wait() == 0
        assert program.text.count("client-closed") == 2
        assert "Traceback" not in program.text


@needs_root
def test_tls_works_after_giving_up_root(echo: Echo, tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    """TLS to servers and from clients.

    Nothing is imported by then, because the new user may be unable to read the files.
    """
    pem = throw_away_ca.issue("localhost")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        text = f"""
            {AS_NOBODY}
            [frontends.imap]
            backend = "b"
            tls = {{ certificates = ["{pem}"] }}
            [[frontends.imap.bind]]
            address = "127.0.0.1:0"
            mode = "tls"
            [backends.b]
            check = "none"
            servers = ["localhost:{listener.getsockname()[1]}"]
            tls = {{ ca = "{throw_away_ca.pem}" }}
        """
        # With this variable Python writes each later import to standard error.
        environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
        with Program(text, tmp_path, env=environment) as program:
            address = program.addresses[0]
            context = throw_away_ca.client_context()
            client = context.wrap_socket(
                socket.create_connection(address, timeout=TIMEOUT_S), server_hostname="localhost"
            )
            with client:
                server_sock, _ = listener.accept()
                server_sock.settimeout(TIMEOUT_S)
                server_tls = throw_away_ca.server_context("localhost").wrap_socket(
                    server_sock, server_side=True
                )
                with server_tls:
                    server_tls.sendall(b"* OK\r\n")
                    assert client.recv(100) == b"* OK\r\n"
                    assert_relayed(client, server_tls)
            program.wait_for(r" after [\d.]+s, |a fault of mailproxy")
            program.send(signal.SIGTERM)
            assert program.wait() == 0
            served = program.text.partition("mailproxy is ready")[2]
            assert re.findall(r"import time: .*|.*a fault of mailproxy.*", served) == []
            assert "Traceback" not in served


def assert_relayed(sender: socket.socket, receiver: socket.socket) -> None:
    sender.sendall(b"a1 NOOP\r\n")
    assert receiver.recv(100) == b"a1 NOOP\r\n"


@needs_root
@pytest.mark.parametrize("exists", [True, False])
def test_root_rejects_symlink_as_log(echo: Echo, tmp_path: Path, exists: bool) -> None:
    """The user may own the folder.

    Root must not be led to create, fill or give away any file of the machine.
    """
    victim, log = tmp_path / "victim", tmp_path / "proxy.log"
    if exists:
        victim.write_text("of somebody else\n")
    log.symlink_to(victim)
    with Program(configuration(echo, f'{AS_NOBODY}[log]\nto = "{log}"'), tmp_path) as program:
        assert program.wait() == 2
        (line,) = program.text.splitlines()
        assert line.startswith(f"{program.file}:4:1: log.to: {log}: ")
    assert log.is_symlink()
    if exists:
        assert (victim.read_text(), victim.stat().st_uid) == ("of somebody else\n", 0)
    else:
        assert not victim.exists()


@pytest.mark.parametrize("exists", [True, False])
def test_log_symlink_is_followed_without_user_change(echo: Echo, tmp_path: Path, exists: bool) -> None:
    """Without a change of user the link is the operator's choice, also when rotation has moved the file."""
    target, log = tmp_path / "elsewhere.log", tmp_path / "proxy.log"
    log.symlink_to(target)
    if exists:
        target.write_text("an older line\n")
    with Program(configuration(echo, f'[log]\nto = "{log}"'), tmp_path) as program:
        program.wait_for("mailproxy is ready", where=target)
        target.rename(tmp_path / "elsewhere.log.1")
        program.send(signal.SIGUSR2)
        program.wait_for("the log was reopened", where=target)


# Standard descriptors


CLOSED_DESCRIPTORS = {
    "all": "<&- >&- 2>&-",
    "output and error": "</dev/null >&- 2>&-",
    "error": "</dev/null >/dev/null 2>&-",
}


@pytest.mark.parametrize("to", ["stderr", "stdout"])
@pytest.mark.parametrize("closed", CLOSED_DESCRIPTORS)
def test_log_never_reaches_sockets_without_standard_descriptors(
    tmp_path: Path, throw_away_ca: ThrowAwayCA, closed: str, to: str
) -> None:
    """The numbers of closed standard descriptors are not reused: no log line reaches a client or a server.

    The worst moment is tested: the listener, which would have got such a number, is closed. Then the
    connection to the next server would take the number.
    """
    pem, context = throw_away_ca.issue("localhost"), throw_away_ca.client_context()
    address = ("127.0.0.1", free_port())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        file = tmp_path / "mailproxy.toml"
        file.write_text(f"""
            [log]
            to = "{to}"
            [frontends.imap]
            backend = "b"
            tls = {{ certificates = ["{pem}"] }}
            bind = [{{ address = "127.0.0.1:{address[1]}", mode = "tls" }}]
            log_null = true
            log_start = true
            [backends.b]
            check = "none"
            servers = ["127.0.0.1:{listener.getsockname()[1]}"]
        """)
        command = shlex.join([sys.executable, "-m", "mailproxy", "run", str(file)])
        process = subprocess.Popen(["sh", "-c", f"exec {command} {CLOSED_DESCRIPTORS[closed]}"])
        try:
            first, second = connect(address, process), connect(address, process)
            assert_conversation(context.wrap_socket(first, server_hostname="localhost"), listener)
            process.send_signal(signal.SIGTERM)
            wait_until_refused(address)
            assert_conversation(context.wrap_socket(second, server_hostname="localhost"), listener)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
            process.wait()


def assert_conversation(client: ssl.SSLSocket, listener: socket.socket) -> None:
    """Assert that client and server receive each other's data and nothing else."""
    server_sock, _ = listener.accept()
    with client, server_sock:
        server_sock.sendall(b"* OK\r\n")
        assert receive_until(client, b"\n") == b"* OK\r\n"
        client.sendall(b"a1 NOOP\r\n")
        assert receive_until(server_sock, b"\n") == b"a1 NOOP\r\n"
        server_sock.sendall(b"a1 OK\r\n")
        server_sock.shutdown(socket.SHUT_WR)
        assert receive_until(client) == b"a1 OK\r\n"
        client.close()
        assert receive_until(server_sock) == b""


def connect(address: tuple[str, int], process: subprocess.Popen[bytes]) -> socket.socket:
    """Connect to a program that cannot report when it is ready."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return socket.create_connection(address, timeout=TIMEOUT_S)
        except ConnectionRefusedError:
            assert process.poll() is None, f"the program ended with {process.returncode}"
            assert time.monotonic() < end, "the program never listened"
            time.sleep(0.01)


def wait_until_refused(address: tuple[str, int]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        try:
            socket.create_connection(address, timeout=TIMEOUT_S).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass
        time.sleep(0.01)
    raise AssertionError("the program still listens")


def receive_until(sock: socket.socket, last: bytes | None = None) -> bytes:
    """Receive until the data ends with ``last``, or until the end of the connection."""
    data = b""
    sock.settimeout(TIMEOUT_S)
    while not (last and data.endswith(last)) and (piece := sock.recv(1000)):
        data += piece
    return data


def test_inherited_unix_socket_needs_server_port(tmp_path: Path) -> None:
    path = tmp_path / "inherited.sock"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(path))
        inherited.listen()
        fd = inherited.fileno()
        text = f"""
            [frontends.imap]
            backend = "b"
            bind = [{{ address = "fd:{fd}" }}]
            [backends.b]
            servers = [{{ name = "mail", address = "127.0.0.1" }}]
        """
        with Program(text, tmp_path, pass_fds=(fd,)) as program:
            assert program.wait() == 2
            assert program.text.strip() == (
                f"{program.file}:4:23: frontends.imap.bind[0].address: "
                f"fd:{fd} has no port for server mail, which has none either"
            )
    assert path.is_socket(), "the socket belongs to the process that passed it"


# Existing files


def test_datagram_socket_at_path_is_left_alone(echo: Echo, tmp_path: Path) -> None:
    """For example /dev/log: connecting to it as a stream fails, although the socket is in use."""
    path = tmp_path / "dev-log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as in_use:
        in_use.bind(str(path))
        with Program(configuration(echo).replace("127.0.0.1:0", f"unix:{path}"), tmp_path) as program:
            assert program.wait() == 2
            assert program.text.strip() == (
                f"{program.file}:6:18: frontends.imap.bind[0]: cannot listen on unix:{path}: Address already in use"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"<134>still here", str(path))
        in_use.settimeout(10)
        assert in_use.recv(100) == b"<134>still here"


def test_expired_certificate_is_served_with_warning(
    echo: Echo, tmp_path: Path, throw_away_ca: ThrowAwayCA
) -> None:
    """``check`` reports a fault. A proxy that restarts at night must serve, and logs a warning."""
    now = datetime.now(UTC)
    pem = throw_away_ca.issue(
        "expired.example", not_before=now - timedelta(days=90), not_after=now - timedelta(days=1)
    )
    text = configuration(echo).replace(
        'backend = "b"', f'backend = "b"\ntls = {{ certificates = ["{pem}"] }}'
    )
    text = text.replace('"127.0.0.1:0"', '"127.0.0.1:0"\nmode = "tls"')
    with Program(text, tmp_path) as program:
        address = program.addresses[0]
        program.wait_for(
            rf"warning: frontends\.imap\.tls\S*: {re.escape(str(pem))}: is not in date: from \S+ to \S+"
        )
        unverified_context = ssl.create_default_context()
        unverified_context.check_hostname, unverified_context.verify_mode = False, ssl.CERT_NONE
        with unverified_context.wrap_socket(socket.create_connection(address, timeout=10)) as client:
            assert client.recv(100) == b"* OK\r\n"
            assert_echoed(client)
        completed = subprocess.run(
            [sys.executable, "-m", "mailproxy", "check", str(program.file)], capture_output=True, text=True
        )
    assert completed.returncode == 2
    assert "is not in date" in completed.stderr
    assert "Traceback" not in completed.stderr


# Signals and input


def test_usr1_is_ignored_with_warning(echo: Echo, tmp_path: Path) -> None:
    """Other programs reopen logs at SIGUSR1. A log rotation made for them must not end this one."""
    with Program(configuration(echo), tmp_path) as program:
        with connect_greeted(program.addresses[0]) as client:
            program.send(signal.SIGUSR1)
            program.wait_for("warning: SIGUSR1 means nothing here")
            assert_echoed(client)
        program.send(signal.SIGTERM)
        assert program.wait() == 0


def test_server_name_outside_ascii_writes_no_traceback(
    echo: Echo, tmp_path: Path, throw_away_ca: ThrowAwayCA
) -> None:
    """Python would write a traceback to standard error, which any client could repeat."""
    pem = throw_away_ca.issue("localhost")
    text = configuration(echo).replace(
        'backend = "b"', f'backend = "b"\ntls = {{ certificates = ["{pem}"] }}'
    )
    text = text.replace('"127.0.0.1:0"', '"127.0.0.1:0"\nmode = "tls"')
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = throw_away_ca.client_context().wrap_bio(incoming, outgoing, server_hostname="caf-.example")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    with Program(text, tmp_path) as program:
        with socket.create_connection(program.addresses[0], timeout=10) as client:
            client.sendall(outgoing.read().replace(b"caf-.example", b"caf\xe9.example"))
            while client.recv(1000):
                pass
        program.wait_for("handshake-failed")
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        for word in ("Traceback", "Exception", "UnicodeDecodeError", ".py"):
            assert word not in program.text
