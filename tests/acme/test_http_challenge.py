"""http-01: a listener that is open only while it is needed, and files for a web server."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest
import trio

from mailproxy.acme.challenges.http import HttpListenerSolver, HttpSocket, WebrootSolver
from mailproxy.acme.challenges.solver import Proof
from mailproxy.acme.errors import AcmeError
from mailproxy.address import TcpAddress
from tests.support.ports import free_port
from tests.support.timeouts import TIMEOUT_S

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"  # that of RFC 8555
PROOF = Proof(name="imap.example.com", token=TOKEN, key_authorization=f"{TOKEN}.thumbprint")


@pytest.fixture
def solver() -> HttpListenerSolver:
    return HttpListenerSolver(HttpSocket(TcpAddress("127.0.0.1", free_port())))


async def ask(solver: HttpListenerSolver, request: bytes) -> bytes:
    """Return the whole answer to a request."""
    with trio.fail_after(TIMEOUT_S):
        stream = await trio.open_tcp_stream("127.0.0.1", solver.socket.address.port or 0)
        async with stream:
            await stream.send_all(request)
            answer = b""
            try:
                async for chunk in stream:
                    answer += chunk
            except trio.BrokenResourceError:
                pass
            return answer


async def is_refused(solver: HttpListenerSolver) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", solver.socket.address.port or 0)
    except OSError:
        return True
    await stream.aclose()
    return False


async def test_listener_answers_only_in_the_block(solver: HttpListenerSolver) -> None:
    solver.socket.bind()
    solver.socket.stop()  # as at the start of the service
    assert await is_refused(solver)
    for _ in range(3):  # it opens again for each order
        async with solver.answering([PROOF]):
            path = f"/.well-known/acme-challenge/{TOKEN}"
            answer = await ask(solver, f"GET {path} HTTP/1.1\r\nHost: imap.example.com\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(f"\r\n\r\n{TOKEN}.thumbprint".encode())
        assert await is_refused(solver)
    solver.socket.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /.well-known/acme-challenge/../../etc/passwd HTTP/1.1\r\n\r\n",
        b"POST /.well-known/acme-challenge/" + TOKEN.encode() + b" HTTP/1.1\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
    ],
)
async def test_other_requests_get_404(solver: HttpListenerSolver, request_: bytes) -> None:
    async with solver.answering([PROOF]):
        answer = await ask(solver, request_)
    solver.socket.close()
    assert answer.startswith(b"HTTP/1.1 404 ")


async def test_endless_request_is_closed(solver: HttpListenerSolver) -> None:
    async with solver.answering([PROOF]):
        assert await ask(solver, b"GET /" + b"x" * 20000) == b""
    solver.socket.close()


async def test_failure_in_the_block_comes_out_as_it_is(solver: HttpListenerSolver) -> None:
    with pytest.raises(AcmeError, match="no"):
        async with solver.answering([PROOF]):
            raise AcmeError("no")
    assert await is_refused(solver)
    solver.socket.close()


async def test_taken_address_is_an_error(solver: HttpListenerSolver) -> None:
    listeners = await trio.open_tcp_listeners(solver.socket.address.port or 0, host="127.0.0.1")
    with pytest.raises(AcmeError, match=r"cannot listen on 127.0.0.1:.* Address already in use"):
        async with solver.answering([PROOF]):
            raise AssertionError
    solver.socket.close()
    await listeners[0].aclose()


async def test_port_that_needs_privileges_names_the_remedy(
    solver: HttpListenerSolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a listener that a reload has added, after the change of user."""

    def bind(_socket: object, _address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("socket.socket.bind", bind)
    with pytest.raises(AcmeError, match=r"cannot listen on 127.0.0.1:.*: Permission denied: .*restart it"):
        async with solver.answering([PROOF]):
            raise AssertionError


async def test_privileged_port_that_was_in_use_at_the_start_is_said_to_be(
    solver: HttpListenerSolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.EADDRINUSE, "Address already in use"), PermissionError(errno.EACCES, "no")]

    def bind(_socket: object, _address: object) -> None:
        raise failures.pop(0)

    monkeypatch.setattr("socket.socket.bind", bind)
    with pytest.raises(OSError, match="already in use"):
        solver.socket.bind()
    with pytest.raises(
        AcmeError, match=r"Address already in use at the start, .*; free the port and restart it"
    ):
        async with solver.answering([PROOF]):
            raise AssertionError


async def test_bound_socket_lets_others_use_the_port(solver: HttpListenerSolver) -> None:
    """``mailproxy certs obtain`` listens while the running proxy has the port bound."""
    solver.socket.bind()
    other = HttpListenerSolver(HttpSocket(solver.socket.address))
    async with other.answering([PROOF]):
        assert not await is_refused(other)
    other.socket.close()
    solver.socket.close()


async def test_webroot_has_the_file_only_in_the_block(tmp_path: Path) -> None:
    file = tmp_path / ".well-known" / "acme-challenge" / TOKEN
    async with WebrootSolver(tmp_path).answering([PROOF]):
        assert file.read_text() == f"{TOKEN}.thumbprint"
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755
    assert not file.exists()


async def test_missing_webroot_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AcmeError, match=r"webroot .* cannot be written: No such file"):
        async with WebrootSolver(tmp_path / "none").answering([PROOF]):
            raise AssertionError
