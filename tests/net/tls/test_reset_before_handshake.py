"""Who resets the connection before the TLS handshake has begun: that is its abort, and the socket is closed at once."""

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

told_before = pytest.mark.parametrize("told_before", [False, True], ids=["news", "told before"])


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


async def reset_connection(told_before: bool) -> socket.socket:
    """A connection that its peer has reset; the kernel says so once, and may have done so already."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    await trio.lowlevel.wait_readable(ours)
    if told_before:
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return ours


@contextmanager
def all_closed() -> Iterator[None]:
    """Whatever is opened within is closed within, by somebody who did not leave that to the garbage collector."""
    before = _descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        assert _descriptors() == before
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def _descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


async def _fails(shake_hands: Callable[[], Awaitable[ssl.SSLSocket]], fault: type[Exception]) -> str:
    """The words of its fault; of the frames that it went through, and what they held, nothing is kept."""
    try:
        await shake_hands()
    except fault as error:
        return str(error)
    raise AssertionError("there was nobody to shake hands with")


@told_before
async def test_a_server_that_resets(throw_away_ca: ThrowAwayCA, told_before: bool) -> None:
    context = throw_away_ca.client_context()
    with all_closed():
        sock = await reset_connection(told_before)
        words = await _fails(lambda: connect_tls(sock, context, "localhost"), ServerHandshakeError)
    if not told_before:
        assert "reset" in words


@told_before
async def test_a_client_that_resets(throw_away_ca: ThrowAwayCA, told_before: bool) -> None:
    context = throw_away_ca.server_context("localhost")
    with all_closed():
        sock = await reset_connection(told_before)
        words = await _fails(lambda: accept_tls(sock, context), ClientAbortError)
    if not told_before:
        assert "reset" in words
