"""Channels between processes, shared memory, and wakeups."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.ipc.channel import Channel, channel_pair, try_send
from mailproxy.ipc.shared_memory import SharedMemory
from mailproxy.ipc.wakeups import Wakeups
from tests.support.timeouts import TIMEOUT_S, fail_after_timeout


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail a test that waits too long."""
    nursery.start_soon(fail_after_timeout)


def channel(end: socket.socket, on_drop: Callable[[str], object] = print) -> Channel[Any]:
    return Channel(end, encode=packet, decode=json.loads, on_drop=on_drop)


def packet(message: object) -> bytes:
    return json.dumps(message).encode()


async def receive_messages(receiver: Channel[Any], count: int) -> list[object]:
    messages: list[object] = []
    for _ in range(count):
        received = await receiver.receive()
        assert received is not None
        messages.append(received.message)
    return messages


async def test_messages_keep_order_when_channel_is_full(nursery: trio.Nursery) -> None:
    near, far = map(channel, channel_pair())
    nursery.start_soon(near.run)
    for number in range(100):
        near.send_nowait({"n": number, "more": "x" * 10_000})
    await trio.testing.wait_all_tasks_blocked()
    assert [message["n"] for message in await receive_messages(far, 100)] == list(range(100))  # type: ignore[index]
    near.close()
    assert await far.receive() is None
    far.close()


async def test_unsent_message_is_replaced(nursery: trio.Nursery) -> None:
    near, far = map(channel, channel_pair())
    near.send_nowait({"state": 1}, replaces="state")
    near.send_nowait({"other": 1})
    near.send_nowait({"state": 2}, replaces="state")
    nursery.start_soon(near.run)
    assert await receive_messages(far, 2) == [{"other": 1}, {"state": 2}]
    near.close()
    far.close()


async def test_cancelled_receive_loses_no_message_and_no_descriptor() -> None:
    near, far = channel_pair()
    receiver = channel(far)
    sent, kept = socket.socketpair()
    with near, sent, kept:
        assert try_send(near, packet({"n": 1}), sent)
        with trio.CancelScope() as scope:
            scope.cancel()
            await receiver.receive()
        assert scope.cancelled_caught
        with trio.fail_after(TIMEOUT_S):
            received = await receiver.receive()
        assert received is not None
        assert received.message == {"n": 1}
        (arrived,) = received.sockets
        with arrived:
            arrived.send(b"x")
            assert kept.recv(1) == b"x"
    receiver.close()


async def test_queue_of_unread_channel_is_bounded() -> None:
    near, far = map(channel, channel_pair())
    is_queued = [near.send_nowait({"n": number}) for number in range(2100)]
    assert is_queued == [True] * 2000 + [False] * 100
    assert near.send_nowait({"stop": True}, replaces="stop")
    near.flush()
    assert (await receive_messages(far, 1)) == [{"n": 0}]
    near.close()
    far.close()


async def test_only_too_long_message_is_dropped(nursery: trio.Nursery) -> None:
    drops: list[str] = []
    (near_end, far_end), long = channel_pair(), "x" * 300_000
    near, far = channel(near_end, drops.append), channel(far_end, drops.append)
    nursery.start_soon(near.run)
    near.send_nowait({"n": 1, "more": long})
    near.send_nowait({"n": 2})
    assert await receive_messages(far, 1) == [{"n": 2}]
    near_end.send(b'{"more":"%s"}' % long[:140_000].encode())
    near.send_nowait({"n": 3, "more": long})
    near.send_nowait({"n": 4})
    near.flush()
    assert await receive_messages(far, 1) == [{"n": 4}]
    assert drops == [
        "a message (dict) of 300020 bytes is too long: not sent",
        "a message of more than 131072 bytes is too long: not received",
    ]
    near.close()
    far.close()


async def test_channel_ends_when_peer_closes(nursery: trio.Nursery) -> None:
    near, far = map(channel, channel_pair())
    far.close()
    near.send_nowait({"n": 1})
    await near.run()  # returns
    assert await near.receive() is None
    near.close()


async def test_sockets_are_passed() -> None:
    near, far = channel_pair()
    receiver = channel(far)
    near_sock, far_sock = socket.socketpair()
    with near, near_sock:
        with far_sock:
            assert try_send(near, packet({"take": "this"}), far_sock)
        received = await receiver.receive()
        assert received is not None
        (passed,) = received.sockets
        with passed:
            near_sock.send(b"hello")
            assert passed.recv(10) == b"hello"
    receiver.close()
    assert not try_send(near, packet({}))


async def test_memory_clears_rows_and_wakeups_fire_once() -> None:
    memory, wakeups = SharedMemory(2, 3), Wakeups(2)
    columns = [memory.column(number) for number in range(3)]
    columns[1][1], columns[1][0], columns[2][0] = -5, 7, 8
    assert [list(column) for column in columns] == [[0, 0], [7, -5], [8, 0]]
    memory.clear(1)
    assert [list(column) for column in columns] == [[0, 0], [7, 0], [8, 0]]
    wakeups.wake(0)
    wakeups.wake(0)
    await wakeups.wait(0)
    for number in (0, 1):
        with trio.move_on_after(0.01) as scope:
            await wakeups.wait(number)
        assert scope.cancelled_caught
