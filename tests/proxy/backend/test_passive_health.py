"""Sessions that cannot be connected tell of a server between its checks: how many it takes, of how many clients, and what follows."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
from attrs import define, field

import mailproxy
from mailproxy.app.api import ProxyServer
from mailproxy.testing import (
    Close,
    Collect,
    Playbook,
    RefusingServer,
    Reset,
    ScriptedServer,
    Send,
    UnansweredServer,
    collect,
)
from tests.support.proxy.check_harness import TlsHandshake, check_options, server_messages, wait_for_messages
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness

GREETING = b"* OK ready\r\n"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round of checks is waited for, however busy the machine is."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", TIMEOUT_S)


@define
class Watched:
    """A proxy with a server ``s`` that is observed. Its checks go elsewhere, to ``agent``, and do not come by themselves."""

    harness: ProxyHarness
    proxy: mailproxy.Proxy
    agent: ScriptedServer
    sessions: int = field(default=0, init=False)

    @property
    def server(self) -> ProxyServer:
        return self.proxy.backends["b"].servers["s"]

    async def visit(self, client: str | None = None) -> str:
        """A session from its beginning to its end, of this client if there is a proxy in front; how it ended."""
        async with await self.harness.dial(self.proxy) as connection:
            if client is not None:
                await connection.send(f"PROXY TCP4 {client} 192.0.2.1 40000 143\r\n".encode())
            with trio.fail_after(TIMEOUT_S):
                await connection.receive_line()
            await connection.close()
        self.sessions += 1
        end: str = (await self.harness.sessions(self.sessions))[-1]["end"]
        return end

    async def becomes(self, status: str) -> None:
        with trio.fail_after(TIMEOUT_S):
            while self.server.status != status:  # noqa: ASYNC110 - a word, not an event
                await trio.sleep(0.005)


async def watched(
    harness: ProxyHarness,
    address: str,
    *,
    accept_proxy: bool = False,
    check: dict[str, Any] | None = None,
    **backend: Any,
) -> Watched:
    agent = await harness.server(collect(GREETING))
    port = int(agent.address.rpartition(":")[2])
    checks = {"type": "script", "steps": [{"expect": "OK"}], "tls": False, "port": port, **(check or {})}
    changes = check_options(checks, observe="connect", **backend)
    if accept_proxy:
        changes["bind"] = {"accept_proxy": ["127.0.0.0/8"]}
    proxy = await harness.proxy({"name": "s", "address": address}, **changes)  # type: ignore[arg-type]  # a table
    assert proxy.backends["b"].servers["s"].status == "UP"
    return Watched(harness, proxy, agent)


async def refusing(harness: ProxyHarness) -> str:
    address: str = await harness.nursery.start(RefusingServer().serve)
    return address


def analyzed(count: int, why: str) -> str:
    return (
        f'Health analyze, info: "Detected {count} consecutive errors, '
        f'last one was: L4 unsuccessful connection ({why})"'
    )


async def test_so_many_errors_in_a_row_are_a_failed_check(harness: ProxyHarness) -> None:
    address = await refusing(harness)
    watch = await watched(harness, address, error_limit=2)
    assert await watch.visit() == "server-refused"
    assert watch.server.status == "UP"
    assert await watch.visit() == "server-refused"
    reason = analyzed(2, f"{address}: Connection refused")
    assert await wait_for_messages(harness, "Health check") == [
        f"Health check for server b/s failed, reason: {reason}, status: 2/3 UP."
    ]
    assert (watch.server.status, watch.server.last_check) == ("UP 2/3", reason)
    (line,) = await harness.events("server-check")
    assert (line["check"], line["status"], line["check_ms"]) == ("HANA", "UP 2/3", -1)


async def test_counting_begins_anew_after_each_of_them(harness: ProxyHarness) -> None:
    address = await refusing(harness)
    watch = await watched(harness, address, error_limit=2)
    statuses = []
    for _ in range(6):
        await watch.visit()
        statuses.append(watch.server.status)
    assert statuses == ["UP", "UP 2/3", "UP 2/3", "UP 1/3", "UP 1/3", "DOWN"]
    reason = analyzed(2, f"{address}: Connection refused")
    assert await wait_for_messages(harness, "no server available") == [
        f"Health check for server b/s failed, reason: {reason}, status: 2/3 UP.",
        f"Health check for server b/s failed, reason: {reason}, status: 1/3 UP.",
        (
            f"Server b/s is DOWN, reason: {reason}. 0 active and 0 backup servers left. "
            "1 sessions active, 0 requeued, 0 remaining in queue."
        ),
        "backend b has no server available!",
    ]


async def test_each_attempt_of_a_session_counts(harness: ProxyHarness) -> None:
    watch = await watched(
        harness,
        await refusing(harness),
        error_limit=3,
        retries=2,
        timeouts={"connect": "10ms"},
        check={"fall": 1},
    )
    assert await watch.visit() == "server-refused"
    assert watch.server.status == "DOWN"


async def test_no_answer_in_time_counts(harness: ProxyHarness) -> None:
    address: str = await harness.nursery.start(UnansweredServer().serve)
    watch = await watched(harness, address, error_limit=1, timeouts={"connect": "50ms"}, check={"fall": 1})
    assert await watch.visit() == "connect-timeout"
    assert watch.server.last_check == analyzed(1, "no answer in time")
    assert watch.server.status == "DOWN"


# TLS decides what becomes of a session, so that the same server can refuse one and take the next.


def tls(harness: ProxyHarness) -> ssl.SSLContext:
    return harness.ca.server_context("127.0.0.1")


async def watched_tls(harness: ProxyHarness, outcomes: str, **options: Any) -> tuple[Watched, ScriptedServer]:
    """Each session's handshake succeeds (``+``) or not (``-``), in this order."""
    good: Playbook = (TlsHandshake(tls(harness)), Send(GREETING), Collect())
    server = await harness.server(*(good if outcome == "+" else (Reset(),) for outcome in outcomes))
    backend = {"tls": {"ca": str(harness.ca.pem)}, **options}
    return await watched(harness, server.address, **backend), server


async def test_a_success_in_between_makes_them_forgotten(harness: ProxyHarness) -> None:
    watch, _ = await watched_tls(harness, "-+-+--", error_limit=2)
    ends = [await watch.visit() for _ in range(5)]
    assert ends == [
        "server-handshake-failed",
        "client-closed",
        "server-handshake-failed",
        "client-closed",
        "server-handshake-failed",
    ]
    assert watch.server.status == "UP"
    await watch.visit()
    assert watch.server.status == "UP 2/3"


async def test_a_server_that_takes_the_connection_and_closes_is_reached(harness: ProxyHarness) -> None:
    """What comes after connecting is not looked at: many a client leaves early."""
    server = await harness.server((Close(),))
    watch = await watched(harness, server.address, error_limit=1, check={"fall": 1})
    for _ in range(3):
        await watch.visit()
    assert watch.server.status == "UP"
    assert server_messages(harness) == []


# Clients


async def test_a_single_client_brings_no_server_down(harness: ProxyHarness) -> None:
    watch = await watched(
        harness, await refusing(harness), accept_proxy=True, error_limit=2, error_clients=3, check={"fall": 1}
    )
    for _ in range(6):
        await watch.visit("198.51.100.1")
    await watch.visit("198.51.100.2")
    assert watch.server.status == "UP"
    assert server_messages(harness) == []
    await watch.visit("198.51.100.3")
    assert watch.server.status == "DOWN"


async def test_all_errors_in_a_row_are_told_however_many_it_took(harness: ProxyHarness) -> None:
    """One client can make any number of them before a second one makes them count."""
    address = await refusing(harness)
    watch = await watched(
        harness, address, accept_proxy=True, error_limit=2, error_clients=2, check={"fall": 1}
    )
    for _ in range(8):
        await watch.visit("198.51.100.1")
    assert watch.server.status == "UP"
    await watch.visit("198.51.100.2")
    assert watch.server.status == "DOWN"
    assert watch.server.last_check == analyzed(9, f"{address}: Connection refused")


async def test_clients_alone_are_not_enough(harness: ProxyHarness) -> None:
    watch = await watched(
        harness, await refusing(harness), accept_proxy=True, error_limit=4, error_clients=2, check={"fall": 1}
    )
    for number in (1, 2, 3):
        await watch.visit(f"198.51.100.{number}")
        assert watch.server.status == "UP"
    await watch.visit("198.51.100.1")
    assert watch.server.status == "DOWN"


async def test_clients_are_counted_anew_after_a_success(harness: ProxyHarness) -> None:
    watch, _ = await watched_tls(
        harness, "-+--", accept_proxy=True, error_limit=1, error_clients=2, check={"fall": 1}
    )
    for number in (1, 1, 2):
        await watch.visit(f"198.51.100.{number}")
    assert watch.server.status == "UP"
    await watch.visit("198.51.100.3")
    assert watch.server.status == "DOWN"


# What follows


async def test_the_next_check_comes_soon_and_may_know_better(harness: ProxyHarness) -> None:
    watch = await watched(harness, await refusing(harness), error_limit=1, check={"fast_interval": "20ms"})
    assert watch.agent.accepted == 1
    await watch.visit()
    with trio.fail_after(TIMEOUT_S):
        await watch.agent.wait_ended(2)
    await watch.becomes("UP")
    sentences = await wait_for_messages(harness, "succeeded")
    assert len(sentences) == 2
    assert sentences[0].endswith("status: 2/3 UP.")
    assert sentences[1].endswith("status: 3/3 UP.")


async def test_without_a_fast_interval_the_next_check_comes_as_always(harness: ProxyHarness) -> None:
    watch = await watched(harness, await refusing(harness), error_limit=1)
    for _ in range(3):
        await watch.visit()
    assert watch.server.status == "DOWN"
    assert watch.agent.accepted == 1


async def test_its_checks_bring_it_up_again(harness: ProxyHarness) -> None:
    watch = await watched(
        harness,
        await refusing(harness),
        error_limit=1,
        check={"fall": 1, "rise": 2, "fast_interval": "50ms", "down_interval": "50ms"},
    )
    await watch.visit()
    await watch.becomes("UP")
    sentences = await wait_for_messages(harness, " is UP, ")
    assert " is DOWN, reason: Health analyze, " in sentences[0]
    assert sentences[2].endswith("status: 1/2 DOWN.")
    assert sentences[3].startswith("Server b/s is UP, reason: Layer7 check passed, code: 0, check duration: ")
    assert await watch.visit() == "server-refused", "sessions go there again"


async def test_in_maintenance_nothing_is_observed(harness: ProxyHarness) -> None:
    """A session that was on its way there when it began fails for that, and tells nothing."""
    unanswered: str = await harness.nursery.start(UnansweredServer().serve)
    watch = await watched(harness, unanswered, error_limit=1, timeouts={"connect": "1h"}, check={"fall": 1})
    async with await harness.dial(watch.proxy) as client:
        with trio.fail_after(TIMEOUT_S):
            while not watch.server.sessions:  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.005)
            watch.server.set_state("maint")
            assert await client.receive_until_end() == b""
    await harness.session()
    assert watch.server.last_check == "Layer7 check passed, code: 0"
    assert " is DOWN" not in "".join(server_messages(harness))


async def test_unobserved_servers_stay_up(harness: ProxyHarness) -> None:
    watch = await watched(harness, await refusing(harness), error_limit=1, check={"fall": 1})
    proxy = await harness.proxy(
        {"name": "s", "address": await refusing(harness)},  # type: ignore[arg-type]  # a table
        **check_options({"type": "script", "steps": [{"expect": "OK"}], "address": watch.agent.address}),
    )
    for number in range(1, 12):
        async with await harness.dial(proxy) as client:
            await client.receive_until_end()
        await harness.sessions(number)
    assert proxy.backends["b"].servers["s"].status == "UP"
