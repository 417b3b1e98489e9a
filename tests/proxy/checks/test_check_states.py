"""Servers go up and down by checks, and into drain and maintenance by the operator: messages and effects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

import mailproxy
from mailproxy.app.api import ProxyServer
from mailproxy.testing import (
    Close,
    Collect,
    Playbook,
    RefusingServer,
    ScriptedServer,
    Send,
    WaitFor,
    stay_silent,
)
from tests.support.proxy.check_harness import (
    PLAYBOOKS,
    ServerPlaybook,
    check_once,
    check_options,
    server_messages,
    wait_for_messages,
)
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness

IMAP: dict[str, Any] = {"type": "imap", "tls": False}
GOOD: Playbook = (ServerPlaybook(PLAYBOOKS["imap"]),)
BAD: Playbook = (Send(b"* BYE busy\r\n"), Close())
OK_REASON = "reason: Layer7 check passed, code: 0, check duration: 0ms"
BAD_REASON = 'reason: Layer7 wrong status, code: 0, info: "BYE busy", check duration: 0ms'
NONE_LEFT = "0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue."
ONE_ONLINE = "1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."


@pytest.fixture(autouse=True)
def long_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the first round of checks even on a busy machine."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", TIMEOUT_S)


def without_durations(messages: Sequence[str]) -> list[str]:
    """Replace the duration of each check by 0."""
    return [re.sub(r"duration: \d+ms", "duration: 0ms", message) for message in messages]


def server_table(name: str, address: str, **more: Any) -> Any:
    return {"name": name, "address": address, **more}


async def refusing_address(harness: ProxyHarness) -> str:
    address: str = await harness.nursery.start(RefusingServer().serve)
    return address


async def check_in_order(harness: ProxyHarness, *playbooks: Playbook, **check: Any) -> ScriptedServer:
    """Check a server ``s`` whose n-th check gets the n-th playbook. Later checks get the last one."""
    server = await harness.server(*playbooks)
    check = {"interval": "5ms", **IMAP, **check}
    await harness.proxy(server_table("s", server.address), **check_options(check, protocol="imap"))
    return server


# Effects of checks


async def test_each_step_is_logged_once(harness: ProxyHarness) -> None:
    """The messages are HAProxy's.

    Not logged are the first success, further successes, and further failures of a server that is down.
    """
    down, up = [BAD, BAD, BAD], [GOOD, GOOD]
    playbooks = [GOOD, GOOD, BAD, BAD, GOOD, GOOD, *down, BAD, BAD, GOOD, BAD, *up, GOOD]
    server = await check_in_order(harness, *playbooks, rise=2, fall=3)
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended(len(playbooks) + 5)
    assert without_durations(await wait_for_messages(harness, " is UP, ")) == [
        f"Health check for server b/s failed, {BAD_REASON}, status: 2/3 UP.",
        f"Health check for server b/s failed, {BAD_REASON}, status: 1/3 UP.",
        f"Health check for server b/s succeeded, {OK_REASON}, status: 3/3 UP.",
        f"Health check for server b/s failed, {BAD_REASON}, status: 2/3 UP.",
        f"Health check for server b/s failed, {BAD_REASON}, status: 1/3 UP.",
        f"Server b/s is DOWN, {BAD_REASON}. {NONE_LEFT}",
        "backend b has no server available!",
        f"Health check for server b/s succeeded, {OK_REASON}, status: 1/2 DOWN.",
        f"Health check for server b/s failed, {BAD_REASON}, status: 0/2 DOWN.",
        f"Health check for server b/s succeeded, {OK_REASON}, status: 1/2 DOWN.",
        f"Server b/s is UP, {OK_REASON}. {ONE_ONLINE}",
    ]


async def test_events_have_data(harness: ProxyHarness) -> None:
    await check_in_order(harness, GOOD, BAD, BAD, GOOD, rise=1, fall=2)
    await wait_for_messages(harness, " is UP, ")
    (check,), (down,), (up,), (backend_down,) = [
        await harness.events(name) for name in ("server-check", "server-down", "server-up", "backend-down")
    ]
    assert (check["status"], check["check"], check["info"]) == ("UP 1/2", "L7STS", "BYE busy")
    assert (down["status"], down["check"], down["info"]) == ("DOWN", "L7STS", "BYE busy")
    assert (up["status"], up["check"], up["info"]) == ("UP", "L7OK", "")
    for line in (check, down, up):
        assert (line["backend"], line["server"], line["state"], line["sessions"]) == ("b", "s", "ready", 0)
        assert line["check_ms"] >= 0
    assert (down["active"], down["backup"], up["active"], up["waiting"]) == (0, 0, 1, 0)
    assert backend_down["backend"] == "b"
    levels = {line["event"]: line["level"] for line in (check, down, up, backend_down)}
    assert levels == {
        "server-check": "info",
        "server-down": "error",
        "server-up": "warning",
        "backend-down": "error",
    }


async def test_failed_first_check_brings_server_down(harness: ProxyHarness) -> None:
    checked = await check_once(harness, await refusing_address(harness), type="tcp", fall=10)
    assert checked.status == "DOWN"
    await wait_for_messages(harness, " is DOWN, ")


async def test_first_success_is_not_logged(harness: ProxyHarness) -> None:
    server = await harness.server(GOOD)
    checked = await check_once(harness, server.address, protocol="imap", **IMAP)
    assert (checked.status, checked.last_check) == ("UP", "Layer7 check passed, code: 0")
    assert server_messages(harness) == []


async def test_sessions_use_servers_in_state_up(harness: ProxyHarness) -> None:
    healthy = await harness.server()
    proxy = await harness.proxy(
        await refusing_address(harness), healthy.address, **check_options({"type": "tcp"})
    )
    for _ in range(3):
        async with await harness.dial(proxy) as client:
            assert await client.receive_line() == b"* OK ready\r\n"
    for line in await harness.sessions(3):
        assert (line["server"], line["retries"]) == (healthy.address, 0)


async def test_rejected_session_has_reasons_of_servers(harness: ProxyHarness) -> None:
    address = await refusing_address(harness)
    proxy = await harness.proxy(server_table("s", address), **check_options({"type": "tcp"}))
    async with await harness.dial(proxy) as client:
        assert await client.receive_until_end() == b""
    line = await harness.session()
    assert (line["end"], line["state"]) == ("no-server", "SC")
    assert 's: DOWN, Layer4 connection problem, info: "Connection refused"' in line["detail"]


# The first round


async def test_proxy_is_ready_after_first_round(harness: ProxyHarness) -> None:
    """Otherwise the first clients could get a server that is found to be down a moment later."""
    may_answer = trio.Event()
    slow = await harness.server((WaitFor(may_answer), *GOOD))
    fast = await harness.server(GOOD)
    started: list[mailproxy.Proxy] = []

    async def start_proxy() -> None:
        check = check_options({**IMAP, "timeout": "1h"}, protocol="imap")
        started.append(await harness.proxy(fast.address, slow.address, **check))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_proxy)
        with trio.fail_after(TIMEOUT_S):
            await slow.wait_for()
            await fast.wait_ended()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert not started
        assert not [line for line in harness.lines() if line["event"] == "ready"]
        may_answer.set()
    statuses = [server.status for server in started[0].backends["b"].servers.values()]
    assert statuses == ["UP", "UP"]


async def test_silent_server_delays_readiness_only_briefly(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", 0.5)
    silent, healthy = await harness.server(stay_silent()), await harness.server(GOOD)
    with trio.fail_after(TIMEOUT_S):
        proxy = await harness.proxy(
            silent.address, healthy.address, **check_options({**IMAP, "timeout": "1h"}, protocol="imap")
        )
    servers = proxy.backends["b"].servers
    assert (servers[silent.address].last_check, servers[silent.address].status) == (None, "UP 1/3")
    assert servers[healthy.address].status == "UP"


# Effects of the operator's states


async def start_checked(
    harness: ProxyHarness, *playbooks: Playbook, **options: Any
) -> tuple[ScriptedServer, ProxyServer]:
    """Start a server ``s`` that has passed a check and whose next check is an hour away."""
    server = await harness.server(*playbooks)
    checks = {**IMAP, "interval": "1h", **options.pop("check", {})}
    proxy = await harness.proxy(
        server_table("s", server.address), **check_options(checks, protocol="imap", **options)
    )
    assert proxy.backends["b"].servers["s"].status == "UP"
    return server, proxy.backends["b"].servers["s"]


async def test_server_is_checked_when_leaving_maintenance(harness: ProxyHarness) -> None:
    server, checked = await start_checked(harness, GOOD)
    checked.set_state("maint")
    assert checked.status == "MAINT"
    checked.set_state("ready")
    assert checked.status == "UP 1/3", "unknown, so that the next failure brings it down"
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended(2)
        while checked.status != "UP":  # noqa: ASYNC110 - a value, not an event
            await trio.sleep(0.005)
    assert await wait_for_messages(harness, "leaving") == [
        f"Server b/s is going DOWN for maintenance. {NONE_LEFT}",
        "backend b has no server available!",
        "Server b/s is UP/READY (leaving forced maintenance).",
    ]


async def test_failed_check_after_maintenance_brings_server_down(
    harness: ProxyHarness,
) -> None:
    _, checked = await start_checked(harness, GOOD, BAD)
    checked.set_state("maint")
    checked.set_state("ready")
    messages = without_durations(await wait_for_messages(harness, " is DOWN, "))
    assert messages[-2:] == [
        f"Server b/s is DOWN, {BAD_REASON}. {NONE_LEFT}",
        "backend b has no server available!",
    ]
    assert checked.status == "DOWN"


async def test_down_server_leaves_maintenance_as_new(harness: ProxyHarness) -> None:
    server = await harness.server(BAD, GOOD)
    checked = await check_once(harness, server.address, protocol="imap", **IMAP)
    assert checked.status == "DOWN"
    checked.set_state("maint")
    checked.set_state("ready")
    with trio.fail_after(TIMEOUT_S):
        while checked.status != "UP":  # noqa: ASYNC110 - a value, not an event
            await trio.sleep(0.005)
    assert server.accepted == 2


async def test_draining_server_is_still_checked(harness: ProxyHarness) -> None:
    """Sticky sessions still go to the server, so its health must be known."""
    server = await harness.server(GOOD, GOOD, BAD)
    check = {**IMAP, "interval": "5ms", "rise": 1, "fall": 1}
    proxy = await harness.proxy(server_table("s", server.address), **check_options(check, protocol="imap"))
    drained = proxy.backends["b"].servers["s"]
    drained.set_state("drain")
    messages = without_durations(await wait_for_messages(harness, "remains in forced drain mode."))
    assert "Server b/s enters drain state. 0 active and 0 backup servers online. " in messages[0]
    index = messages.index("Server b/s remains in forced drain mode.")
    assert messages[index - 1] == f"Server b/s is DOWN, {BAD_REASON}. {NONE_LEFT}"
    assert drained.status == "DOWN"
    drained.set_state("ready")
    await wait_for_messages(harness, "Server b/s is DOWN (leaving forced drain).")


async def test_backup_serves_while_others_are_down(harness: ProxyHarness) -> None:
    main = await harness.server(GOOD, BAD)
    spare = await harness.server((Send(b"* OK spare\r\n"), Collect()))
    servers = [
        server_table("main", main.address),
        server_table("spare", spare.address, backup=True, check={"type": "tcp"}),
    ]
    check = {**IMAP, "interval": "5ms", "rise": 1, "fall": 1, "down_interval": "1h"}
    proxy = await harness.proxy(*servers, **check_options(check, protocol="imap"))
    messages = without_durations(await wait_for_messages(harness, " is DOWN, "))
    assert messages == [
        (
            f"Server b/main is DOWN, {BAD_REASON}. 0 active and 1 backup servers left. Running on backup. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    async with await harness.dial(proxy) as client:
        assert await client.receive_line() == b"* OK spare\r\n"
    assert (await harness.session())["server"] == "spare"


async def test_server_without_check_is_never_down(harness: ProxyHarness) -> None:
    proxy = await harness.proxy(server_table("s", await refusing_address(harness)))
    server = proxy.backends["b"].servers["s"]
    assert (server.status, server.last_check) == ("no check", None)
    async with await harness.dial(proxy) as client:
        assert await client.receive_until_end() == b""
    await harness.session()
    assert server.status == "no check"
    assert server_messages(harness) == []
