"""Logins at a steady rate beside sessions that stay open, and what the proxy's processes use meanwhile."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import trio
from attrs import define, field

TIMEOUT_S = 30.0
_LOGINS_AT_ONCE = 50


async def greet_and_echo(name: str, stream: trio.SocketStream) -> None:
    """Serve one session: the name as a greeting, then an echo."""
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(name.encode() + b"\r\n")
            async for data in stream:
                await stream.send_all(data)


@contextlib.asynccontextmanager
async def named_servers(*names: str) -> AsyncIterator[dict[str, str]]:
    """Run servers; their addresses by name."""
    async with trio.open_nursery() as nursery:
        addresses = {}
        for name in names:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=500)
            addresses[name] = f"127.0.0.1:{listener.socket.getsockname()[1]}"

            async def serve(stream: trio.SocketStream, name: str = name) -> None:
                await greet_and_echo(name, stream)

            await nursery.start(trio.serve_listeners, serve, [listener])
        yield addresses
        nursery.cancel_scope.cancel()


@define
class Logins:
    """Short sessions at a steady rate, every tenth over TLS if there is a TLS address.

    Attributes:
        lost: What went wrong: refused, reset or closed early.
        greetings: Which servers have served.
    """

    address: tuple[str, int]
    tls_address: tuple[str, int] | None = None
    tls: ssl.SSLContext | None = None
    rate: float = 200.0
    made: int = 0
    lost: list[object] = field(factory=list)
    greetings: set[str] = field(factory=set)
    is_done: bool = False

    async def run(self) -> None:
        """Log in until ``is_done``."""
        async with trio.open_nursery() as nursery:
            due = trio.current_time()
            limit = trio.CapacityLimiter(_LOGINS_AT_ONCE)
            while not self.is_done:
                nursery.start_soon(self._log_in, self.made, limit)
                self.made += 1
                # After a pause it does not make up for all logins that it has missed.
                due = max(due + 1 / self.rate, trio.current_time() - 1)
                await trio.sleep_until(due)

    async def _log_in(self, number: int, limit: trio.CapacityLimiter) -> None:
        try:
            with trio.fail_after(TIMEOUT_S):
                async with limit, await self._connect(number) as stream:
                    self.greetings.add((await receive_line(stream)).decode())
                    await stream.send_all(b"login %d\r\n" % number)
                    if await receive_line(stream) != b"login %d" % number:
                        self.lost.append(number)
        except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError) as error:
            self.lost.append(repr(error))

    async def _connect(self, number: int) -> trio.abc.Stream:
        if self.tls is None or self.tls_address is None or number % 10:
            return await trio.open_tcp_stream(*self.address)
        stream = await trio.open_tcp_stream(*self.tls_address)
        return trio.SSLStream(stream, self.tls, server_hostname="127.0.0.1", https_compatible=True)


@define
class OpenSessions:
    """Sessions that stay open."""

    streams: list[trio.SocketStream] = field(factory=list)

    async def open(self, address: tuple[str, int], number: int) -> None:
        """Open sessions, and read their greetings."""
        for _ in range(number):
            stream = await trio.open_tcp_stream(*address)
            assert await receive_line(stream)
            self.streams.append(stream)

    async def check(self) -> None:
        """Raise if one of them does not echo."""
        for number, stream in enumerate(self.streams):
            with trio.fail_after(TIMEOUT_S):
                await stream.send_all(b"still %d\r\n" % number)
                assert await receive_line(stream) == b"still %d" % number

    async def close(self) -> None:
        """Close all."""
        for stream in self.streams:
            await stream.aclose()


async def receive_line(stream: trio.abc.Stream) -> bytes:
    """Return a line without its end."""
    data = b""
    while not data.endswith(b"\r\n"):
        more = await stream.receive_some(1000)
        if not more:
            raise EOFError("closed early")
        data += more
    return data[:-2]


def descriptors(pids: Iterable[int]) -> dict[int, int]:
    """Return how many descriptors each process has open."""
    return {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids}


def private_memory(pids: Iterable[int]) -> dict[int, int]:
    """Return the memory that each process has to itself, in kB."""
    return {pid: _private_kb(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in pids}


def _private_kb(rollup: str) -> int:
    return sum(
        int(line.split()[1])
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )
