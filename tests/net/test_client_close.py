"""Clients that close while no task reads from them: noticed at once and only once, unless they sent data."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field

from mailproxy.config import ServerTls
from mailproxy.net.client_close import is_client_closing
from mailproxy.net.poller import Poller
from mailproxy.net.tls.close import send_close_notify
from mailproxy.net.tls.context import make_client_context
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from mailproxy.testing import ThrowAwayCA
from tests.support.timeouts import fail_after_timeout, wait_until

COMMAND = b"a1 CAPABILITY\r\n"


class CloseWatch:
    """Watches clients as sessions do."""

    def __init__(self) -> None:
        self.poller = Poller()

    async def run(self) -> None:
        await self.poller.serve()

    def watch(self, client: socket.socket, on_closing: Callable[[], None]) -> None:
        def on_event(events: int) -> None:
            if is_client_closing(client, events):
                on_closing()

        self.poller.add(client.fileno()).on_hangup = on_event

    def forget(self, client: socket.socket) -> None:
        self.poller.forget(client.fileno())


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


@pytest.fixture
async def clients(nursery: trio.Nursery) -> CloseWatch:
    watch = CloseWatch()
    nursery.start_soon(watch.run)
    await trio.testing.wait_all_tasks_blocked()
    return watch


@define
class ClientConnection:
    """A client's connection; ``closing_calls`` counts the callbacks.

    ``theirs`` is the client's end, ``ours`` the accepted one.
    """

    theirs: socket.socket
    ours: socket.socket
    closing_calls: int = field(default=0, init=False)

    def on_closing(self) -> None:
        self.closing_calls += 1

    def reset(self) -> None:
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.theirs.close()


@asynccontextmanager
async def connect_client(watch: CloseWatch | None = None) -> AsyncIterator[ClientConnection]:
    """Connect a client over TCP, watched at once if ``watch`` is given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    with theirs, ours:
        connection = ClientConnection(theirs, ours)
        if watch is not None:
            watch.watch(ours, connection.on_closing)
        yield connection
        if watch is not None:
            watch.forget(ours)
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def connect_tls_client(
    watch: CloseWatch, ca: ThrowAwayCA, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncIterator[ClientConnection]:
    """Connect a client over TLS, and watch it."""
    server = ca.server_context("localhost")
    server.maximum_version = version
    client = make_client_context(ServerTls(ca=Path(ca.pem)), None)
    async with connect_client() as clear:
        clear.theirs.setblocking(False)
        ends: list[ssl.SSLSocket] = []

        async def shake_hands() -> None:
            ends.append(await connect_tls(clear.theirs, client, "localhost"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_hands)
            ours = await accept_tls(clear.ours, server)
        with ours, ends[0]:
            connection = ClientConnection(ends[0], ours)
            watch.watch(ours, connection.on_closing)
            yield connection
            watch.forget(ours)


async def settle() -> None:
    """Wait until all events are handled. On loopback, data arrives before the sending call returns."""
    await trio.testing.wait_all_tasks_blocked(0.01)


# Plain TCP.


@pytest.mark.parametrize("close", [lambda connection: connection.theirs.close(), lambda connection: connection.theirs.shutdown(socket.SHUT_WR), ClientConnection.reset], ids=["close", "half-close", "reset"])  # fmt: skip
async def test_closing_client_is_noticed_once(
    clients: CloseWatch, close: Callable[[ClientConnection], None]
) -> None:
    async with connect_client(clients) as client:
        await settle()
        assert client.closing_calls == 0
        close(client)
        await wait_until(lambda: client.closing_calls)
        await settle()
        assert client.closing_calls == 1


async def test_client_closed_before_watch_is_noticed(clients: CloseWatch) -> None:
    async with connect_client() as client:
        client.theirs.close()
        clients.watch(client.ours, client.on_closing)
        await wait_until(lambda: client.closing_calls)
        clients.forget(client.ours)


async def test_client_sending_data_is_not_closing(clients: CloseWatch) -> None:
    async with connect_client(clients) as client:
        client.theirs.send(COMMAND)
        await settle()
        assert client.closing_calls == 0
        assert client.ours.recv(100) == COMMAND, "no byte of it is lost"


async def test_half_close_after_command_is_not_closing(clients: CloseWatch) -> None:
    async with connect_client(clients) as client:
        client.theirs.send(COMMAND)
        client.theirs.shutdown(socket.SHUT_WR)
        await settle()
        assert client.closing_calls == 0
        assert client.ours.recv(100) == COMMAND


@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed"])
async def test_reset_after_command_is_noticed(clients: CloseWatch, half_closed: bool) -> None:
    """There is data to read, but the client could not receive an answer."""
    async with connect_client(clients) as client:
        client.theirs.send(COMMAND)
        if half_closed:
            client.theirs.shutdown(socket.SHUT_WR)
        await settle()
        assert client.closing_calls == 0
        client.reset()
        await wait_until(lambda: client.closing_calls)
        await settle()
        assert client.closing_calls == 1


async def test_unix_socket_close_is_noticed(clients: CloseWatch) -> None:
    theirs, ours = socket.socketpair()
    with theirs, ours:
        ours.setblocking(False)
        client = ClientConnection(theirs, ours)
        clients.watch(ours, client.on_closing)
        theirs.close()
        await wait_until(lambda: client.closing_calls)
        clients.forget(ours)


# TLS.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("notify", [True, False], ids=["close_notify", "bare"])
async def test_tls_close_is_noticed(
    clients: CloseWatch, throw_away_ca: ThrowAwayCA, version: ssl.TLSVersion, notify: bool
) -> None:
    """The close_notify alert makes the socket readable, but it is not a command."""
    async with connect_tls_client(clients, throw_away_ca, version) as client:
        await settle()
        assert client.closing_calls == 0
        if notify:
            assert isinstance(client.theirs, ssl.SSLSocket)
            send_close_notify(client.theirs)
        client.theirs.close()
        await wait_until(lambda: client.closing_calls)
        await settle()
        assert client.closing_calls == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_close_after_command_is_not_closing(
    clients: CloseWatch, throw_away_ca: ThrowAwayCA, version: ssl.TLSVersion
) -> None:
    async with connect_tls_client(clients, throw_away_ca, version) as client:
        assert isinstance(client.theirs, ssl.SSLSocket)
        client.theirs.send(COMMAND)
        send_close_notify(client.theirs)
        socket.socket.shutdown(client.theirs, socket.SHUT_WR)
        await settle()
        assert client.closing_calls == 0
        assert client.ours.recv(100) == COMMAND


async def test_tls_reset_is_noticed(clients: CloseWatch, throw_away_ca: ThrowAwayCA) -> None:
    async with connect_tls_client(clients, throw_away_ca) as client:
        client.reset()
        await wait_until(lambda: client.closing_calls)


# Watched and forgotten.


async def test_forgotten_client_is_not_reported(clients: CloseWatch) -> None:
    async with connect_client() as client:
        clients.watch(client.ours, client.on_closing)
        clients.forget(client.ours)
        client.theirs.close()
        await settle()
        assert client.closing_calls == 0


async def test_client_can_be_watched_twice(clients: CloseWatch) -> None:
    async with connect_client() as client:
        clients.watch(client.ours, client.on_closing)
        clients.forget(client.ours)
        clients.watch(client.ours, client.on_closing)
        client.theirs.close()
        await wait_until(lambda: client.closing_calls)
        clients.forget(client.ours)
        clients.forget(client.ours)  # a second call is allowed
        assert client.closing_calls == 1


async def test_callback_may_forget_another_closing_client(clients: CloseWatch) -> None:
    async with connect_client() as one, connect_client() as two:
        called = []

        def forget_other(name: str, other: ClientConnection) -> Callable[[], None]:
            def on_closing() -> None:
                called.append(name)
                clients.forget(other.ours)

            return on_closing

        clients.watch(one.ours, forget_other("one", two))
        clients.watch(two.ours, forget_other("two", one))
        one.theirs.close()
        two.theirs.close()
        await wait_until(lambda: called)
        await settle()
        assert len(called) == 1
        clients.forget(one.ours)
        clients.forget(two.ours)


async def test_many_simultaneous_closes_are_noticed(clients: CloseWatch) -> None:
    """These are more clients than the watch handles at once. Clients that stay connected are not reported."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect_client(clients)) for _ in range(300)]
        open_ones = connections[::10]
        closing = [connection for connection in connections if connection not in open_ones]
        for connection in closing:
            connection.theirs.close()
        await wait_until(lambda: all(connection.closing_calls for connection in closing))
        await settle()
        assert {connection.closing_calls for connection in closing} == {1}
        assert {connection.closing_calls for connection in open_ones} == {0}


async def test_no_callback_after_the_poller_ended() -> None:
    """While the proxy stops, ending sessions still register and forget their clients."""
    watch = CloseWatch()
    async with connect_client() as early, connect_client() as late:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await trio.testing.wait_all_tasks_blocked()
            watch.watch(early.ours, early.on_closing)
            nursery.cancel_scope.cancel()
        watch.watch(late.ours, late.on_closing)
        early.theirs.close()
        late.theirs.close()
        await settle()
        watch.forget(early.ours)
        watch.forget(late.ours)
        assert (early.closing_calls, late.closing_calls) == (0, 0)


async def test_ended_poller_leaves_no_open_descriptor() -> None:
    def descriptors() -> set[str]:
        return {file.name for file in Path("/proc/self/fd").iterdir()}

    before = descriptors()
    watch = CloseWatch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        assert descriptors() > before
        nursery.cancel_scope.cancel()
    assert descriptors() == before
