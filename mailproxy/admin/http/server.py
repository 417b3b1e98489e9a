"""Serves the pages with hypercorn, on connections that are accepted and bounded here."""

from __future__ import annotations

import logging
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp

from mailproxy.admin.http.connections import Connections
from mailproxy.admin.http.sockets import HttpListener
from mailproxy.log import Log
from mailproxy.proxy.supervise import contained

_HELPER = "HTTP"
_CONNECTIONS_MAX = 100  # of the 200 descriptors that sessions leave
_HEADER_BYTES_MAX = 16 * 1024
_HTTP2_STREAMS_MAX = 10
_HEADER_TIMEOUT_S = 10  # for a request's header to be complete, and between two requests
_ACCEPT_RETRY_S = 0.1
_REQUESTS_PER_CONNECTION = 1000


class HttpServer:
    """Serves an application at a listener."""

    def __init__(self, app: ASGIApp, listener: HttpListener, log: Log) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]  # hypercorn's types of messages are narrower
        self._listener = listener
        self._log = log
        self._connections = Connections(_CONNECTIONS_MAX)
        self._config = _configuration()
        self._context = WorkerContext(None)

    async def run(self) -> None:
        """Serve until cancelled. Connections are closed then, whatever is being sent."""
        sock = trio.socket.from_stdlib_socket(self._listener.socket.dup())
        try:
            with sock:
                async with trio.open_nursery() as nursery:
                    try:
                        await self._accept(sock, nursery)
                    finally:
                        self._connections.close_all()
        finally:
            self._connections.close_all()

    async def _accept(self, sock: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                accepted, _ = await sock.accept()
            except OSError:  # out of descriptors, or the client has left already
                await trio.sleep(_ACCEPT_RETRY_S)
                continue
            nursery.start_soon(self._serve, accepted)

    async def _serve(self, accepted: trio.socket.SocketType) -> None:
        connection = self._connections.add(trio.SocketStream(accepted))
        try:
            with contained(self._log, _HELPER):
                stream: Any = connection  # hypercorn accepts any stream with a socket
                if (terminator := self._listener.terminator) is not None:
                    selection = terminator.select(None)
                    if selection is None:  # strict_sni, and no certificate is the default
                        return
                    stream = trio.SSLStream(
                        connection, selection.context, server_side=True, https_compatible=True
                    )
                server = TCPServer(self._app, self._config, self._context, ConnectionState({}), stream)
                try:
                    await server.run()
                except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                    pass  # the client has left, or was disconnected
        finally:
            connection.close()


def _configuration() -> HypercornConfig:
    config = HypercornConfig()
    config.h11_max_incomplete_size = _HEADER_BYTES_MAX
    # The server also speaks HTTP/2 if a client asks to upgrade, as curl --http2 does.
    config.h2_max_header_list_size = _HEADER_BYTES_MAX
    config.h2_max_concurrent_streams = _HTTP2_STREAMS_MAX
    config.keep_alive_timeout = _HEADER_TIMEOUT_S
    config.ssl_handshake_timeout = _HEADER_TIMEOUT_S
    config.keep_alive_max_requests = _REQUESTS_PER_CONNECTION
    config.include_server_header = False
    silent = logging.getLogger("mailproxy.admin.http")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    config.errorlog, config.accesslog = silent, None
    return config
