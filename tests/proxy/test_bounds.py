"""Limits and ends under unusual circumstances: waiting clients, full limits, cancellation, failing parts."""

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


async def test_free_slot_goes_to_bind_with_client(harness: ProxyHarness) -> None:
    """One slot, two binds: a freed slot goes to the bind with a client, not to the one that waited first."""
    server = await harness.server(collect(GREETING))
    bind = [{"address": "127.0.0.1:0", "name": "A"}, {"address": "127.0.0.1:0", "name": "B"}]
    proxy = await harness.proxy(server.address, process={"max_sessions": 1}, frontends={"f": {"bind": bind}})
    current = await harness.dial(proxy, bind=0)
    with trio.fail_after(TIMEOUT_S):
        assert await current.receive_line() == GREETING
        for number in (1, 0, 1, 1, 0, 0):
            waiting = await harness.dial(proxy, bind=number)
            await trio.testing.wait_all_tasks_blocked(0.01)  # both binds wait for a free slot
            assert proxy.sessions == 1
            assert not waiting.received
            await current.close()
            assert await waiting.receive_line() == GREETING
            current = waiting
    await current.close()
    lines = await harness.sessions(7)
    assert [line["bind"] for line in lines] == ["A", "B", "A", "B", "B", "A", "A"]


async def test_frontends_share_process_limit(harness: ProxyHarness) -> None:
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
async def test_full_process_is_logged_once(harness: ProxyHarness, limit: int) -> None:
    """A small proxy at its limit, where each ending session makes room for one, logs this once."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, process={"max_sessions": limit})
    repetitions = 20

    async def connect_repeatedly() -> None:
        for _ in range(repetitions):
            async with await harness.dial(proxy) as client:
                assert await client.receive_line() == GREETING

    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(limit + 3):
                nursery.start_soon(connect_repeatedly)
    await harness.sessions(repetitions * (limit + 3))
    assert len(await harness.events("sessions-full")) == 1
    assert proxy.sessions == 0


async def test_second_drain_may_be_shorter(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address)
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.drain, 1000)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert proxy.sessions == 1
            nursery.start_soon(proxy.drain, 0)  # both calls return
        assert await client.receive_until_end() == b""
    client.drop()
    assert (await harness.session())["end"] == "stopped"
    assert [line["seconds"] for line in await harness.events("draining", 2)] == [1000, 0]


async def test_cancellation_before_ready_leaves_nothing(
    harness: ProxyHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy listens and waits for a name server that does not answer.

    Cancelled now, it leaves nothing.
    """
    was_called = trio.Event()

    async def hang(*_: object, **__: object) -> list[tuple[object, ...]]:
        was_called.set()
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
            await was_called.wait()
            assert path.is_socket()
            nursery.cancel_scope.cancel()
    assert not path.exists()
    with pytest.raises(OSError):
        await dial(f"127.0.0.1:{port}")
    await before.wait_until_restored()


async def test_unformattable_line_ends_one_session(
    harness: ProxyHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    log = tmp_path / "faulty.log"  # the harness's own log must have no session-fault
    proxy = await harness.proxy(server.address, log={"to": str(log)})
    before = ResourceSnapshot.now()
    failing, other = await harness.dial(proxy), await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await failing.receive_line() == GREETING
        assert await other.receive_line() == GREETING

        def fail(*_: object) -> None:
            raise RuntimeError("this line cannot be formatted")

        with monkeypatch.context() as broken:
            broken.setattr(Log, "session", fail)
            await failing.close()
            await server.wait_ended()
            while proxy.sessions > 1:  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.005)

        later = await harness.dial(proxy)
        assert await later.receive_line() == GREETING
        for client in (other, later):
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
    """An epoll object of a user at the limit of watched descriptors (epoll(7), max_user_watches)."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def register(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_full_epoll_ends_sessions_not_proxy(harness: ProxyHarness) -> None:
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
