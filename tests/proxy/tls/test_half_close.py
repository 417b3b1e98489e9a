"""A client that half-closes during a download gets all data, in clear text and over TLS."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

import pytest
import trio

from mailproxy.testing import Connection, pattern
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.proxy.relays import ON_EACH

pytestmark = ON_EACH

SIZE = 8_000_000
CHUNK_BYTES = 1400  # small records make more arrivals, also at a bad moment
ROUNDS = 3


class SendingServer:
    """A server in its own thread, so that it sends while the proxy works. In one loop they would alternate."""

    def __init__(self, context: ssl.SSLContext | None, data: bytes) -> None:
        self._context = context
        self._data = data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.errors: list[OSError] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()  # before the descriptor is another socket's
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._send(connection)
                except OSError as error:
                    self.errors.append(error)

    def _send(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        sock = connection
        if self._context is not None:
            sock = self._context.wrap_socket(connection, server_side=True)
        with sock:
            view = memoryview(self._data)
            for start in range(0, len(view), CHUNK_BYTES):
                sock.sendall(view[start : start + CHUNK_BYTES])
            if isinstance(sock, ssl.SSLSocket):
                sock.unwrap()
            sock.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def data() -> bytes:
    return pattern(SIZE)


async def half_closed_download(client: Connection) -> str:
    """Half-close after 1 % of the data; return the digest of all data received."""
    await client.receive_exactly(SIZE // 100)
    await client.half_close()
    await client.receive_until_end()
    return hashlib.sha256(client.received).hexdigest()


@pytest.mark.parametrize(
    ("tls", "server_tls"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["clear-clear", "tls-clear", "clear-tls", "tls-tls"],
)
async def test_half_close_during_download_keeps_all_data(
    harness: ProxyHarness, data: bytes, tls: bool, server_tls: bool
) -> None:
    context = harness.ca.server_context("127.0.0.1") if server_tls else None
    with SendingServer(context, data) as sender:
        proxy = await harness.proxy(sender.address, tls=tls, server_tls=server_tls)
        for _ in range(ROUNDS):
            client = await harness.dial(proxy, tls=tls)
            with trio.fail_after(30):
                digest = await half_closed_download(client)
            assert len(client.received) == SIZE
            assert digest == hashlib.sha256(data).hexdigest()
            assert client.end == ("close_notify" if tls else "eof")
            client.drop()
        lines = await harness.sessions(ROUNDS)
        assert sender.errors == []
    assert {(line["end"], line["bytes_out"]) for line in lines} == {("client-closed", SIZE)}
