"""Scripted servers: each behaviour as seen by the client, over every type of socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import trio

from mailproxy.testing import (
    Close,
    Collect,
    Connection,
    Drop,
    Echo,
    Expect,
    ExpectLine,
    Flood,
    HalfClose,
    LoopbackServer,
    Playbook,
    PlaybookError,
    RefusingServer,
    ScriptedServer,
    Send,
    SendSlowly,
    UnansweredServer,
    WaitFor,
    collect,
    dial,
    flood,
    greet_and_echo,
    never_read,
    pattern,
    reset,
    stay_silent,
)
from tests.support.timeouts import fail_after_timeout

if TYPE_CHECKING:
    from pathlib import Path

    from mailproxy.testing import ThrowAwayCA


Start = Callable[["LoopbackServer | RefusingServer | UnansweredServer"], Awaitable[str]]
Connect = Callable[[Playbook], Awaitable[tuple[ScriptedServer, Connection]]]


@pytest.fixture
def start(nursery: trio.Nursery) -> Start:
    """Start a server and return its address. Tests with it, or with ``connect``, have a time limit."""
    nursery.start_soon(fail_after_timeout)

    async def start(server: LoopbackServer | RefusingServer | UnansweredServer) -> str:
        address: str = await nursery.start(server.serve)
        return address

    return start


@pytest.fixture(params=["clear", "tls"])
def connect(request: pytest.FixtureRequest, start: Start, throw_away_ca: ThrowAwayCA) -> Connect:
    """Start a server with a playbook and connect to it, in clear and over TLS."""
    is_tls = request.param == "tls"

    async def connect(playbook: Playbook) -> tuple[ScriptedServer, Connection]:
        tls = throw_away_ca.server_context("localhost") if is_tls else None
        server = ScriptedServer(playbook, tls=tls, receive_buffer_bytes=4096)
        return server, await dial(await start(server), tls=throw_away_ca.client_context() if is_tls else None)

    return connect


async def test_greet_and_echo_records_received_bytes(connect: Connect) -> None:
    server, client = await connect(greet_and_echo())
    async with client:
        assert await client.receive_line() == b"* OK ready\r\n"
        await client.send(b"one\r\ntwo\r\n")
        assert await client.receive_line() == b"one\r\n"
        assert await client.receive_line() == b"two\r\n"
        await client.half_close()
        assert await client.receive_until_end() == b""
        assert client.end == ("close_notify" if client.tls else "eof")
    await server.wait_ended()
    assert server.accepted == 1
    assert server.connections[0].received == b"one\r\ntwo\r\n"
    assert server.connections[0].end == client.end


async def test_answer_after_client_half_close(connect: Connect) -> None:
    _, client = await connect((Collect(), Send(b"you sent all of it"), Close()))
    async with client:
        await client.send(b"all of it")
        await client.half_close()
        assert await client.receive_until_end() == b"you sent all of it"


async def test_receive_after_own_half_close(connect: Connect) -> None:
    server, client = await connect((Send(b"bye"), HalfClose(), Collect()))
    async with client:
        assert await client.receive_until_end() == b"bye"
        assert client.end == ("close_notify" if client.tls else "eof")
        await client.send(b"one more thing")
        await (await server.wait_for()).wait_received(b"one more thing")


@pytest.mark.parametrize("greeting", [b"", b"* OK ready\r\n"])
async def test_reset_playbook(connect: Connect, greeting: bytes) -> None:
    _, client = await connect(reset(greeting))
    async with client:
        # A reset may overtake data that was sent before it.
        assert greeting.startswith(await client.receive_until_end())
        assert client.end == "reset"


async def test_drop_sends_no_close_notify(connect: Connect) -> None:
    _, client = await connect((Send(b"bye"), Drop()))
    async with client:
        assert await client.receive_until_end() == b"bye"
        assert client.end == "eof"


async def test_silent_server_records_received_bytes(connect: Connect) -> None:
    server, client = await connect(stay_silent())
    async with client:
        await client.send(b"hello?")
        await (await server.wait_for()).wait_received(6)
    await server.wait_ended()
    assert client.received == b""
    assert server.connections[0].received == b"hello?"


async def test_never_read_blocks_the_sender(connect: Connect) -> None:
    _, client = await connect(never_read(b"* OK\r\n"))
    async with client:
        await client.receive_line()
        with trio.move_on_after(0.3) as scope:
            await Flood().play(client)
        assert scope.cancelled_caught


async def test_flood_sends_bytes_in_order(connect: Connect) -> None:
    _, client = await connect(flood(3_000_001))
    async with client:
        assert await client.receive_until_end() == pattern(3_000_001)


async def test_echo_sends_and_receives_at_once(connect: Connect, nursery: trio.Nursery) -> None:
    server, client = await connect((Echo(),))
    async with client:
        nursery.start_soon(client.send, pattern(5_000_000))
        assert await client.receive_exactly(5_000_000) == pattern(5_000_000)
    assert len(server.connections[0].received) == 5_000_000


async def test_send_slowly(connect: Connect) -> None:
    _, client = await connect((SendSlowly(b"* OK slow\r\n"), Close()))
    async with client:
        assert await client.receive_line() == b"* OK slow\r\n"


async def test_wait_for_event(connect: Connect) -> None:
    may_continue = trio.Event()
    _, client = await connect((Send(b"half "), WaitFor(may_continue), Send(b"a line\r\n"), Collect()))
    async with client:
        assert await client.receive_exactly(5) == b"half "
        may_continue.set()
        assert await client.receive_line() == b"a line\r\n"


async def test_met_expectations(connect: Connect) -> None:
    server, client = await connect(
        (Expect(b"abc"), ExpectLine(b"def"), ExpectLine(), Send(b"fine\r\n"), Collect(2), Close())
    )
    async with client:
        await client.send(b"abcdef\r\nwhatever\r\n")
        assert await client.receive_line() == b"fine\r\n"
        await client.send(b"ok")
        await server.wait_ended()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Expect(b"abc"), "expected b'abc'\nreceived b'xyz'"),
        (ExpectLine(b"abc"), "expected b'abc'\nreceived b'xyz'"),
        (Expect(b"xyz\r\nmore"), "and then eof"),
    ],
)
async def test_unmet_expectation_reports_received_bytes(
    start: Start, step: Expect | ExpectLine, message: str
) -> None:
    server = ScriptedServer((Send(b"xyz\r\n"), Close()))
    async with await dial(await start(server)) as client:
        with pytest.raises(PlaybookError, match=message):
            await step.play(client)


async def test_unmet_expectation_of_server_fails_the_test() -> None:
    failed = False
    try:
        async with trio.open_nursery() as nursery:
            async with await dial(await nursery.start(ScriptedServer((ExpectLine(),)).serve)) as client:
                await client.half_close()
                await client.receive_until_end()
            await trio.sleep_forever()
    except* PlaybookError:
        failed = True
    assert failed


async def test_playbook_for_each_connection(start: Start) -> None:
    server = ScriptedServer(reset(), (Send(b"second"), Close()), (Send(b"any other"), Close()))
    address = await start(server)
    received = []
    for _ in range(4):
        async with await dial(address) as client:
            received.append(await client.receive_until_end())
    assert received == [b"", b"second", b"any other", b"any other"]
    assert (await server.wait_for(4)).peer.startswith("127.0.0.1:")


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "unix:"])
async def test_every_type_of_address(start: Start, tmp_path: Path, bind: str) -> None:
    path = tmp_path / "imap.sock"
    server = ScriptedServer(bind=f"unix:{path}" if bind == "unix:" else bind)
    async with trio.open_nursery() as server_nursery:
        address = await server_nursery.start(server.serve)
        async with await dial(address) as client:
            assert await client.receive_line() == b"* OK ready\r\n"
            server_nursery.cancel_scope.cancel()
    assert not path.exists()
    with pytest.raises(OSError, match=r"refused|No such file"):
        await dial(address)


async def test_server_name_of_client_is_recorded(start: Start, throw_away_ca: ThrowAwayCA) -> None:
    server = ScriptedServer(tls=throw_away_ca.server_context("a.example", "127.0.0.1"))
    address = await start(server)
    async with await dial(address, tls=throw_away_ca.client_context(), server_name="a.example"):
        assert (await server.wait_for(1)).server_name == "a.example"
    async with await dial(address, tls=throw_away_ca.client_context(), server_name="127.0.0.1"):
        assert (await server.wait_for(2)).server_name is None


async def test_failed_handshake_is_recorded(start: Start, throw_away_ca: ThrowAwayCA) -> None:
    server = ScriptedServer(tls=throw_away_ca.server_context("localhost"))
    address = await start(server)
    async with await dial(address) as client:
        await client.send(b"a1 LOGIN in clear\r\n")
        await client.receive_until_end()
    await server.wait_ended()
    assert server.connections[0].end == "tls"
    assert server.connections[0].tls_fault
    async with await dial(address, tls=throw_away_ca.client_context()) as client:
        assert await client.receive_line() == b"* OK ready\r\n"


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "unix:"])
async def test_refusing_server_refuses_connections(start: Start, tmp_path: Path, bind: str) -> None:
    server = RefusingServer(f"unix:{tmp_path / 'imap.sock'}" if bind == "unix:" else bind)
    address = await start(server)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await dial(address)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
async def test_unanswered_server_leaves_connects_pending(start: Start, bind: str) -> None:
    address = await start(UnansweredServer(bind))
    for _ in range(3):
        with trio.move_on_after(0.1) as scope:
            await dial(address)
        assert scope.cancelled_caught


async def test_many_simultaneous_connections(start: Start) -> None:
    server = ScriptedServer(collect(b"* OK\r\n"))
    address = await start(server)

    async def connect_and_send(number: int) -> None:
        async with await dial(address) as client:
            await client.receive_line()
            await client.send(b"%d" % number)
            await client.half_close()
            await client.receive_until_end()

    async with trio.open_nursery() as clients:
        for number in range(200):
            clients.start_soon(connect_and_send, number)
    await server.wait_ended(200)
    assert {bytes(connection.received) for connection in server.connections} == {
        b"%d" % n for n in range(200)
    }


def test_pattern_starts_anywhere() -> None:
    complete = pattern(1000)
    assert all(pattern(300, start) == complete[start : start + 300] for start in range(0, 700, 37))


async def test_waiting_for_stopped_server_raises() -> None:
    server = ScriptedServer()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await server.wait_for()
    with pytest.raises(trio.ClosedResourceError):
        await server.wait_ended()
