"""HTTP survives hostile clients, and sessions do not notice."""

from __future__ import annotations

import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from tests.support.http_client import request
from tests.support.ports import free_port
from tests.support.worker_group import GreetingServer, WorkerGroup, configuration, greeting_servers

pytestmark = pytest.mark.slow


class Site(WorkerGroup):
    http: int


@pytest.fixture
def servers() -> Iterator[list[GreetingServer]]:
    with greeting_servers("s1") as servers:
        yield servers


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    port, token = free_port(), folder / "token"
    token.write_text("0123456789abcdef" * 2)
    more = f'[admin]\nhttp = "127.0.0.1:{port}"\ntoken_file = "{token}"'
    with (
        greeting_servers("s1") as servers,
        Site(configuration(*servers, more=more, workers=1), folder) as site,
    ):
        site.http = port
        site.wait_for("mailproxy is ready")
        yield site


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """Return a program with a session, which the test must not disturb."""
    client = shared_site.connect()
    assert client.greeting == "s1"
    yield shared_site
    assert client.echoes()
    client.close()
    assert request(shared_site.http, "/healthz").status == 200
    assert "helper-failed" not in shared_site.text
    assert "Traceback" not in shared_site.text


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def answer(sock: socket.socket) -> bytes:
    try:
        return b"".join(iter(lambda: sock.recv(65536), b""))
    except ConnectionResetError:
        return b""


def test_slow_header_is_cut_off_after_ten_seconds(site: Site) -> None:
    started_at = time.monotonic()
    with connect(site.http) as sock, connect(site.http) as silent:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        sock.settimeout(1)
        while time.monotonic() < started_at + 15:  # a byte a second stretches nothing
            try:
                if sock.recv(1000) == b"":
                    break
                pytest.fail("answered an incomplete header")
            except TimeoutError:
                sock.sendall(b"x")
            except ConnectionResetError:
                break
        assert 8 < time.monotonic() - started_at < 14
        assert answer(silent) == b""


def test_large_header_is_refused(site: Site) -> None:
    with connect(site.http) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        with ExitStack() as stack:
            stack.callback(lambda: None)
            try:
                for _ in range(100):
                    sock.sendall(b"x" * 1024)
            except OSError:
                pass
        assert b" 200 " not in answer(sock)
    with connect(site.http) as sock:
        padding = b"x" * (12 * 1024)
        sock.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\nX: " + padding + b"\r\n\r\n")
        assert answer(sock).startswith(b"HTTP/1.1 200")


WEBSOCKET = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 100


@pytest.mark.parametrize("noise", [b"\0" * 5000, HTTP2, b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", WEBSOCKET])
def test_noise_is_refused(site: Site, noise: bytes) -> None:
    with connect(site.http) as sock:
        sock.sendall(noise)
        sock.shutdown(socket.SHUT_WR)
        assert b" 101 " not in answer(sock)


def test_request_that_comes_in_bytes_is_answered(site: Site) -> None:
    with connect(site.http) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /api/command HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert answer(sock).startswith(b"HTTP/1.1 401 ")


def test_upgrade_to_http2_keeps_the_bounds(site: Site) -> None:
    with connect(site.http) as sock:
        sock.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        )
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_upgrade_connection()
        sock.sendall(client.data_to_send())
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        client.receive_data(data.partition(b"\r\n\r\n")[2])
        while client.remote_settings.max_concurrent_streams > 100:
            client.receive_data(sock.recv(65536))
        assert client.remote_settings.max_concurrent_streams == 10
        assert client.remote_settings.max_header_list_size == 16 * 1024


def test_thousand_idle_connections_keep_nobody_out(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(site.http)) for _ in range(1000)]
        for path in ("/healthz", "/metrics", "/api/status"):
            started_at = time.monotonic()
            assert request(site.http, path).status == 200
            assert time.monotonic() - started_at < 9  # they are cut off after 10 s
        client = site.connect()
        assert client.greeting == "s1"
        assert client.echoes()
        client.close()
        descriptors = len(list(Path(f"/proc/{site.process.pid}/fd").iterdir()))
        assert descriptors < 200
        del idle


@pytest.mark.parametrize("path", ["/api/command", "/healthz"])
def test_gigabyte_request_is_cut_off(site: Site, path: str) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{site.process.pid}/statm").read_text().split()[1]) * 4096

    before, sent = resident(), 0
    with connect(site.http) as sock:
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**30}\r\n"
            f"Authorization: Bearer {'0123456789abcdef' * 2}\r\n\r\n".encode()
        )
        sock.settimeout(20)
        part = b"x" * 65536
        try:
            while sent < 2**30:
                sock.sendall(part)
                sent += len(part)
        except OSError:
            pass
    assert sent < 64 * 2**20
    assert resident() - before < 20 * 2**20


def test_reader_that_takes_nothing_is_disconnected(site: Site) -> None:
    with ExitStack() as stack:
        stalled = []
        for _ in range(20):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.settimeout(20)
            sock.connect(("127.0.0.1", site.http))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
            stalled.append(sock)
        started_at = time.monotonic()
        assert request(site.http, "/healthz").status == 200
        assert time.monotonic() - started_at < 8
        # The program ends although they are being written to.
        site.connect()


def test_program_ends_while_clients_stall(servers: list[GreetingServer], tmp_path: Path) -> None:
    port = free_port()
    text = configuration(*servers, more=f'[admin]\nhttp = "127.0.0.1:{port}"', workers=1)
    with WorkerGroup(text, tmp_path) as group, socket.socket() as sock:
        group.wait_for("mailproxy is ready")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        time.sleep(0.5)
        started_at = time.monotonic()
        group.send(signal.SIGTERM)
        assert group.wait() == 0
        assert time.monotonic() - started_at < 9  # a write may take 10 s


def test_many_requests_at_once_are_answered(site: Site) -> None:
    answers: list[int] = []

    def scrape() -> None:
        answers.extend(request(site.http, "/api/status").status for _ in range(5))

    threads = [threading.Thread(target=scrape) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 150
