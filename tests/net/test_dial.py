"""Connecting to servers: which address takes the connection, whose fault it is if none does, and what is left open."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mailproxy.address import parse_server
from mailproxy.errors import ProxyError, ServerRefusedError
from mailproxy.net.dial import Endpoint, connect
from mailproxy.net.resolve import literal_endpoint
from mailproxy.testing import RefusingServer, UnansweredServer
from tests.support.network import link_local, needs_ipv6
from tests.support.timeouts import fail_after_timeout

PORT = 993  # the one that the client connected to, where it must not matter


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def endpoint(address: object) -> Endpoint:
    """The endpoint of an address as it stands in a configuration, or of a listening socket."""
    if isinstance(address, socket.socket):
        name = address.getsockname()
        return Endpoint(address.family, *((name[0], name[1]) if isinstance(name, tuple) else (name,)))
    found = literal_endpoint(parse_server(str(address)))
    assert found is not None
    return found


@asynccontextmanager
async def refusing() -> AsyncIterator[Endpoint]:
    async with trio.open_nursery() as nursery:
        yield endpoint(await nursery.start(RefusingServer().serve))
        nursery.cancel_scope.cancel()


def descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


async def test_a_connection_comes_nonblocking_and_without_delay(listener: socket.socket) -> None:
    sock, used = await connect([endpoint(listener)], PORT)
    with sock, listener.accept()[0] as server:
        assert sock.getpeername() == listener.getsockname()
        assert used == endpoint(listener)
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        server.sendall(b"* OK\r\n")
        await trio.lowlevel.wait_readable(sock)
        assert sock.recv(100) == b"* OK\r\n"


@needs_ipv6
async def test_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        address = f"[::1]:{listener.getsockname()[1]}"
        sock, used = await connect([endpoint(address)], PORT)
        with sock:
            assert used.text(PORT) == address


async def test_a_link_local_address_with_its_interface() -> None:
    if (host := link_local()) is None:
        pytest.skip("no interface has a link-local address")
    with socket.create_server(("::", 0), family=socket.AF_INET6) as listener:
        sock, _ = await connect([endpoint(f"[{host}]:{listener.getsockname()[1]}")], PORT)
        sock.close()


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        sock, used = await connect([endpoint(f"unix:{path}")], PORT)
        with sock:
            assert sock.getpeername() == str(path)
            assert used.text(PORT) == f"unix:{path}"


async def test_a_server_without_a_port_is_reached_at_the_clients(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    sock, used = await connect([endpoint("127.0.0.1")], port)
    with sock:
        assert sock.getpeername() == ("127.0.0.1", port)
        assert used.text(port) == f"127.0.0.1:{port}"


async def test_a_servers_own_port_comes_first(listener: socket.socket) -> None:
    assert endpoint("[::1]:143").text(PORT) == "[::1]:143"
    sock, _ = await connect([endpoint(listener)], PORT)
    with sock:
        assert sock.getpeername()[1] == listener.getsockname()[1]


async def test_who_refuses_is_named() -> None:
    async with refusing() as nobody:
        with pytest.raises(ServerRefusedError, match=rf"\A{nobody.text(PORT)}: Connection refused\Z"):
            await connect([nobody], PORT)


async def test_a_unix_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with pytest.raises(ServerRefusedError, match=rf"\Aunix:{path}: No such file or directory\Z"):
        await connect([endpoint(f"unix:{path}")], PORT)


async def test_nobody_to_connect_to() -> None:
    with pytest.raises(ServerRefusedError, match="has no address"):
        await connect([], PORT)


async def test_addresses_are_tried_in_their_order(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        async with refusing() as nobody:
            sock, used = await connect([nobody, endpoint(listener), endpoint(other)], PORT)
            with sock:
                assert used == endpoint(listener)
            other.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody knocked there
                other.accept()


async def test_when_all_refuse_each_says_why(tmp_path: Path) -> None:
    missing = endpoint(f"unix:{tmp_path}/imap.sock")
    async with refusing() as one, refusing() as two:
        with pytest.raises(ServerRefusedError) as caught:
            await connect([one, missing, two], PORT)
        assert str(caught.value) == (
            f"{one.text(PORT)}: Connection refused; {missing.text(PORT)}: No such file or directory; "
            f"{two.text(PORT)}: Connection refused"
        )
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert len(caught.value.__cause__.exceptions) == 3


async def test_failures_leave_nothing_open(listener: socket.socket) -> None:
    async with refusing() as nobody:
        before = descriptors()
        for _ in range(3):
            with pytest.raises(ServerRefusedError):
                await connect([nobody, nobody], PORT)
            sock, _ = await connect([nobody, endpoint(listener)], PORT)
            sock.close()
        assert descriptors() == before


async def test_giving_up_on_one_that_never_answers_leaves_nothing_open() -> None:
    async with trio.open_nursery() as nursery:
        silent = endpoint(await nursery.start(UnansweredServer().serve))
        before = descriptors()
        with trio.move_on_after(0.05) as limit:
            await connect([silent], PORT)
        assert limit.cancelled_caught
        assert descriptors() == before
        nursery.cancel_scope.cancel()


async def test_a_full_unix_socket_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        full = False
        while not full:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            full = waiting.connect_ex(str(path)) == errno.EAGAIN
        before = descriptors()
        with trio.move_on_after(0.05) as limit:
            await connect([endpoint(f"unix:{path}")], PORT)
        assert limit.cancelled_caught
        assert descriptors() == before

        async with trio.open_nursery() as nursery:
            connected = trio.Event()

            async def connect_and_close() -> None:
                sock, _ = await connect([endpoint(f"unix:{path}")], PORT)
                sock.close()
                connected.set()

            nursery.start_soon(connect_and_close)
            await trio.sleep(0.02)  # it finds the queue full now, or room later: both are right
            assert not connected.is_set()
            listener.accept()[0].close()


async def test_no_descriptor_left_is_the_proxys_own_fault(listener: socket.socket) -> None:
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(number) for number in descriptors()) + 1
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (limit, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(listener.fileno()))
        with pytest.raises(ProxyError, match="no socket: Too many open files"):
            await connect([endpoint(listener)], PORT)


# A machine without IPv6 still gets both addresses of a name from its resolver.
WITHOUT_IPV6 = """
import socket, trio
from mailproxy.net.dial import Endpoint, connect

async def main():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sock, used = await connect([Endpoint(socket.AF_INET6, "::1", port), Endpoint(socket.AF_INET, "127.0.0.1", port)], None)
        sock.close()
        print(used.host)

trio.run(main)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network of its own, without IPv6")
async def test_an_address_of_a_family_that_is_not_here_is_passed_over() -> None:
    switch_off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && ip link set lo up"
    command = [
        "unshare",
        "--net",
        "sh",
        "-c",
        f'{switch_off} && exec "$0" -c "$1"',
        sys.executable,
        WITHOUT_IPV6,
    ]
    result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if result.returncode and b"unshare" in result.stderr:
        pytest.skip("networks cannot be made here")
    assert (result.stdout, result.stderr) == (b"127.0.0.1\n", b"")


@needs_ipv6
async def test_the_program_of_the_test_above_works_where_ipv6_is() -> None:
    result = await trio.run_process([sys.executable, "-c", WITHOUT_IPV6], capture_stdout=True)
    assert result.stdout == b"127.0.0.1\n"
