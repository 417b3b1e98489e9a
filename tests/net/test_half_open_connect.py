"""Half-open connects: whether a program listens at a server's port, without that program being woken."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from mailproxy.address import parse_server
from mailproxy.errors import ProxyError, ServerRefusedError
from mailproxy.net.dial import Endpoint, connect, half_open_connect
from mailproxy.net.resolve import literal_endpoint
from mailproxy.testing import RefusingServer, UnansweredServer
from tests.support.network import needs_ipv6
from tests.support.timeouts import TIMEOUT_S, fail_after_timeout

ROUNDS = 20
KERNEL_ACKNOWLEDGES_S = 0.2  # TCP_DELACK_MAX


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


@contextmanager
def open_listener(host: str = "127.0.0.1", backlog: int = 100) -> Iterator[tuple[socket.socket, Endpoint]]:
    """Yield a listening socket and its endpoint."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as listener:
        listener.setblocking(False)
        yield listener, Endpoint(family, host, listener.getsockname()[1])


async def half_open(
    accept: Callable[[], tuple[socket.socket, object]], address: Endpoint, port: int | None = None
) -> Endpoint:
    """Return what `half_open_connect` returns.

    The kernel acknowledges the handshake itself if this process has to pause before it closes its socket. Such a
    connection is taken away with ``accept``, and made again.
    """
    while True:
        started = time.monotonic()
        found = await half_open_connect([address], port)
        if time.monotonic() - started < KERNEL_ACKNOWLEDGES_S / 2:
            return found
        await trio.testing.wait_all_tasks_blocked()
        with contextlib.suppress(BlockingIOError, IndexError):
            accept()[0].close()


def endpoint(address: str) -> Endpoint:
    result = literal_endpoint(parse_server(address))
    assert result is not None
    return result


def assert_nothing_to_accept(listener: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()


def descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_listening_server_is_found_without_a_connection(host: str) -> None:
    with open_listener(host) as (listener, address):
        before = descriptors()
        for _ in range(ROUNDS):
            assert await half_open(listener.accept, address) == address
        assert_nothing_to_accept(listener)
        assert descriptors() == before


async def test_server_waiting_in_accept_is_not_woken() -> None:
    with open_listener() as (listener, address):
        accepted: list[tuple[socket.socket, object]] = []

        async def accept() -> None:
            while True:
                await trio.lowlevel.wait_readable(listener)
                accepted.append(listener.accept())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            for _ in range(ROUNDS):
                await half_open(accepted.pop, address)
            await trio.testing.wait_all_tasks_blocked()
            assert accepted == []
            client, _ = await connect([address], None)
            await trio.testing.wait_all_tasks_blocked()
            assert len(accepted) == 1, "a full connection still wakes the program"
            for sock in (client, accepted[0][0]):
                sock.close()
            nursery.cancel_scope.cancel()


async def test_refusing_port_is_reported(nursery: trio.Nursery) -> None:
    refusing = endpoint(await nursery.start(RefusingServer().serve))
    before = descriptors()
    with pytest.raises(ServerRefusedError, match=rf"\A{refusing.text(None)}: Connection refused\Z") as caught:
        await half_open_connect([refusing], None)
    assert caught.value.reason == "Connection refused"
    assert descriptors() == before


async def test_full_backlog_gives_no_answer(nursery: trio.Nursery) -> None:
    """A client gets no answer either. So health checks notice a server that accepts no more connections."""
    full = endpoint(await nursery.start(UnansweredServer().serve))
    before = descriptors()
    with trio.move_on_after(0.05) as limit:
        await half_open_connect([full], None)
    assert limit.cancelled_caught
    assert descriptors() == before


async def test_half_open_connects_do_not_fill_backlog() -> None:
    with open_listener(backlog=1) as (listener, address):
        for _ in range(ROUNDS):
            await half_open(listener.accept, address)
        sock, _ = await connect([address], None)
        await trio.lowlevel.wait_readable(listener)
        listener.accept()[0].close()
        sock.close()
        assert_nothing_to_accept(listener)


async def test_port_argument_is_used() -> None:
    with open_listener() as (listener, address):
        assert await half_open(listener.accept, endpoint("127.0.0.1"), address.port) == endpoint("127.0.0.1")
        assert_nothing_to_accept(listener)


async def test_first_answering_address_is_returned(nursery: trio.Nursery) -> None:
    refusing = endpoint(await nursery.start(RefusingServer().serve))
    silent = endpoint(await nursery.start(UnansweredServer().serve))
    with open_listener() as (listener, address), open_listener() as (other, other_address):
        with trio.fail_after(TIMEOUT_S):
            assert await half_open_connect([refusing, silent, address, other_address], None) == address
        assert_nothing_to_accept(listener)
        assert_nothing_to_accept(other)


async def test_unix_socket_states(tmp_path: Path) -> None:
    path = str(tmp_path / "imap.sock")
    address = Endpoint(socket.AF_UNIX, path)
    with pytest.raises(ServerRefusedError, match="No such file or directory"):
        await half_open_connect([address], None)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        with pytest.raises(ServerRefusedError, match="Connection refused"):
            await half_open_connect([address], None)
        listener.listen()
        assert await half_open_connect([address], None) == address


async def test_descriptor_exhaustion_is_a_proxy_error() -> None:
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open_listener() as (listener, address), contextlib.ExitStack() as stack:
        used = max(int(number) for number in descriptors()) + 1
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (limit, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(listener.fileno()))
        with pytest.raises(ProxyError, match="no socket: Too many open files"):
            await half_open_connect([address], None)
