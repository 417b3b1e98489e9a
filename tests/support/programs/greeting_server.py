"""Servers that greet each client and close the connection after the client has."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import contextmanager, suppress
from queue import Queue
from typing import TYPE_CHECKING

from mailproxy.protocol import NeedMore
from mailproxy.protocol.proxy_header import Header, parse
from tests.support.interop.scripted_session import GREETING, HOST
from tests.support.programs.program import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = tuple[str, int]


class _Greeter(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        self.request.settimeout(TIMEOUT_S)
        with suppress(ConnectionError):
            self.request.sendall(GREETING)
            while self.request.recv(4096):
                pass


@contextmanager
def greeting_server() -> Iterator[Address]:
    """Yield the address of a server. All clients must have closed their connections at the end."""
    with _serving(_Greeter) as address:
        yield address


@contextmanager
def header_server() -> Iterator[tuple[Address, Queue[Header]]]:
    """Yield the address of a server that demands PROXY headers, and the headers that it reads."""
    headers = Queue[Header]()

    class Reader(_Greeter):
        def handle(self) -> None:
            headers.put(_read_header(self.request))
            super().handle()

    with _serving(Reader) as address:
        yield address, headers


def _read_header(connection: socket.socket) -> Header:
    """Read exactly the header and no further byte."""
    data = b""
    while isinstance(answer := parse(data), NeedMore):
        chunk = connection.recv(answer.total - len(data))
        assert chunk, f"the connection ended after {data!r}"
        data += chunk
    return answer[0]


@contextmanager
def _serving(handler: type[_Greeter]) -> Iterator[Address]:
    with socketserver.ThreadingTCPServer((HOST, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield HOST, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
