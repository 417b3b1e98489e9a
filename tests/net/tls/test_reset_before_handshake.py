"""Resets before the TLS handshake: the error blames the peer, and the socket is closed at once."""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from mailproxy.errors import ClientAbortError, ServerHandshakeError
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from mailproxy.testing import ThrowAwayCA
from tests.support.timeouts import fail_after_timeout

error_consumed = pytest.mark.parametrize(
    "error_consumed", [False, True], ids=["error pending", "error consumed"]
)


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


async def reset_connection(error_consumed: bool) -> socket.socket:
    """Return a connection that its peer has reset. The kernel reports the error only once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    await trio.lowlevel.wait_readable(ours)
    if error_consumed:
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return ours


@contextmanager
def all_closed() -> Iterator[None]:
    """Check that everything opened in the block is closed in it, and not by the garbage collector."""
    before = _descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        assert _descriptors() == before
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def _descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


async def _error_message(
    shake_hands: Callable[[], Awaitable[ssl.SSLSocket]], error_type: type[Exception]
) -> str:
    """Return the error message without keeping the traceback, whose frames would keep the socket alive."""
    try:
        await shake_hands()
    except error_type as error:
        return str(error)
    raise AssertionError("the handshake succeeded")


@error_consumed
async def test_reset_by_server_closes_the_socket(throw_away_ca: ThrowAwayCA, error_consumed: bool) -> None:
    context = throw_away_ca.client_context()
    with all_closed():
        sock = await reset_connection(error_consumed)
        message = await _error_message(lambda: connect_tls(sock, context, "localhost"), ServerHandshakeError)
    if not error_consumed:
        assert "reset" in message


@error_consumed
async def test_reset_by_client_closes_the_socket(throw_away_ca: ThrowAwayCA, error_consumed: bool) -> None:
    context = throw_away_ca.server_context("localhost")
    with all_closed():
        sock = await reset_connection(error_consumed)
        message = await _error_message(lambda: accept_tls(sock, context), ClientAbortError)
    if not error_consumed:
        assert "reset" in message
