"""What only the engine can get wrong: it relays all sessions in one task, which is not theirs."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mailproxy.log.end_reasons import CLIENT_CLOSED, EndReason
from mailproxy.net.relay import Engine, Tunnel
from mailproxy.net.relay.flow import Flow
from tests.support.proxy.proxy_harness import TIMEOUT_S
from tests.support.proxy.relays import ENGINE_ONLY, Kind, registered, run_relay

pytestmark = ENGINE_ONLY


@contextmanager
def session() -> Iterator[tuple[socket.socket, socket.socket, Tunnel]]:
    """The client's own end, the server's, and what is between them."""
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


async def test_what_had_come_before_is_relayed_without_more_to_come(
    relay_kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's own task moves it, up to a turn: the rest must not lie there until something happens somewhere."""
    with session() as (client, server, pair):
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            assert isinstance(relay, Engine)
            monkeypatch.setattr(relay.pipes, "borrow", lambda: None)  # no descriptors are left
            relay.poller.add(pair.client.sock.fileno())
            relay.poller.add(pair.server.sock.fileno())
            sent = 0
            while sent < 3 * 65536:
                sent += client.send(bytes(8192))
            await wait_all_tasks_blocked()
            nursery.start_soon(relay.run, pair)
            await wait_all_tasks_blocked()
            heard = 0
            while heard < sent:
                heard += len(server.recv(1 << 20))
                await wait_all_tasks_blocked()
            assert heard == sent
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_in_turn", [False, True], ids=["told", "in a turn"])
async def test_a_fault_of_our_own_is_its_sessions_alone(relay_kind: Kind, is_in_turn: bool) -> None:
    """The poller's task has nobody to tell it to, and all the other sessions."""
    ends: list[EndReason] = []
    with session() as (client, _, pair), session() as (neighbour, its_server, its_pair):

        class Faulty:
            def recv_into(self, _buffer: memoryview) -> int:
                raise ZeroDivisionError

        async with run_relay(relay_kind) as relay:
            assert isinstance(relay, Engine)

            async def fail() -> None:
                with pytest.raises(ZeroDivisionError):
                    await relay.run(pair)

            async def go_on() -> None:
                ends.append(await relay.run(its_pair))

            with trio.fail_after(TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail)
                    nursery.start_soon(go_on)
                    await wait_all_tasks_blocked()
                    pair.client.connection = Faulty()
                    if is_in_turn:
                        told = relay.poller._handlers[pair.client.sock.fileno()]
                        assert isinstance(told, Flow)
                        relay.poller.defer(told)
                    else:
                        client.send(b"x")
                    await wait_all_tasks_blocked()
                    assert registered(relay) == 2, "the neighbour's"
                    neighbour.send(b"a1 NOOP\r\n")
                    await wait_all_tasks_blocked()
                    assert its_server.recv(100) == b"a1 NOOP\r\n"
                    neighbour.shutdown(socket.SHUT_WR)
                    its_server.shutdown(socket.SHUT_WR)
            assert ends == [CLIENT_CLOSED]


async def move(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    """Through the relay, whatever fits at a time."""
    sent = heard = 0
    with trio.fail_after(TIMEOUT_S):
        while heard < len(data):
            with suppress(BlockingIOError):
                sent += sender.send(data[sent : sent + 200_000])
            await wait_all_tasks_blocked()
            with suppress(BlockingIOError):
                heard += len(receiver.recv(1 << 20))


async def test_a_session_that_falls_silent_after_bulk_keeps_no_pipe(relay_kind: Kind) -> None:
    """They are few: some that fetched a large message would keep all others from having one."""
    with session() as (client, server, pair):
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            assert isinstance(relay, Engine)
            nursery.start_soon(relay.run, pair)
            await wait_all_tasks_blocked()
            for _ in range(2):
                await move(server, client, bytes(1_000_000))
                assert relay.pipes.in_use == 0
                await move(client, server, b"a1 NOOP\r\n")
                await move(server, client, b"a1 OK\r\n")
                assert relay.pipes.in_use == 0
            nursery.cancel_scope.cancel()


async def test_what_follows_urgent_data_is_relayed(relay_kind: Kind) -> None:
    """A read stops short there, though more has come."""
    with session() as (_, server, pair), socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _address = listener.accept()
        ours.setblocking(False)
        with client, ours:
            async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
                tcp = Tunnel(
                    ours, pair.server.sock, client_timeout=1000, server_timeout=1000, half_closed_timeout=1000
                )
                client.send(b"before ")
                client.send(b"!", socket.MSG_OOB)
                client.send(b"behind")
                await wait_all_tasks_blocked(0.01)
                nursery.start_soon(relay.run, tcp)
                heard = b""
                with trio.fail_after(TIMEOUT_S):
                    while heard != b"before behind":
                        await trio.lowlevel.wait_readable(server)
                        heard += server.recv(100)
                nursery.cancel_scope.cancel()


async def test_tls_that_must_answer_waits_for_room_at_its_own_socket(relay_kind: Kind) -> None:
    """The answer to a key update goes back to where that came from."""
    with session() as (client, server, pair):
        answers = [ssl.SSLWantWriteError()]

        class Answering:
            def read(self, _size: int, buffer: memoryview) -> int:
                if answers:
                    raise answers.pop()
                return pair.client.sock.recv_into(buffer)

        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(relay.run, pair)
            await wait_all_tasks_blocked()
            pair.client.connection, pair.client.is_tls = Answering(), True
            client.send(b"a1 NOOP\r\n")
            with trio.fail_after(TIMEOUT_S):
                await trio.lowlevel.wait_readable(server)  # told of room, it went on by itself
            assert server.recv(100) == b"a1 NOOP\r\n"
            nursery.cancel_scope.cancel()
