"""The dialogue of a hand-over: sockets that go through a channel, and packets that are none."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mailproxy.files import FileId
from mailproxy.ipc.channel import channel_pair
from mailproxy.net.passing.packets import (
    PACKET_MAX,
    HandoverError,
    receive,
    receive_nowait,
    send,
    send_sockets,
    sockets_in,
)
from mailproxy.net.passing.sockets import PassedSocket

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, other = channel_pair()
    with one, other:
        yield one, other


def soon() -> float:
    return time.monotonic() + 5.0


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_sockets_arrive_with_their_descriptions(ends: Ends) -> None:
    """Also more than one packet holds."""
    before = open_descriptors()
    with ExitStack() as stack:
        sent = [
            PassedSocket(
                socket=stack.enter_context(socket.create_server(("127.0.0.1", 0))),
                purpose="admin" if number == 7 else "bind",
                frontend=f"f{number}",
                number=number,
                address=f"unix:/run/{number}",
                file=FileId(1, number) if number % 2 else None,
            )
            for number in range(250)
        ]
        send_sockets(ends[0], sent, deadline=soon())
        received: list[PassedSocket] = []
        while (packet := receive(ends[1], deadline=soon())).type == "sockets":
            received += sockets_in(packet)
        assert (packet.type, packet.values) == ("end", {"sockets": 250})
        for old, new in zip(sent, received, strict=True):
            assert os.fstat(old.socket.fileno()).st_ino == os.fstat(new.socket.fileno()).st_ino
            assert (new.purpose, new.frontend, new.number, new.address, new.file) == (
                old.purpose, old.frontend, old.number, old.address, old.file,
            )  # fmt: skip
            new.socket.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("data", [b"{", b"[]", b"7", b"{}", b'{"type":7}', b"\xff", b"[" * 50_000])
def test_packet_that_is_none_is_refused(ends: Ends, data: bytes) -> None:
    ends[0].send(data)
    with pytest.raises(HandoverError):
        receive(ends[1], deadline=soon())


def test_packet_that_is_too_long_is_refused_without_leak(ends: Ends) -> None:
    before = open_descriptors()
    with open(os.devnull, "rb") as file:  # noqa: PTH123 - its descriptor
        socket.send_fds(ends[0], [b"a" * (PACKET_MAX + 1)], [file.fileno()])
    with pytest.raises(HandoverError, match="too long"):
        receive(ends[1], deadline=soon())
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "sockets",
    [
        None,
        7,
        [],
        [["bind", "f", 1, "a", None], ["bind", "f", 1, "a", None]],
        [["other", "f", 1, "a", None]],
        [["bind", 1, 1, "a", None]],
        [["bind", "f", 1, "a"]],
        [["bind", "f", 1, "a", [1]]],
        [["bind", "f", "x", "a", None]],
    ],
)
def test_wrong_descriptions_are_refused_without_leak(ends: Ends, sockets: object) -> None:
    before = open_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        send(ends[0], "sockets", sock.fileno(), deadline=soon(), sockets=sockets)
    with pytest.raises(HandoverError):
        sockets_in(receive(ends[1], deadline=soon()))
    assert open_descriptors() == before


def test_descriptor_that_is_no_socket_is_refused_without_leak(ends: Ends) -> None:
    before = open_descriptors()
    with open(os.devnull, "rb") as file:  # noqa: PTH123 - its descriptor
        send(ends[0], "sockets", file.fileno(), deadline=soon(), sockets=[["bind", "f", 1, "a", None]])
    with pytest.raises(HandoverError):
        sockets_in(receive(ends[1], deadline=soon()))
    assert open_descriptors() == before


def test_silent_other_side_is_not_waited_for(ends: Ends) -> None:
    with pytest.raises(BlockingIOError):
        receive_nowait(ends[1])
    with pytest.raises(HandoverError, match="does not answer"):
        receive(ends[1], deadline=time.monotonic() + 0.01)


def test_closed_other_side_is_noticed(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(HandoverError, match="closed the connection"):
        receive(ends[1], deadline=soon())
    with pytest.raises(HandoverError, match="cannot be reached"):
        send(ends[1], "ok", deadline=soon())
