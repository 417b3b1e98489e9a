"""Bounds and ends under odd circumstances: who waits is served, who is full says so once, nothing stays behind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import mailproxy
from mailproxy.log import Log
from mailproxy.testing import collect, dial, greet_and_echo
from tests.support.ports import free_port
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot

GREETING = b"* OK ready\r\n"


async def test_every_bind_has_its_turn_at_the_bound(harness: ProxyHarness) -> None:
    """One place, two binds: whichever has a client gets the place that is freed, not the one that asked first."""
    server = await harness.server(collect(GREETING))
    bind = [{"address": "127.0.0.1:0", "name": "A"}, {"address": "127.0.0.1:0", "name": "B"}]
    proxy = await harness.proxy(server.address, process={"max_sessions": 1}, frontends={"f": {"bind": bind}})
    present = await harness.dial(proxy, bind=0)
    with trio.fail_after(TIMEOUT_S):
        assert await present.receive_line() == GREETING
        for number in (1, 0, 1, 1, 0, 0):
            waiting = await harness.dial(proxy, bind=number)
            await trio.testing.wait_all_tasks_blocked(0.01)  # both binds wait for room
            assert proxy.sessions == 1
            assert not waiting.received
            await present.close()
            assert await waiting.receive_line() == GREETING
            present = waiting
    await present.close()
    lines = await harness.sessions(7)
    assert [line["bind"] for line in lines] == ["A", "B", "A", "B", "B", "A", "A"]


async def test_frontends_share_the_bound(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    frontend = {"backend": "b", "log_null": True}
    proxy = await harness.run_proxy(
        {
            "log": {"format": "json", "to": str(harness.log)},
            "process": {"max_sessions": 1},
            "frontends": {
                "f": {**frontend, "bind": [{"address": "127.0.0.1:0"}]},
                "g": {**frontend, "bind": [{"address": "127.0.0.1:0"}]},
            },
            "backends": {"b": {"servers": [server.address]}},
        }
    )
    first = await dial(proxy.frontends["f"].addresses[0])
    with trio.fail_after(TIMEOUT_S):
        assert await first.receive_line() == GREETING
        second = await dial(proxy.frontends["g"].addresses[0])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await first.close()
        assert await second.receive_line() == GREETING
    await second.close()
    await harness.sessions(2)


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_full_is_said_once(harness: ProxyHarness, limit: int) -> None:
    """A small proxy at its bound, one session in for one out, does not fill its log with that."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, process={"max_sessions": limit})
    visits = 20

    async def visit() -> None:
        for _ in range(visits):
            async with await harness.dial(proxy) as client:
                assert await client.receive_line() == GREETING

    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(limit + 3):
                nursery.start_soon(visit)
    await harness.sessions(visits * (limit + 3))
    assert len(await harness.events("sessions-full")) == 1
    assert proxy.sessions == 0


async def test_a_second_drain_may_be_shorter(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address)
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.drain, 1000)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert proxy.sessions == 1
            nursery.start_soon(proxy.drain, 0)  # both of them end
        assert await client.receive_until_end() == b""
    client.drop()
    assert (await harness.session())["end"] == "stopped"
    assert [line["seconds"] for line in await harness.events("draining", 2)] == [1000, 0]


async def test_cancelled_before_it_was_ready(
    harness: ProxyHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens, and waits for a name server that does not answer: stopped now, it leaves nothing behind."""
    asked = trio.Event()

    async def hang(*_: object, **__: object) -> list[tuple[object, ...]]:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(trio.socket, "getaddrinfo", hang)
    port = free_port()
    path = tmp_path / "mail.sock"
    config = mailproxy.from_mapping(
        {
            "log": {"format": "json", "to": str(harness.log)},
            "frontends": {
                "f": {
                    "backend": "b",
                    "bind": [{"address": f"127.0.0.1:{port}"}, {"address": f"unix:{path}"}],
                },
                "g": {"backend": "b", "bind": [{"address": "127.0.0.1:0"}]},
            },
            "backends": {"b": {"servers": ["mail.internal:143"]}},
        }
    )
    before = ResourceSnapshot.now()
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mailproxy.serve, config)
            await asked.wait()
            assert path.is_socket()
            nursery.cancel_scope.cancel()
    assert not path.exists()
    with pytest.raises(OSError):
        await dial(f"127.0.0.1:{port}")
    await before.wait_until_restored()


async def test_a_line_that_cannot_be_written_ends_only_its_session(
    harness: ProxyHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    log = tmp_path / "faulty.log"  # the harness's must be without faults
    proxy = await harness.proxy(server.address, log={"to": str(log)})
    before = ResourceSnapshot.now()
    unlucky, other = await harness.dial(proxy), await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await unlucky.receive_line() == GREETING
        assert await other.receive_line() == GREETING

        def fail(*_: object) -> None:
            raise RuntimeError("this line cannot be formatted")

        with monkeypatch.context() as broken:
            broken.setattr(Log, "session", fail)
            await unlucky.close()
            await server.wait_ended()
            while proxy.sessions > 1:  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.005)

        fresh = await harness.dial(proxy)
        assert await fresh.receive_line() == GREETING
        for client in (other, fresh):
            await client.send(b"still here\r\n")
            assert await client.receive_line() == b"still here\r\n"
            await client.close()
        await harness.wait_until_idle()
    await before.wait_until_restored()
    assert proxy.frontends["f"].sessions == 0
    assert [server.sessions for server in proxy.backends["b"].servers.values()] == [0]
    await proxy.drain(0)
    with trio.fail_after(TIMEOUT_S):
        while "has stopped" not in log.read_text():  # noqa: ASYNC110 - written by a thread
            await trio.sleep(0.005)
    lines: list[Line] = [json.loads(line) for line in log.read_text().splitlines()]
    (fault,) = [line for line in lines if line["event"] == "session-fault"]
    assert "this line cannot be formatted" in fault["message"]
    assert [line["end"] for line in lines if line["event"] == "session"] == ["client-closed"] * 2


class FullEpoll:
    """An epoll object of a user who may not watch one descriptor more (epoll(7), max_user_watches)."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def register(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_epoll_that_is_full_ends_sessions_and_not_the_proxy(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address)
    poller: Any = proxy._service._poller
    real, poller._epoll = poller._epoll, FullEpoll(poller._epoll)
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    assert (line["end"], line["state"]) == ("out-of-resources", "RC")
    assert "No space left" in line["detail"]
    poller._epoll = real
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line()
    client.drop()
    await harness.wait_until_idle()
