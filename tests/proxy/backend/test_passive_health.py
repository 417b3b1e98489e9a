"""Passive health: how many failed sessions of how many clients count as a failed check, and the effects."""

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
def long_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the first round of checks even on a busy machine."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", TIMEOUT_S)


@define
class ObservedServer:
    """A proxy with an observed server ``s``.

    Its checks connect to ``agent``, and none is due during a test.
    """

    harness: ProxyHarness
    proxy: mailproxy.Proxy
    agent: ScriptedServer
    sessions: int = field(default=0, init=False)

    @property
    def server(self) -> ProxyServer:
        return self.proxy.backends["b"].servers["s"]

    async def run_session(self, client: str | None = None) -> str:
        """Run a session and return its end reason.

        ``client`` is the address that a proxy in front sends.
        """
        async with await self.harness.dial(self.proxy) as connection:
            if client is not None:
                await connection.send(f"PROXY TCP4 {client} 192.0.2.1 40000 143\r\n".encode())
            with trio.fail_after(TIMEOUT_S):
                await connection.receive_line()
            await connection.close()
        self.sessions += 1
        end: str = (await self.harness.sessions(self.sessions))[-1]["end"]
        return end

    async def wait_for_status(self, status: str) -> None:
        with trio.fail_after(TIMEOUT_S):
            while self.server.status != status:  # noqa: ASYNC110 - a value, not an event
                await trio.sleep(0.005)


async def observe(
    harness: ProxyHarness,
    address: str,
    *,
    accept_proxy: bool = False,
    check: dict[str, Any] | None = None,
    **backend: Any,
) -> ObservedServer:
    agent = await harness.server(collect(GREETING))
    port = int(agent.address.rpartition(":")[2])
    checks = {"type": "script", "steps": [{"expect": "OK"}], "tls": False, "port": port, **(check or {})}
    changes = check_options(checks, observe="connect", **backend)
    if accept_proxy:
        changes["bind"] = {"accept_proxy": ["127.0.0.0/8"]}
    proxy = await harness.proxy({"name": "s", "address": address}, **changes)  # type: ignore[arg-type]  # a table
    assert proxy.backends["b"].servers["s"].status == "UP"
    return ObservedServer(harness, proxy, agent)


async def refusing_address(harness: ProxyHarness) -> str:
    address: str = await harness.nursery.start(RefusingServer().serve)
    return address


def analyze_reason(count: int, error: str) -> str:
    return (
        f'Health analyze, info: "Detected {count} consecutive errors, '
        f'last one was: L4 unsuccessful connection ({error})"'
    )


async def test_error_limit_counts_as_failed_check(harness: ProxyHarness) -> None:
    address = await refusing_address(harness)
    observed = await observe(harness, address, error_limit=2)
    assert await observed.run_session() == "server-refused"
    assert observed.server.status == "UP"
    assert await observed.run_session() == "server-refused"
    reason = analyze_reason(2, f"{address}: Connection refused")
    assert await wait_for_messages(harness, "Health check") == [
        f"Health check for server b/s failed, reason: {reason}, status: 2/3 UP."
    ]
    assert (observed.server.status, observed.server.last_check) == ("UP 2/3", reason)
    (line,) = await harness.events("server-check")
    assert (line["check"], line["status"], line["check_ms"]) == ("HANA", "UP 2/3", -1)


async def test_error_count_restarts_after_failed_check(harness: ProxyHarness) -> None:
    address = await refusing_address(harness)
    observed = await observe(harness, address, error_limit=2)
    statuses = []
    for _ in range(6):
        await observed.run_session()
        statuses.append(observed.server.status)
    assert statuses == ["UP", "UP 2/3", "UP 2/3", "UP 1/3", "UP 1/3", "DOWN"]
    reason = analyze_reason(2, f"{address}: Connection refused")
    assert await wait_for_messages(harness, "no server available") == [
        f"Health check for server b/s failed, reason: {reason}, status: 2/3 UP.",
        f"Health check for server b/s failed, reason: {reason}, status: 1/3 UP.",
        (
            f"Server b/s is DOWN, reason: {reason}. 0 active and 0 backup servers left. "
            "1 sessions active, 0 requeued, 0 remaining in queue."
        ),
        "backend b has no server available!",
    ]


async def test_each_attempt_counts_as_error(harness: ProxyHarness) -> None:
    observed = await observe(
        harness,
        await refusing_address(harness),
        error_limit=3,
        retries=2,
        timeouts={"connect": "10ms"},
        check={"fall": 1},
    )
    assert await observed.run_session() == "server-refused"
    assert observed.server.status == "DOWN"


async def test_connect_timeout_counts_as_error(harness: ProxyHarness) -> None:
    address: str = await harness.nursery.start(UnansweredServer().serve)
    observed = await observe(harness, address, error_limit=1, timeouts={"connect": "50ms"}, check={"fall": 1})
    assert await observed.run_session() == "connect-timeout"
    assert observed.server.last_check == analyze_reason(1, "no answer in time")
    assert observed.server.status == "DOWN"


# With TLS the handshake decides whether a session fails, so a server can fail one and serve the next.


def tls(harness: ProxyHarness) -> ssl.SSLContext:
    return harness.ca.server_context("127.0.0.1")


async def observe_tls(
    harness: ProxyHarness, outcomes: str, **options: Any
) -> tuple[ObservedServer, ScriptedServer]:
    """Observe a server with TLS whose handshakes succeed (``+``) or fail (``-``) in this order."""
    serving: Playbook = (TlsHandshake(tls(harness)), Send(GREETING), Collect())
    server = await harness.server(*(serving if outcome == "+" else (Reset(),) for outcome in outcomes))
    backend = {"tls": {"ca": str(harness.ca.pem)}, **options}
    return await observe(harness, server.address, **backend), server


async def test_success_resets_error_count(harness: ProxyHarness) -> None:
    observed, _ = await observe_tls(harness, "-+-+--", error_limit=2)
    ends = [await observed.run_session() for _ in range(5)]
    assert ends == [
        "server-handshake-failed",
        "client-closed",
        "server-handshake-failed",
        "client-closed",
        "server-handshake-failed",
    ]
    assert observed.server.status == "UP"
    await observed.run_session()
    assert observed.server.status == "UP 2/3"


async def test_close_after_connect_is_no_error(harness: ProxyHarness) -> None:
    """Nothing after the connect is observed, because many clients close early."""
    server = await harness.server((Close(),))
    observed = await observe(harness, server.address, error_limit=1, check={"fall": 1})
    for _ in range(3):
        await observed.run_session()
    assert observed.server.status == "UP"
    assert server_messages(harness) == []


# Clients


async def test_single_client_cannot_bring_server_down(harness: ProxyHarness) -> None:
    observed = await observe(
        harness,
        await refusing_address(harness),
        accept_proxy=True,
        error_limit=2,
        error_clients=3,
        check={"fall": 1},
    )
    for _ in range(6):
        await observed.run_session("198.51.100.1")
    await observed.run_session("198.51.100.2")
    assert observed.server.status == "UP"
    assert server_messages(harness) == []
    await observed.run_session("198.51.100.3")
    assert observed.server.status == "DOWN"


async def test_message_has_number_of_all_errors(harness: ProxyHarness) -> None:
    """One client can cause any number of errors before a second client makes them count."""
    address = await refusing_address(harness)
    observed = await observe(
        harness, address, accept_proxy=True, error_limit=2, error_clients=2, check={"fall": 1}
    )
    for _ in range(8):
        await observed.run_session("198.51.100.1")
    assert observed.server.status == "UP"
    await observed.run_session("198.51.100.2")
    assert observed.server.status == "DOWN"
    assert observed.server.last_check == analyze_reason(9, f"{address}: Connection refused")


async def test_error_clients_without_error_limit_is_not_enough(harness: ProxyHarness) -> None:
    observed = await observe(
        harness,
        await refusing_address(harness),
        accept_proxy=True,
        error_limit=4,
        error_clients=2,
        check={"fall": 1},
    )
    for number in (1, 2, 3):
        await observed.run_session(f"198.51.100.{number}")
        assert observed.server.status == "UP"
    await observed.run_session("198.51.100.1")
    assert observed.server.status == "DOWN"


async def test_success_resets_client_count(harness: ProxyHarness) -> None:
    observed, _ = await observe_tls(
        harness, "-+--", accept_proxy=True, error_limit=1, error_clients=2, check={"fall": 1}
    )
    for number in (1, 1, 2):
        await observed.run_session(f"198.51.100.{number}")
    assert observed.server.status == "UP"
    await observed.run_session("198.51.100.3")
    assert observed.server.status == "DOWN"


# Effects


async def test_next_check_uses_fast_interval(harness: ProxyHarness) -> None:
    observed = await observe(
        harness, await refusing_address(harness), error_limit=1, check={"fast_interval": "20ms"}
    )
    assert observed.agent.accepted == 1
    await observed.run_session()
    with trio.fail_after(TIMEOUT_S):
        await observed.agent.wait_ended(2)
    await observed.wait_for_status("UP")
    messages = await wait_for_messages(harness, "succeeded")
    assert len(messages) == 2
    assert messages[0].endswith("status: 2/3 UP.")
    assert messages[1].endswith("status: 3/3 UP.")


async def test_next_check_is_not_earlier_without_fast_interval(harness: ProxyHarness) -> None:
    observed = await observe(harness, await refusing_address(harness), error_limit=1)
    for _ in range(3):
        await observed.run_session()
    assert observed.server.status == "DOWN"
    assert observed.agent.accepted == 1


async def test_checks_bring_server_up(harness: ProxyHarness) -> None:
    observed = await observe(
        harness,
        await refusing_address(harness),
        error_limit=1,
        check={"fall": 1, "rise": 2, "fast_interval": "50ms", "down_interval": "50ms"},
    )
    await observed.run_session()
    await observed.wait_for_status("UP")
    messages = await wait_for_messages(harness, " is UP, ")
    assert " is DOWN, reason: Health analyze, " in messages[0]
    assert messages[2].endswith("status: 1/2 DOWN.")
    assert messages[3].startswith("Server b/s is UP, reason: Layer7 check passed, code: 0, check duration: ")
    assert await observed.run_session() == "server-refused", "the server gets sessions again"


async def test_maintenance_stops_observation(harness: ProxyHarness) -> None:
    """A session that was connecting when maintenance began fails and does not count."""
    unanswered: str = await harness.nursery.start(UnansweredServer().serve)
    observed = await observe(
        harness, unanswered, error_limit=1, timeouts={"connect": "1h"}, check={"fall": 1}
    )
    async with await harness.dial(observed.proxy) as client:
        with trio.fail_after(TIMEOUT_S):
            while not observed.server.sessions:  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.005)
            observed.server.set_state("maint")
            assert await client.receive_until_end() == b""
    await harness.session()
    assert observed.server.last_check == "Layer7 check passed, code: 0"
    assert " is DOWN" not in "".join(server_messages(harness))


async def test_unobserved_server_stays_up(harness: ProxyHarness) -> None:
    observed = await observe(harness, await refusing_address(harness), error_limit=1, check={"fall": 1})
    proxy = await harness.proxy(
        {"name": "s", "address": await refusing_address(harness)},  # type: ignore[arg-type]  # a table
        **check_options({"type": "script", "steps": [{"expect": "OK"}], "address": observed.agent.address}),
    )
    for number in range(1, 12):
        async with await harness.dial(proxy) as client:
            await client.receive_until_end()
        await harness.sessions(number)
    assert proxy.backends["b"].servers["s"].status == "UP"
