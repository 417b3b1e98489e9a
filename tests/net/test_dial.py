"""Connecting to servers: which address is used, whose fault a failure is, and which descriptors stay open."""

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

# The client's port, in tests where it has no effect.
PORT = 993


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def endpoint(address: object) -> Endpoint:
    """Return the endpoint of an address in the configuration's notation, or of a listening socket."""
    if isinstance(address, socket.socket):
        name = address.getsockname()
        return Endpoint(address.family, *((name[0], name[1]) if isinstance(name, tuple) else (name,)))
    result = literal_endpoint(parse_server(str(address)))
    assert result is not None
    return result


@asynccontextmanager
async def refusing_server() -> AsyncIterator[Endpoint]:
    async with trio.open_nursery() as nursery:
        yield endpoint(await nursery.start(RefusingServer().serve))
        nursery.cancel_scope.cancel()


def descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


async def test_connection_is_nonblocking_with_nodelay(listener: socket.socket) -> None:
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
async def test_ipv6_connection() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        address = f"[::1]:{listener.getsockname()[1]}"
        sock, used = await connect([endpoint(address)], PORT)
        with sock:
            assert used.text(PORT) == address


async def test_link_local_address_with_interface() -> None:
    if (host := link_local()) is None:
        pytest.skip("no interface has a link-local address")
    with socket.create_server(("::", 0), family=socket.AF_INET6) as listener:
        sock, _ = await connect([endpoint(f"[{host}]:{listener.getsockname()[1]}")], PORT)
        sock.close()


async def test_unix_socket_connection(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        sock, used = await connect([endpoint(f"unix:{path}")], PORT)
        with sock:
            assert sock.getpeername() == str(path)
            assert used.text(PORT) == f"unix:{path}"


async def test_server_without_port_uses_client_port(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    sock, used = await connect([endpoint("127.0.0.1")], port)
    with sock:
        assert sock.getpeername() == ("127.0.0.1", port)
        assert used.text(port) == f"127.0.0.1:{port}"


async def test_server_port_overrides_client_port(listener: socket.socket) -> None:
    assert endpoint("[::1]:143").text(PORT) == "[::1]:143"
    sock, _ = await connect([endpoint(listener)], PORT)
    with sock:
        assert sock.getpeername()[1] == listener.getsockname()[1]


async def test_refusal_names_the_address() -> None:
    async with refusing_server() as refusing:
        with pytest.raises(ServerRefusedError, match=rf"\A{refusing.text(PORT)}: Connection refused\Z"):
            await connect([refusing], PORT)


async def test_missing_unix_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with pytest.raises(ServerRefusedError, match=rf"\Aunix:{path}: No such file or directory\Z"):
        await connect([endpoint(f"unix:{path}")], PORT)


async def test_no_endpoints_is_refused() -> None:
    with pytest.raises(ServerRefusedError, match="has no address"):
        await connect([], PORT)


async def test_addresses_are_tried_in_order(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        async with refusing_server() as refusing:
            sock, used = await connect([refusing, endpoint(listener), endpoint(other)], PORT)
            with sock:
                assert used == endpoint(listener)
            other.setblocking(False)
            with pytest.raises(BlockingIOError):  # no connection was made to it
                other.accept()


async def test_error_lists_every_refused_address(tmp_path: Path) -> None:
    missing = endpoint(f"unix:{tmp_path}/imap.sock")
    async with refusing_server() as one, refusing_server() as two:
        with pytest.raises(ServerRefusedError) as caught:
            await connect([one, missing, two], PORT)
        assert str(caught.value) == (
            f"{one.text(PORT)}: Connection refused; {missing.text(PORT)}: No such file or directory; "
            f"{two.text(PORT)}: Connection refused"
        )
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert len(caught.value.__cause__.exceptions) == 3


async def test_failures_leave_no_open_descriptor(listener: socket.socket) -> None:
    async with refusing_server() as refusing:
        before = descriptors()
        for _ in range(3):
            with pytest.raises(ServerRefusedError):
                await connect([refusing, refusing], PORT)
            sock, _ = await connect([refusing, endpoint(listener)], PORT)
            sock.close()
        assert descriptors() == before


async def test_timeout_at_silent_server_leaves_no_descriptor() -> None:
    async with trio.open_nursery() as nursery:
        silent = endpoint(await nursery.start(UnansweredServer().serve))
        before = descriptors()
        with trio.move_on_after(0.05) as limit:
            await connect([silent], PORT)
        assert limit.cancelled_caught
        assert descriptors() == before
        nursery.cancel_scope.cancel()


async def test_full_unix_socket_is_waited_for(tmp_path: Path) -> None:
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
            # The attempt finds the queue full now or has room later. Both are correct.
            await trio.sleep(0.02)
            assert not connected.is_set()
            listener.accept()[0].close()


async def test_descriptor_exhaustion_is_a_proxy_error(listener: socket.socket) -> None:
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


# The resolver of a machine without IPv6 still returns both addresses of a name.
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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace without IPv6")
async def test_address_of_missing_family_is_skipped() -> None:
    disable_ipv6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && ip link set lo up"
    command = [
        "unshare",
        "--net",
        "sh",
        "-c",
        f'{disable_ipv6} && exec "$0" -c "$1"',
        sys.executable,
        WITHOUT_IPV6,
    ]
    result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if result.returncode and b"unshare" in result.stderr:
        pytest.skip("network namespaces cannot be created here")
    assert (result.stdout, result.stderr) == (b"127.0.0.1\n", b"")


@needs_ipv6
async def test_missing_family_program_works_with_ipv6() -> None:
    result = await trio.run_process([sys.executable, "-c", WITHOUT_IPV6], capture_stdout=True)
    assert result.stdout == b"127.0.0.1\n"
