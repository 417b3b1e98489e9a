"""A proxy in front of Pebble: it adds renewal information, and the faults that Pebble does not have."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import define, field, frozen

from mailproxy.testing import ThrowAwayCA
from tests.support.acme.pebble import Pebble


@frozen
class Answer:
    """What a client gets in place of Pebble's answer."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/problem+json"),)

    @classmethod
    def problem(cls, status: int, kind: str, detail: str, **headers: str) -> Answer:
        body = json.dumps({"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status})
        extra = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        return cls(status, body.encode(), (("Content-Type", "application/problem+json"), *extra))


Rule = Callable[[str, str, bytes], "Answer | None"]
"""Gets method, path and body. Returns an answer, or None to leave it to Pebble. May wait."""


def waits(gate: threading.Event) -> Rule:
    """Let requests wait until a gate is open."""

    def rule(*_: object) -> None:
        gate.wait(60)

    return rule


@define(eq=False)
class Front:
    """The proxy, closed at the end of the `with` block.

    Attributes:
        rules: Asked before a request is passed on; the first answer counts.
        after: Asked after Pebble has answered, with the path and its answer.
        window: The renewal window by certificate; None for an authority without renewal information.
        requests: Method and path of each request so far.
        orders: The payload of each new order.
    """

    pebble: Pebble
    ca: ThrowAwayCA
    folder: Path
    rules: list[Rule] = field(factory=list)
    after: list[Callable[[str, int, bytes], Answer | None]] = field(factory=list)
    window: Callable[[str], Answer] | None = None
    requests: list[tuple[str, str]] = field(factory=list)
    orders: list[dict[str, Any]] = field(factory=list)
    _server: ThreadingHTTPServer = field(init=False)

    def __enter__(self) -> Self:
        front: Front = self

        class Handler(_Handler):
            owner = front

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.ca.issue("127.0.0.1", folder=self.folder))
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def directory(self) -> str:
        """The URL of the directory."""
        return f"https://127.0.0.1:{self._server.server_address[1]}/dir"

    def count(self, path: str) -> int:
        """Return how many requests there were for paths that begin so."""
        return sum(requested.startswith(path) for _, requested in self.requests)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        self.requests.append((method, path))
        for rule in list(self.rules):
            if (answer := rule(method, path, body)) is not None:
                return answer
        if self.window is not None and path.startswith("/renewal/"):
            return self.window(path.removeprefix("/renewal/"))
        answer = self._ask_pebble(method, path, headers, body)
        if path == "/order-plz":
            self.orders.append(_payload(body))
        for after in list(self.after):
            if (other := after(path, answer.status, answer.body)) is not None:
                return other
        if path == "/dir" and self.window is not None:
            directory = json.loads(answer.body)
            directory["renewalInfo"] = self.directory.replace("/dir", "/renewal")
            return Answer(answer.status, json.dumps(directory).encode(), answer.headers)
        return answer

    def _ask_pebble(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        context = ssl.create_default_context(cafile=self.ca.pem)
        connection = http.client.HTTPSConnection("127.0.0.1", self.pebble.port, context=context, timeout=60)
        try:
            connection.request(method, path, body or None, headers)  # with our Host, of which it makes URLs
            response = connection.getresponse()
            kept = [each for each in response.getheaders() if each[0].lower() not in _HOP_BY_HOP]
            return Answer(response.status, response.read(), tuple(kept))
        finally:
            connection.close()


_HOP_BY_HOP = ("transfer-encoding", "connection", "content-length")


class _Handler(BaseHTTPRequestHandler):
    owner: Front
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.owner.answer(self.command, self.path, dict(self.headers.items()), body)
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_POST = do_HEAD = _handle  # noqa: N815 - the base class looks for these names

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # the client is gone, as when a test kills it
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Write nothing."""


def _payload(body: bytes) -> dict[str, Any]:
    from josepy.b64 import b64decode

    payload: dict[str, Any] = json.loads(b64decode(json.loads(body)["payload"]))
    return payload
