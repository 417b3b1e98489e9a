"""The stop of a proxy with real sessions: idle ones end first, busy ones may finish."""

from __future__ import annotations

import pytest
import trio

from mailproxy.testing import Collect, Expect, Send, Step, collect
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import ON_EACH

GREETING = b"* OK ready\r\n"


@ON_EACH
async def test_idle_session_ends_long_before_the_deadline(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, process={"idle_first": "100ms"})
    async with await harness.dial(proxy) as client:
        assert await client.receive_line() == GREETING
        await trio.sleep(0.1)
        with trio.fail_after(TIMEOUT_S):
            await proxy.drain(1000)
        assert await client.receive_until_end() == b""
    line = await harness.session()
    assert (line["end"], line["state"]) == ("stopped", "K-")


@ON_EACH
async def test_response_that_is_being_sent_arrives_whole(harness: ProxyHarness) -> None:
    """The server sends it in pieces, all of them after the drain has begun."""
    pieces: list[Step] = []
    for _ in range(10):
        pieces += [Send(b"piece\r\n"), Expect(b"x")]
    server = await harness.server((Send(GREETING), *pieces, Send(b"last\r\n"), Collect()))
    proxy = await harness.proxy(server.address, process={"idle_first": "1s"})
    async with await harness.dial(proxy) as client:
        assert await client.receive_line() == GREETING
        harness.nursery.start_soon(proxy.drain, 3)
        for _ in range(10):
            assert await client.receive_line() == b"piece\r\n"
            await trio.sleep(0.1)
            await client.send(b"x")
        assert await client.receive_line() == b"last\r\n"
    assert (await harness.session())["end"] == "client-closed"


async def test_progress_of_a_long_drain_is_logged(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.drain.drainer._PROGRESS_INTERVAL_S", 0.05)
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address)
    async with await harness.dial(proxy) as client:
        assert await client.receive_line() == GREETING
        await proxy.drain(1)
        assert await client.receive_until_end() == b""
    lines = [line for line in harness.lines() if line["event"] == "drain-progress"]
    assert len(lines) >= 3
    assert (lines[0]["what"], lines[0]["left"], lines[0]["idle"], lines[0]["seconds"]) == ("process", 1, 0, 1)
