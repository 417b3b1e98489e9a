"""A stop with 1,000 sessions: they end spread over time, idle ones first, and no response is cut.

It takes 10 s, so it is beside the tests with real programs.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from tests.support.program import Program

pytestmark = pytest.mark.peers

IDLE, BUSY = 900, 100
DRAIN_S = 10
RATE = 200
RESPONSE_S = 3.0  # ends by itself long before the deadline
TIMEOUT_S = 60
GREETING, PIECE, LAST = b"* OK\r\n", b"piece\r\n", b"last\r\n"


class Server(threading.Thread):
    """Greets, and answers a line with a response that takes 3 s."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.address = ""
        self.is_ready = threading.Event()

    def run(self) -> None:
        trio.run(self._serve)

    async def _serve(self) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=2000)
        name = listener.socket.getsockname()
        self.address = f"{name[0]}:{name[1]}"
        self.is_ready.set()
        await trio.serve_listeners(self._answer, [listener])

    @staticmethod
    async def _answer(stream: trio.SocketStream) -> None:
        try:
            await stream.send_all(GREETING)
            while await stream.receive_some():
                for _ in range(10):
                    await stream.send_all(PIECE)
                    await trio.sleep(RESPONSE_S / 10)
                await stream.send_all(LAST)
        except trio.BrokenResourceError:
            pass


class Clients:
    """1,000 clients. The busy ones ask for a response just before the drain begins."""

    def __init__(self) -> None:
        self.idle_ends: list[float] = []
        self.busy_ends: list[float] = []
        self.cut: list[bytes] = []

    async def run(self, address: tuple[str, int], program: Program) -> float:
        """Return the seconds from the signal to the last end."""
        streams = [await trio.open_tcp_stream(*address) for _ in range(IDLE + BUSY)]
        for stream in streams:
            assert await stream.receive_some() == GREETING
        await trio.sleep(1.0)  # now all of them are idle
        for stream in streams[IDLE:]:
            await stream.send_all(b"x\r\n")
        for stream in streams[IDLE:]:
            assert await stream.receive_some(len(PIECE)) == PIECE  # the next one may be there
        program.process.terminate()
        started_at = trio.current_time()
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for number, stream in enumerate(streams):
                    nursery.start_soon(self._read, stream, number >= IDLE, started_at)
        return trio.current_time() - started_at

    async def _read(self, stream: trio.SocketStream, is_busy: bool, started_at: float) -> None:
        received = b""
        while data := await stream.receive_some():
            received += data
        (self.busy_ends if is_busy else self.idle_ends).append(trio.current_time() - started_at)
        if is_busy and received != PIECE * 9 + LAST:
            self.cut.append(received)
        await stream.aclose()


@pytest.mark.parametrize("workers", [1, 2])
def test_stop_ends_a_thousand_sessions_spread_over_time(tmp_path: Path, workers: int) -> None:
    server = Server()
    server.start()
    assert server.is_ready.wait(TIMEOUT_S)
    text = f"""
[process]
workers = {workers}
idle_first = "1s"
drain_rate = {RATE}
drain_timeout = "{DRAIN_S}s"
[frontends.imap]
protocol = "imap"
backend = "b"
bind = ["127.0.0.1:0"]
[backends.b]
check = "none"
servers = ["{server.address}"]
"""
    with Program(text, tmp_path) as program:
        clients = Clients()
        seconds = trio.run(clients.run, program.addresses[0], program)
        assert program.wait() == 0
    assert clients.cut == []
    assert seconds < DRAIN_S + 5
    assert (len(clients.idle_ends), len(clients.busy_ends)) == (IDLE, BUSY)
    # Idle sessions end at the rate: none of the seconds has more than twice its share.
    by_second = [
        sum(second <= end < second + 1 for end in clients.idle_ends) for second in range(DRAIN_S + 1)
    ]
    assert max(by_second) <= 2 * RATE
    assert max(clients.idle_ends) >= IDLE / RATE / 2
