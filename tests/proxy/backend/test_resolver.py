"""The resolver: when host names are looked up, and that slow look-ups block nothing else."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

import mailproxy
from mailproxy.errors import ServerRefusedError
from mailproxy.log import Log, Output
from mailproxy.log.targets import StreamTarget
from mailproxy.net.dial import Endpoint
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_backend
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness

NOT_FOUND = "name.internal: Name or service not known"
ADDRESS = (Endpoint(socket.AF_INET, "192.0.2.1", 143),)


def make_named_backend(**settings: Any) -> Backend:
    """Return a backend with a server whose name must be looked up. Its log is discarded."""
    config = mailproxy.from_mapping(
        {
            "frontends": {"f": {"backend": "b", "bind": [{"address": "127.0.0.1:0"}]}},
            "backends": {"b": {"servers": ["name.internal:143"], **settings}},
        }
    )
    return make_backend(
        config.backends["b"], {}, Log([Output(StreamTarget(os.open(os.devnull, os.O_WRONLY)))])
    )


class FakeResolver:
    """Replaces the resolver: gives its answers in turn and repeats the last one.

    ``times`` has the time of each query.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Sequence[Endpoint] | Exception) -> None:
        self.answers = list(answers)
        self.times: list[float] = []
        self.start = trio.current_time()
        monkeypatch.setattr("mailproxy.proxy.backend.resolver.resolve", self.look_up)

    async def look_up(self, host: str, port: int | None, _prefer: str | None = None) -> Sequence[Endpoint]:
        assert (host, port) == ("name.internal", 143)
        self.times.append(round(trio.current_time() - self.start, 3))
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def run_resolver(backend: Backend, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await backend.resolver.run()


async def test_name_without_address_is_retried_soon(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    resolver = FakeResolver(monkeypatch, ServerRefusedError(NOT_FOUND))
    await run_resolver(make_named_backend(), 20.5)
    assert resolver.times == [0, 1, 3, 7, 11, 15, 19]


async def test_name_with_address_is_retried_every_interval(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Also when a later answer has no address: the known addresses stay in use."""
    not_found = ServerRefusedError(NOT_FOUND)
    resolver = FakeResolver(monkeypatch, not_found, ADDRESS, not_found, not_found, ADDRESS)
    backend = make_named_backend()
    await run_resolver(backend, 100)
    assert resolver.times == [0, 1, 31, 61, 91]
    assert backend.servers[0].addresses == ADDRESS


async def test_short_interval_is_kept_for_names_without_address(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    resolver = FakeResolver(monkeypatch, ServerRefusedError(NOT_FOUND))
    await run_resolver(make_named_backend(resolve_interval="500ms"), 2.2)
    assert resolver.times == [0, 0.5, 1, 1.5, 2]


async def test_server_is_checked_when_name_appears(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    FakeResolver(monkeypatch, ServerRefusedError(NOT_FOUND), ADDRESS)
    backend = make_named_backend()
    (server,) = backend.servers
    assert server.health is not None
    while server.health.is_up or not server.health.is_settled:
        server.health.record_fail()
    server.next_check_scope.deadline = trio.current_time() + 60
    await run_resolver(backend, 1.5)
    assert server.next_check_scope.deadline <= trio.current_time()
    assert not server.health.is_up
    server.health.record_pass()
    assert server.health.is_up


async def test_hanging_look_ups_do_not_block_certificate_scan(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more hanging look-ups than Trio has threads."""
    answered = threading.Event()
    waiting = [0]

    def hang(*arguments: Any) -> list[object]:
        if arguments[5] & socket.AI_NUMERICHOST:  # Trio asks for this first, without a thread.
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        waiting[0] += 1
        answered.wait(2 * TIMEOUT_S)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr("mailproxy.proxy.backend.resolver._FIRST_LOOK_UP_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        servers = [{"name": f"s{n}", "address": f"s{n}.internal:143"} for n in range(60)]
        proxy = await harness.proxy("127.0.0.1:1", tls=True, backends={"b": {"servers": servers}})
        with trio.fail_after(TIMEOUT_S):
            while waiting[0] < 40:  # noqa: ASYNC110 - threads count
                await trio.sleep(0.01)
        pem = harness.ca.issue("renewed.example").replace(harness.pem)
        proxy.renew_certificates()
        (event,) = await harness.events("certificates-renewed")
        assert event["files"] == [str(pem)]
    finally:
        answered.set()
