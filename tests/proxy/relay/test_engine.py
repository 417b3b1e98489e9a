"""What only the engine can get wrong, because it relays all sessions in one task that is not theirs."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mailproxy.log.end_reasons import CLIENT_CLOSED, SERVER_ABORTED, EndReason
from mailproxy.net.relay import Engine, Tunnel
from mailproxy.net.relay.flow import Flow
from tests.support.proxy.proxy_harness import TIMEOUT_S
from tests.support.proxy.relays import ENGINE_ONLY, Kind, registered, run_relay

pytestmark = ENGINE_ONLY


@contextmanager
def session() -> Iterator[tuple[socket.socket, socket.socket, Tunnel]]:
    """Yield the client's end, the server's end and the tunnel between them."""
    ends = [*socket.socketpair(), *socket.socketpair()]
    for sock in ends:
        sock.setblocking(False)
    client, client_side, server_side, server = ends
    try:
        yield (
            client,
            server,
            Tunnel(
                client_side, server_side, client_timeout=1000, server_timeout=1000, half_closed_timeout=1000
            ),
        )
    finally:
        for sock in ends:
            sock.close()


async def test_data_before_start_is_relayed_without_event(
    relay_kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's own task moves the first turn. The rest must not wait for an event on some socket."""
    with session() as (client, server, tunnel):
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            assert isinstance(relay, Engine)
            monkeypatch.setattr(relay.pipes, "borrow", lambda: None)  # no descriptors are left
            relay.poller.add(tunnel.client.sock.fileno())
            relay.poller.add(tunnel.server.sock.fileno())
            sent = 0
            while sent < 3 * 65536:
                sent += client.send(bytes(8192))
            await wait_all_tasks_blocked()
            nursery.start_soon(relay.run, tunnel)
            await wait_all_tasks_blocked()
            received = 0
            while received < sent:
                received += len(server.recv(1 << 20))
                await wait_all_tasks_blocked()
            assert received == sent
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_deferred", [False, True], ids=["event", "deferred"])
async def test_internal_fault_ends_one_session(relay_kind: Kind, is_deferred: bool) -> None:
    """The poller's task serves all sessions and cannot report the fault itself."""
    ends: list[EndReason] = []
    with session() as (client, _, tunnel), session() as (other_client, other_server, other_tunnel):

        class Faulty:
            def recv_into(self, _buffer: memoryview) -> int:
                raise ZeroDivisionError

        async with run_relay(relay_kind) as relay:
            assert isinstance(relay, Engine)

            async def run_failing() -> None:
                with pytest.raises(ZeroDivisionError):
                    await relay.run(tunnel)

            async def run_other() -> None:
                ends.append(await relay.run(other_tunnel))

            with trio.fail_after(TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run_failing)
                    nursery.start_soon(run_other)
                    await wait_all_tasks_blocked()
                    tunnel.client.connection = Faulty()
                    if is_deferred:
                        flow = relay.poller._handlers[tunnel.client.sock.fileno()]
                        assert isinstance(flow, Flow)
                        relay.poller.defer(flow)
                    else:
                        client.send(b"x")
                    await wait_all_tasks_blocked()
                    assert registered(relay) == 2, "the sockets of the other session"
                    other_client.send(b"a1 NOOP\r\n")
                    await wait_all_tasks_blocked()
                    assert other_server.recv(100) == b"a1 NOOP\r\n"
                    other_client.shutdown(socket.SHUT_WR)
                    other_server.shutdown(socket.SHUT_WR)
            assert ends == [CLIENT_CLOSED]


async def move(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    """Send through the relay, as much as fits at a time."""
    sent = received = 0
    with trio.fail_after(TIMEOUT_S):
        while received < len(data):
            with suppress(BlockingIOError):
                sent += sender.send(data[sent : sent + 200_000])
            await wait_all_tasks_blocked()
            with suppress(BlockingIOError):
                received += len(receiver.recv(1 << 20))


async def test_idle_session_after_bulk_keeps_no_pipe(relay_kind: Kind) -> None:
    """Pipes are few: some sessions that fetched a large message would keep all others from having one."""
    with session() as (client, server, tunnel):
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            assert isinstance(relay, Engine)
            nursery.start_soon(relay.run, tunnel)
            await wait_all_tasks_blocked()
            for _ in range(2):
                await move(server, client, bytes(1_000_000))
                assert relay.pipes.in_use == 0
                await move(client, server, b"a1 NOOP\r\n")
                await move(server, client, b"a1 OK\r\n")
                assert relay.pipes.in_use == 0
            nursery.cancel_scope.cancel()


async def test_data_after_urgent_data_is_relayed(relay_kind: Kind) -> None:
    """A read stops short at urgent data although more has come."""
    with session() as (_, server, tunnel), socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        relay_socket, _address = listener.accept()
        relay_socket.setblocking(False)
        with client, relay_socket:
            async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
                tcp_tunnel = Tunnel(
                    relay_socket,
                    tunnel.server.sock,
                    client_timeout=1000,
                    server_timeout=1000,
                    half_closed_timeout=1000,
                )
                client.send(b"before ")
                client.send(b"!", socket.MSG_OOB)
                client.send(b"behind")
                await wait_all_tasks_blocked(0.01)
                nursery.start_soon(relay.run, tcp_tunnel)
                received = b""
                with trio.fail_after(TIMEOUT_S):
                    while received != b"before behind":
                        await trio.lowlevel.wait_readable(server)
                        received += server.recv(100)
                nursery.cancel_scope.cancel()


async def test_key_update_answer_waits_for_own_socket(relay_kind: Kind) -> None:
    """The answer to a key update goes back to the socket that the update came from."""
    with session() as (client, server, tunnel):
        errors = [ssl.SSLWantWriteError()]

        class KeyUpdating:
            def read(self, _size: int, buffer: memoryview) -> int:
                if errors:
                    raise errors.pop()
                return tunnel.client.sock.recv_into(buffer)

        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(relay.run, tunnel)
            await wait_all_tasks_blocked()
            tunnel.client.connection, tunnel.client.is_tls = KeyUpdating(), True
            client.send(b"a1 NOOP\r\n")
            with trio.fail_after(TIMEOUT_S):
                await trio.lowlevel.wait_readable(server)  # the event for writing makes the session continue
            assert server.recv(100) == b"a1 NOOP\r\n"
            nursery.cancel_scope.cancel()


async def test_awaiting_task_that_is_closed_leaves_nothing_behind(relay_kind: Kind) -> None:
    """So the interpreter ends the tasks of a loop that has failed."""
    with session() as (client, _, tunnel):
        async with run_relay(relay_kind) as relay:
            assert isinstance(relay, Engine)
            for sock in (tunnel.client.sock, tunnel.server.sock):
                relay.poller.add(sock.fileno())

            async def relayed() -> EndReason:
                return await relay.run(tunnel)

            coroutine = relayed()
            coroutine.send(None)
            assert registered(relay) == 2
            coroutine.close()
            assert registered(relay) == 0
            client.send(b"x")
            await wait_all_tasks_blocked()


async def test_data_before_start_may_end_the_session(relay_kind: Kind) -> None:
    """Such as a greeting that the gate refuses, and that the poller has reported before."""
    with session() as (_, server, tunnel):

        def refuse(_: memoryview) -> bool:
            tunnel.abort(SERVER_ABORTED)
            return False

        tunnel.to_client.note = refuse
        async with run_relay(relay_kind) as relay:
            assert isinstance(relay, Engine)
            for sock in (tunnel.client.sock, tunnel.server.sock):
                relay.poller.add(sock.fileno())
            server.send(b"220 hello\r\n")
            await wait_all_tasks_blocked()
            with trio.fail_after(TIMEOUT_S):
                assert await relay.run(tunnel) is SERVER_ABORTED
