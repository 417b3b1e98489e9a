"""PROXY headers on sockets: only the header's bytes are consumed, and a header is sent at once."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from mailproxy.errors import ClientLeftError, ServerRefusedError
from mailproxy.net.proxy_header import receive_header, send_header
from mailproxy.protocol.proxy_header import (
    Command,
    Header,
    HeaderError,
    HeaderV1,
    HeaderV2,
    LineError,
    NotAHeaderError,
    Protocol,
    Tlv,
    Type,
    UnhandledProtocolError,
    VersionError,
    format_header,
    with_checksum,
)
from tests.support.timeouts import fail_after_timeout

CLIENT, PROXY = ("192.0.2.9", 40000), ("198.51.100.1", 993)
CLIENT6, PROXY6 = ("2001:db8::9", 40000), ("2001:db8::1", 993)

HEADERS: dict[str, Header] = {
    "version 1": HeaderV1(protocol="TCP4", source=CLIENT, destination=PROXY),
    "version 1, IPv6": HeaderV1(protocol="TCP6", source=CLIENT6, destination=PROXY6),
    "version 1, unknown": HeaderV1(protocol="UNKNOWN"),
    "version 2": HeaderV2(
        command=Command.PROXY, protocol=Protocol.TCP4, source=CLIENT, destination=PROXY
    ),
    "version 2, IPv6 and extensions": with_checksum(
        HeaderV2(
            command=Command.PROXY, protocol=Protocol.TCP6, source=CLIENT6, destination=PROXY6,
            tlvs=(Tlv(Type.UNIQUE_ID, b"1"), Tlv(Type.NOOP, bytes(5000))),
        )
    ),
    "local": HeaderV2(command=Command.LOCAL),
    "local with ignored content": HeaderV2(command=Command.LOCAL, block=b"noise"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A blocking socket that sends, and a nonblocking one that receives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname(), 5)
        receiver, _ = listener.accept()
    receiver.setblocking(False)
    with sender, receiver:
        yield sender, receiver


# Receiving.


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
async def test_bytes_after_the_header_stay_unread(
    sockets: tuple[socket.socket, socket.socket], header: Header
) -> None:
    sender, receiver = sockets
    sender.sendall(format_header(header) + b"a1 NOOP\r\n")
    assert await receive_header(receiver) == header
    assert receiver.recv(100) == b"a1 NOOP\r\n"


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
async def test_header_in_two_pieces(
    sockets: tuple[socket.socket, socket.socket], nursery: trio.Nursery, header: Header
) -> None:
    sender, receiver = sockets
    data = format_header(header)

    async def send_the_rest() -> None:
        await trio.testing.wait_all_tasks_blocked(0.001)
        sender.sendall(data[5:])

    sender.sendall(data[:5])
    nursery.start_soon(send_the_rest)
    assert await receive_header(receiver) == header
    with pytest.raises(BlockingIOError):
        receiver.recv(1)


async def test_consecutive_headers_are_read_separately(sockets: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = sockets
    sender.sendall(b"".join(map(format_header, HEADERS.values())))
    for header in HEADERS.values():
        assert await receive_header(receiver) == header


@pytest.mark.parametrize("protocol", [*set(Protocol) - {Protocol.TCP4, Protocol.TCP6}, 0x01, 0x10, 0x30])
async def test_unsupported_protocol_is_rejected_and_left_unread(
    sockets: tuple[socket.socket, socket.socket], protocol: int
) -> None:
    sender, receiver = sockets
    data = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, protocol, 0, 216]) + bytes(216)
    sender.sendall(data)
    with pytest.raises(
        UnhandledProtocolError, match=f"0x{protocol:02x} is neither TCP over IPv4 nor over IPv6"
    ):
        await receive_header(receiver)
    assert receiver.recv(500) == data


async def test_local_header_may_have_any_protocol(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = sockets
    sender.sendall(b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20, Protocol.UDP4, 0, 12]) + bytes(12))
    header = await receive_header(receiver)
    assert header.endpoints is None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"EHLO client.example\r\n", NotAHeaderError),
        (b"\x16\x03\x01\x02\x00\x01", NotAHeaderError),
        (b"PROXY TCP4 192.0.2.9\r\n", LineError),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0", VersionError),
    ],
)
async def test_invalid_header_is_rejected_and_left_unread(
    sockets: tuple[socket.socket, socket.socket], data: bytes, error: type[HeaderError]
) -> None:
    sender, receiver = sockets
    sender.sendall(data)
    with pytest.raises(error):
        await receive_header(receiver)
    assert receiver.recv(100) == data


async def test_truncated_header_raises_client_left(sockets: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = sockets
    sender.sendall(format_header(HEADERS["version 2"])[:-1])
    sender.shutdown(socket.SHUT_WR)
    with pytest.raises(ClientLeftError, match="closed after 27 bytes"):
        await receive_header(receiver)


# Sending.


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
async def test_sent_header_is_received(sockets: tuple[socket.socket, socket.socket], header: Header) -> None:
    sender, receiver = sockets
    sender.setblocking(False)
    send_header(sender, format_header(header))
    sender.sendall(b"a1 NOOP\r\n")
    assert await receive_header(receiver) == header
    assert receiver.recv(100) == b"a1 NOOP\r\n"


async def test_send_to_closed_server_is_refused(sockets: tuple[socket.socket, socket.socket]) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    sender, _ = sockets
    sender.shutdown(socket.SHUT_WR)
    with pytest.raises(
        ServerRefusedError, match="the PROXY header could not be sent: Connection reset by peer"
    ):
        send_header(sender, b"PROXY UNKNOWN\r\n")


async def test_partial_send_is_refused() -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    sender, receiver = socket.socketpair()
    with sender, receiver:
        sender.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        size = 2**20
        with pytest.raises(
            ServerRefusedError, match=rf"the socket took \d+ of the PROXY header's {size} bytes"
        ):
            send_header(sender, bytes(size))


async def test_send_to_full_socket_is_refused() -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    sender, receiver = socket.socketpair()
    with sender, receiver:
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(4096))
        with pytest.raises(ServerRefusedError, match="could not be sent: Resource temporarily unavailable"):
            send_header(sender, b"PROXY UNKNOWN\r\n")
