"""Helpers that fail: the failure is logged, sessions continue, and the helper works again afterwards."""

from __future__ import annotations

import importlib
import itertools
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.log import Log, Output
from mailproxy.log.targets import StreamTarget
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.testing import greet_and_echo
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.timeouts import wait_until

GREETING = b"* OK ready\r\n"
CHECK = {"type": "tcp", "interval": "50ms", "fast_interval": "50ms"}


class FailingTwice:
    """Replaces a function: the first two calls raise, later ones work. ``calls`` counts all of them."""

    def __init__(self, function: Callable[..., Any], error: Exception) -> None:
        self.function, self.error, self.calls = function, error, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls <= 2:
            raise self.error
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return lambda *args, **kwargs: self(instance, *args, **kwargs)


def break_twice(monkeypatch: pytest.MonkeyPatch, path: str, error: Exception | None = None) -> FailingTwice:
    """Replace a function, given as ``module:names``, by one that fails twice."""
    module, _, names = path.partition(":")
    target: Any = importlib.import_module(module)
    *owners, name = names.split(".")
    for owner in owners:
        target = getattr(target, owner)
    failing = FailingTwice(getattr(target, name), error or RuntimeError("can't start new thread"))
    monkeypatch.setattr(target, name, failing)
    return failing


HELPERS = [
    ("mailproxy.certificates.reloader:CertificateReloader.scan", "certificate watcher"),
    ("mailproxy.certificates.reloader:CertificateReloader.expiring", "certificate watcher"),
    ("mailproxy.certificates.watcher:trio.to_thread.run_sync", "certificate watcher"),
    ("mailproxy.proxy.backend.resolver:resolve", "the look-up of localhost"),
    ("mailproxy.proxy.checks.checker:HealthChecker._interval", "health checker of b/"),
    ("mailproxy.proxy.checks.checker:HealthChecker._mark_checked", "health checker of b/"),
    ("mailproxy.pool:StickTable.expire", "expiry of b's stick table"),
    ("mailproxy.pool:Pool.warm_up", "slow start of b"),
    ("mailproxy.net.relay.engine:_Session.update_deadline", "timers"),
    ("mailproxy.proxy.frontend:Session", "accepting on B"),
    ("mailproxy.net.listener:Listener.accept", "accepting on B"),
    ("mailproxy.net.poller:EpollWatch.on_events", "a session"),
]


@pytest.mark.parametrize(("path", "helper"), HELPERS, ids=[path.partition(":")[2] for path, _ in HELPERS])
async def test_failing_helper_leaves_sessions_alone(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, path: str, helper: str
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    port = server.address.rpartition(":")[2]
    host = "localhost" if helper.startswith("the look-up") else "127.0.0.1"
    options: dict[str, Any] = {
        "process": {"certificate_interval": "50ms"},
        "backends": {
            "b": {
                "check": CHECK,
                "resolve_interval": "50ms",
                "stick": {"expire": "1m"},
                "retries": 3,
                "servers": [{"name": "s", "address": f"{host}:{port}", "slow_start": "200ms"}],
            }
        },
    }
    failing: FailingTwice | None = None
    if path.endswith(("scan", "expiring", "expire")):  # helpers that are called too seldom afterwards
        failing = break_twice(monkeypatch, path)
    proxy = await harness.proxy(f"{host}:{port}", tls=True, **options)
    session = await harness.dial(proxy, tls=True)
    with trio.fail_after(TIMEOUT_S):
        assert await session.receive_line() == GREETING
    if failing is None:
        failing = break_twice(monkeypatch, path)
    with trio.fail_after(2 * TIMEOUT_S):
        while failing.calls < 3:
            # Give each helper work: a client comes, one of its sides ends, a server comes back.
            proxy.backends["b"].servers["s"].set_state("maint")
            proxy.backends["b"].servers["s"].set_state("ready")
            with trio.move_on_after(0.5), suppress(trio.BrokenResourceError):
                async with await harness.dial(proxy, tls=True) as other_client:
                    await other_client.receive_line()
                    await other_client.half_close()
                    await trio.sleep(0.1)
            await trio.sleep(0.01)
        await session.send(b"still here\r\n")
        assert await session.receive_line() == b"still here\r\n"
        other_client = await harness.dial(proxy, tls=True)
        assert await other_client.receive_line() == GREETING
    session.drop()
    other_client.drop()
    await wait_until(lambda: [line for line in harness.lines() if line["event"] == "helper-failed"])
    failures = [line for line in harness.lines() if line["event"] == "helper-failed"]
    assert {line["helper"].startswith(helper) for line in failures} == {True}
    assert all("can't start new thread" in line["fault"] for line in failures)
    assert all(line["place"] for line in failures)


async def test_restart_pauses_grow_until_helper_returns(autojump_clock: trio.testing.MockClock) -> None:
    read_end, write_end = socket.socketpair()
    started_at: list[float] = []

    async def fail() -> None:
        started_at.append(round(trio.current_time() - start, 2))
        await trio.lowlevel.checkpoint()
        if len(started_at) < 12:
            raise ValueError("no")

    with read_end, write_end:
        start = trio.current_time()
        await supervise(Log([Output(StreamTarget(write_end.fileno()))]), "helper", fail)
    pauses = [round(after - before, 2) for before, after in itertools.pairwise(started_at)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


async def test_cancellation_passes_beside_failure() -> None:
    """A nursery whose children fail while it is cancelled raises both in one group."""

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while being cancelled")

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    read_end, write_end = socket.socketpair()
    with read_end, write_end, trio.fail_after(TIMEOUT_S):
        log = Log([Output(StreamTarget(write_end.fileno()))])
        with trio.move_on_after(0.01) as scope:
            await supervise(log, "helper", run)
        assert scope.cancelled_caught
        with contained(log, "helper"):
            raise KeyError("caught")


async def test_log_without_thread_writes_lines_later(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    failing = break_twice(monkeypatch, "mailproxy.log.writer:LogThread.start")
    monkeypatch.setattr("mailproxy.log.writer._RETRY_S", 0.01)
    proxy = await harness.proxy(server.address)
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    await wait_until(lambda: failing.calls >= 3)
    await client.close()
    await harness.session()
    assert {"listening", "ready"} <= {line["event"] for line in harness.lines()}
    assert "lines-lost" not in {line["event"] for line in harness.lines()}


async def test_log_with_failing_target_counts_lost_lines(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions end as usual. The first line that is written afterwards says how many were lost."""
    server = await harness.server(greet_and_echo(GREETING))
    monkeypatch.setattr("mailproxy.log.writer._RETRY_S", 0.01)
    proxy = await harness.proxy(server.address)
    await harness.events("ready")
    failing = break_twice(monkeypatch, "mailproxy.log.targets:FileTarget.write", KeyError("a fault"))
    for _ in range(3):
        client = await harness.dial(proxy)
        with trio.fail_after(TIMEOUT_S):
            assert await client.receive_line() == GREETING
        expected_calls = failing.calls + 1
        await client.close()
        await wait_until(lambda expected_calls=expected_calls: failing.calls >= expected_calls)  # type: ignore[misc]  # bound in this round
    (lost,) = await harness.events("lines-lost")
    assert lost["lost"] == 2
