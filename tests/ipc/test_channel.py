"""Lines between processes, the memory that they share, and the bells."""

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
from tests.support.timeouts import fail_after_timeout


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


def channel(end: socket.socket, on_drop: Callable[[str], object] = print) -> Channel[Any]:
    return Channel(end, encode=packet, decode=json.loads, on_drop=on_drop)


def packet(message: object) -> bytes:
    return json.dumps(message).encode()


async def heard(line: Channel[Any], count: int) -> list[object]:
    messages: list[object] = []
    for _ in range(count):
        found = await line.receive()
        assert found is not None
        messages.append(found.message)
    return messages


async def test_messages_come_in_order_also_when_the_line_is_full(nursery: trio.Nursery) -> None:
    near, far = map(channel, channel_pair())
    nursery.start_soon(near.run)
    for number in range(100):
        near.send_nowait({"n": number, "more": "x" * 10_000})
    await trio.testing.wait_all_tasks_blocked()
    assert [message["n"] for message in await heard(far, 100)] == list(range(100))  # type: ignore[index]
    near.close()
    assert await far.receive() is None
    far.close()


async def test_what_has_not_gone_out_is_replaced(nursery: trio.Nursery) -> None:
    near, far = map(channel, channel_pair())
    near.send_nowait({"state": 1}, replaces="state")
    near.send_nowait({"other": 1})
    near.send_nowait({"state": 2}, replaces="state")
    nursery.start_soon(near.run)
    assert await heard(far, 2) == [{"other": 1}, {"state": 2}]
    near.close()
    far.close()


async def test_whoever_hears_nothing_does_not_fill_the_memory() -> None:
    near, far = map(channel, channel_pair())
    said = [near.send_nowait({"n": number}) for number in range(2100)]
    assert said == [True] * 2000 + [False] * 100
    assert near.send_nowait({"stop": True}, replaces="stop")
    near.flush()
    assert (await heard(far, 1)) == [{"n": 0}]
    near.close()
    far.close()


async def test_a_message_that_is_too_long_is_dropped_and_no_other(nursery: trio.Nursery) -> None:
    facts: list[str] = []
    (near_end, far_end), long = channel_pair(), "x" * 300_000
    near, far = channel(near_end, facts.append), channel(far_end, facts.append)
    nursery.start_soon(near.run)
    near.send_nowait({"n": 1, "more": long})
    near.send_nowait({"n": 2})
    assert await heard(far, 1) == [{"n": 2}]
    near_end.send(b'{"more":"%s"}' % long[:140_000].encode())
    near.send_nowait({"n": 3, "more": long})
    near.send_nowait({"n": 4})
    near.flush()
    assert await heard(far, 1) == [{"n": 4}]
    assert facts == [
        "a message (dict) of 300020 bytes is too long: not sent",
        "a message of more than 131072 bytes is too long: not received",
    ]
    near.close()
    far.close()


async def test_the_other_side_is_gone(nursery: trio.Nursery) -> None:
    near, far = map(channel, channel_pair())
    far.close()
    near.send_nowait({"n": 1})
    await near.run()  # it ends
    assert await near.receive() is None
    near.close()


async def test_sockets_go_along() -> None:
    near, far = channel_pair()
    line = channel(far)
    ours, theirs = socket.socketpair()
    with near, ours:
        with theirs:
            assert try_send(near, packet({"take": "this"}), theirs)
        found = await line.receive()
        assert found is not None
        (taken,) = found.sockets
        with taken:
            ours.send(b"hello")
            assert taken.recv(10) == b"hello"
    line.close()
    assert not try_send(near, packet({}))


async def test_cells_are_cleared_by_rows_and_a_bell_is_heard_once() -> None:
    cells, bells = SharedMemory(2, 3), Wakeups(2)
    columns = [cells.column(number) for number in range(3)]
    columns[1][1], columns[1][0], columns[2][0] = -5, 7, 8
    assert [list(column) for column in columns] == [[0, 0], [7, -5], [8, 0]]
    cells.clear(1)
    assert [list(column) for column in columns] == [[0, 0], [7, 0], [8, 0]]
    bells.wake(0)
    bells.wake(0)
    await bells.wait(0)
    for silent in (0, 1):
        with trio.move_on_after(0.01) as scope:
            await bells.wait(silent)
        assert scope.cancelled_caught
