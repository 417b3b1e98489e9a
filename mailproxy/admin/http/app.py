"""The pages: metrics, health, status, commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files

import trio
from attrs import define, field
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailproxy.admin.exporter.exposition import expose
from mailproxy.admin.http.guard import HEADERS, Guard, is_foreign, unauthorized
from mailproxy.admin.http.sockets import HttpListener
from mailproxy.admin.http.status import EVENTS_MAX, Status
from mailproxy.admin.runtime.call import Call, Client, CommandError, Level
from mailproxy.admin.runtime.commands import execute
from mailproxy.log import Log
from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.supervise import log_failure

_HELPER = "HTTP"
_COMMAND_BYTES_MAX = 16 * 1024  # as a line of the admin socket
_BODY_TIMEOUT_S = 10.0
# However many browsers ask for the status, it is made this often.
_CACHED_S = 1.0
_DENIED = "Permission denied"
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
          ".svg": "image/svg+xml"}  # fmt: skip

_MakeBody = Callable[[], Awaitable[tuple[bytes, str]]]


@define(eq=False)
class _Cached:
    """A body that is made once a second at most, however many clients ask.

    Attributes:
        make: Makes the body and its content type.
    """

    make: _MakeBody
    _body: tuple[bytes, str] = (b"", "")
    _made_at: float = -_CACHED_S
    _lock: trio.Lock = field(factory=trio.Lock)

    async def respond(self, _: Request) -> Response:
        async with self._lock:
            if trio.current_time() >= self._made_at + _CACHED_S:
                self._body = await self.make()
                self._made_at = trio.current_time()
            body, content_type = self._body
        return Response(body, headers={"content-type": content_type})


class Pages:
    """Answers requests about a proxy.

    Args:
        status: Describes the proxy.
        listener: How the pages are protected.
        log: Gets the faults of pages.
    """

    def __init__(self, status: Status, listener: HttpListener, log: Log) -> None:
        self._status = status
        self._history = status.history
        self._guard = Guard(listener.is_local, listener.token)
        self._status_body = _Cached(self._make_status)
        self._log = log

    def app(self) -> ASGIApp:
        """Return them as an ASGI application."""
        routes = [
            Route("/metrics", self._metrics),
            Route("/healthz", _health),
            Route("/readyz", self._ready),
            Route("/api/status", self._status_body.respond),
            Route(
                "/api/command",
                self._command,
                methods=["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"],
            ),
        ]
        for path, page in _PAGES.items():
            routes.append(Route(path, _constant(*page)))
        return _Border(Starlette(routes=routes), self._guard, self._log)

    async def _metrics(self, request: Request) -> Response:
        await self._refresh()
        body, content_type = await expose(self._history, request.headers.get("accept"))
        return Response(body, headers={"content-type": content_type})

    async def _ready(self, _: Request) -> Response:
        reasons = self._not_ready()
        if reasons:
            return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), 503)
        return PlainTextResponse("ready\n")

    def _not_ready(self) -> list[str]:
        """Return why sessions should go elsewhere; nothing if they may come."""
        target = self._history.target
        if target.is_stopping:
            return ["stopping"]
        reasons = [] if target.is_ready else ["not every process listens"]
        reasons += [
            f"frontend {name} does not accept"
            for name in target.config.frontends
            if target.frontend(name).state is not FrontendState.OPEN
        ]
        reasons += [
            f"backend {name} has no server available"
            for name, backend in target.backends.items()
            if not backend.pool.has_usable_server
        ]
        return reasons

    async def _make_status(self) -> tuple[bytes, str]:
        await self._refresh()
        recent = await self._history.target.recent(EVENTS_MAX, with_sessions=True)
        return await self._status.write(recent, self._not_ready()), "application/json"

    async def _refresh(self) -> None:
        await self._history.target.refresh()
        self._history.look()

    async def _command(self, request: Request) -> Response:
        if self._guard.token is None:
            return PlainTextResponse("no commands: admin.token_file is not set\n", 404)
        if request.method != "POST":
            return PlainTextResponse("use POST\n", 405, {"allow": "POST"})
        if is_foreign(request):
            return PlainTextResponse("refused: the request comes from another site\n", 403)
        if not self._guard.has_token(request, only_bearer=True):
            return unauthorized()
        body = await _read_body(request)
        if body is None:
            return PlainTextResponse("the command is too long, or came too slowly\n", 413)
        return await self._execute(body.decode("utf-8", "replace").strip())

    async def _execute(self, text: str) -> Response:
        if "\n" in text:
            return PlainTextResponse("one command at a time\n", 400)
        call = Call(self._history.target, self._history, Client(Level.OPERATOR))
        try:
            answer = await execute(call, text)
        except CommandError as error:
            return PlainTextResponse(f"{error}\n", 403 if str(error) == _DENIED else 400)
        if not isinstance(answer, str):
            return PlainTextResponse(
                "this command needs an admin socket, because its answer has no end\n", 400
            )
        return PlainTextResponse(answer.encode("utf-8", "backslashreplace"))


async def _health(_: Request) -> Response:  # noqa: ASYNC124 - starlette runs plain functions in threads
    """Answer: that this is reached shows that the loop turns."""
    return PlainTextResponse("ok\n")


async def _read_body(request: Request) -> bytes | None:
    """Return the body; None if it is too long or too slow."""
    body = b""
    with trio.move_on_after(_BODY_TIMEOUT_S):
        async for part in request.stream():
            body += part
            if len(body) > _COMMAND_BYTES_MAX:
                return None
        return body
    return None


def _page_files() -> Mapping[str, tuple[bytes, str]]:
    """Return the files of the status page by path, with their types. They are read before privileges are dropped."""
    pages = {}
    for file in (files("mailproxy.admin.http") / "page").iterdir():
        suffix = f".{file.name.rpartition('.')[2]}"
        if suffix in _TYPES:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            pages[path] = file.read_bytes(), _TYPES[suffix]
    return pages


_PAGES = _page_files()


def _constant(body: bytes, content_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_: Request) -> Response:  # noqa: ASYNC124 - as above
        return Response(body, headers={"content-type": content_type})

    return respond


class _Border:
    """Around all pages: refuses, adds headers to every response, and logs faults."""

    def __init__(self, app: ASGIApp, guard: Guard, log: Log) -> None:
        self._app = app
        self._guard = guard
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no WebSocket, and no lifespan
        is_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refusal = self._guard.refusal(Request(scope))
            await (refusal or self._app)(scope, receive, send_with_headers)
        except Exception as fault:  # noqa: BLE001 - the border: no fault of a page touches a session
            log_failure(self._log, _HELPER, fault)
            if not is_started:
                await PlainTextResponse("a fault, which is in the log\n", 500)(
                    scope, receive, send_with_headers
                )
