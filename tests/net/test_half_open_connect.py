"""Knocking at a server's port: is anybody listening? Whoever does never hears of it."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
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
from tests.support.timeouts import fail_after_timeout

ROUNDS = 20


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


@contextmanager
def listening(host: str = "127.0.0.1", backlog: int = 100) -> Iterator[tuple[socket.socket, Endpoint]]:
    """A program that could accept, and where it is."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as listener:
        listener.setblocking(False)
        yield listener, Endpoint(family, host, listener.getsockname()[1])


def endpoint(address: str) -> Endpoint:
    found = literal_endpoint(parse_server(address))
    assert found is not None
    return found


def assert_unheard(listener: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()


def descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_whoever_listens_is_found_and_hears_nothing(host: str) -> None:
    with listening(host) as (listener, place):
        before = descriptors()
        for _ in range(ROUNDS):
            assert await half_open_connect([place], None) == place
        assert_unheard(listener)
        assert descriptors() == before


async def test_a_program_that_waits_for_clients_is_not_woken() -> None:
    with listening() as (listener, place):
        accepted = []

        async def accept() -> None:
            while True:
                await trio.lowlevel.wait_readable(listener)
                accepted.append(listener.accept()[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            for _ in range(ROUNDS):
                await half_open_connect([place], None)
            await trio.testing.wait_all_tasks_blocked()
            assert accepted == []
            sock, _ = await connect([place], None)
            await trio.testing.wait_all_tasks_blocked()
            assert len(accepted) == 1, "a client is heard as always"
            for each in (sock, *accepted):
                each.close()
            nursery.cancel_scope.cancel()


async def test_nobody_there(nursery: trio.Nursery) -> None:
    nobody = endpoint(await nursery.start(RefusingServer().serve))
    before = descriptors()
    with pytest.raises(ServerRefusedError, match=rf"\A{nobody.text(None)}: Connection refused\Z") as caught:
        await half_open_connect([nobody], None)
    assert caught.value.reason == "Connection refused"
    assert descriptors() == before


async def test_a_full_backlog_does_not_answer(nursery: trio.Nursery) -> None:
    """As for clients: so a server that accepts no more is found by its checks."""
    full = endpoint(await nursery.start(UnansweredServer().serve))
    before = descriptors()
    with trio.move_on_after(0.05) as limit:
        await half_open_connect([full], None)
    assert limit.cancelled_caught
    assert descriptors() == before


async def test_knocking_fills_no_backlog() -> None:
    with listening(backlog=1) as (listener, place):
        for _ in range(ROUNDS):
            await half_open_connect([place], None)
        sock, _ = await connect([place], None)
        await trio.lowlevel.wait_readable(listener)
        listener.accept()[0].close()
        sock.close()
        assert_unheard(listener)


async def test_the_port_is_the_one_that_is_given() -> None:
    with listening() as (listener, place):
        assert await half_open_connect([endpoint("127.0.0.1")], place.port) == endpoint("127.0.0.1")
        assert_unheard(listener)


async def test_of_several_addresses_the_first_that_answers(nursery: trio.Nursery) -> None:
    nobody = endpoint(await nursery.start(RefusingServer().serve))
    silent = endpoint(await nursery.start(UnansweredServer().serve))
    with listening() as (listener, place), listening() as (other, another):
        with trio.fail_after(0.3):
            assert await half_open_connect([nobody, silent, place, another], None) == place
        assert_unheard(listener)
        assert_unheard(other)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "imap.sock")
    place = Endpoint(socket.AF_UNIX, path)
    with pytest.raises(ServerRefusedError, match="No such file or directory"):
        await half_open_connect([place], None)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        with pytest.raises(ServerRefusedError, match="Connection refused"):
            await half_open_connect([place], None)
        listener.listen()
        assert await half_open_connect([place], None) == place


async def test_no_descriptor_left_says_nothing_of_the_server() -> None:
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listening() as (listener, place), contextlib.ExitStack() as stack:
        used = max(int(number) for number in descriptors()) + 1
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (limit, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(listener.fileno()))
        with pytest.raises(ProxyError, match="no socket: Too many open files"):
            await half_open_connect([place], None)
