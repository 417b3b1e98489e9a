"""Up and down as the checks see it, drained and in maintenance as the operator wants it: what is told, and what is done."""

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
ALONE = "0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue."
BACK = "1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round of checks is waited for, however busy the machine is."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", TIMEOUT_S)


def timeless(sentences: Sequence[str]) -> list[str]:
    """Every check took no time."""
    return [re.sub(r"duration: \d+ms", "duration: 0ms", sentence) for sentence in sentences]


def named(name: str, address: str, **more: Any) -> Any:
    return {"name": name, "address": address, **more}


async def refusing(harness: ProxyHarness) -> str:
    address: str = await harness.nursery.start(RefusingServer().serve)
    return address


async def checked_in_order(harness: ProxyHarness, *playbooks: Playbook, **check: Any) -> ScriptedServer:
    """A server ``s`` whose n-th check gets the n-th playbook, and all that follow the last one."""
    server = await harness.server(*playbooks)
    check = {"interval": "5ms", **IMAP, **check}
    await harness.proxy(named("s", server.address), **check_options(check, protocol="imap"))
    return server


# What the checks bring


async def test_each_step_down_and_up_is_told_once(harness: ProxyHarness) -> None:
    """HAProxy's sentences; a first success is no news, nor is another one, nor another failure of a server that is down."""
    down, up = [BAD, BAD, BAD], [GOOD, GOOD]
    playbooks = [GOOD, GOOD, BAD, BAD, GOOD, GOOD, *down, BAD, BAD, GOOD, BAD, *up, GOOD]
    server = await checked_in_order(harness, *playbooks, rise=2, fall=3)
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended(len(playbooks) + 5)
    assert timeless(await wait_for_messages(harness, " is UP, ")) == [
        f"Health check for server b/s failed, {BAD_REASON}, status: 2/3 UP.",
        f"Health check for server b/s failed, {BAD_REASON}, status: 1/3 UP.",
        f"Health check for server b/s succeeded, {OK_REASON}, status: 3/3 UP.",
        f"Health check for server b/s failed, {BAD_REASON}, status: 2/3 UP.",
        f"Health check for server b/s failed, {BAD_REASON}, status: 1/3 UP.",
        f"Server b/s is DOWN, {BAD_REASON}. {ALONE}",
        "backend b has no server available!",
        f"Health check for server b/s succeeded, {OK_REASON}, status: 1/2 DOWN.",
        f"Health check for server b/s failed, {BAD_REASON}, status: 0/2 DOWN.",
        f"Health check for server b/s succeeded, {OK_REASON}, status: 1/2 DOWN.",
        f"Server b/s is UP, {OK_REASON}. {BACK}",
    ]


async def test_what_is_told_has_the_facts_as_data(harness: ProxyHarness) -> None:
    await checked_in_order(harness, GOOD, BAD, BAD, GOOD, rise=1, fall=2)
    await wait_for_messages(harness, " is UP, ")
    (check,), (down,), (up,), (gone,) = [
        await harness.events(name) for name in ("server-check", "server-down", "server-up", "backend-down")
    ]
    assert (check["status"], check["check"], check["info"]) == ("UP 1/2", "L7STS", "BYE busy")
    assert (down["status"], down["check"], down["info"]) == ("DOWN", "L7STS", "BYE busy")
    assert (up["status"], up["check"], up["info"]) == ("UP", "L7OK", "")
    for line in (check, down, up):
        assert (line["backend"], line["server"], line["state"], line["sessions"]) == ("b", "s", "ready", 0)
        assert line["check_ms"] >= 0
    assert (down["active"], down["backup"], up["active"], up["waiting"]) == (0, 0, 1, 0)
    assert gone["backend"] == "b"
    levels = {line["event"]: line["level"] for line in (check, down, up, gone)}
    assert levels == {
        "server-check": "info",
        "server-down": "error",
        "server-up": "warning",
        "backend-down": "error",
    }


async def test_the_first_check_that_fails_brings_a_server_down_at_once(harness: ProxyHarness) -> None:
    checked = await check_once(harness, await refusing(harness), type="tcp", fall=10)
    assert checked.status == "DOWN"
    await wait_for_messages(harness, " is DOWN, ")


async def test_a_first_success_is_not_told(harness: ProxyHarness) -> None:
    server = await harness.server(GOOD)
    checked = await check_once(harness, server.address, protocol="imap", **IMAP)
    assert (checked.status, checked.last_check) == ("UP", "Layer7 check passed, code: 0")
    assert server_messages(harness) == []


async def test_sessions_go_to_servers_that_are_up(harness: ProxyHarness) -> None:
    well = await harness.server()
    proxy = await harness.proxy(await refusing(harness), well.address, **check_options({"type": "tcp"}))
    for _ in range(3):
        async with await harness.dial(proxy) as client:
            assert await client.receive_line() == b"* OK ready\r\n"
    for line in await harness.sessions(3):
        assert (line["server"], line["retries"]) == (well.address, 0)


async def test_when_all_are_down_sessions_are_told_why(harness: ProxyHarness) -> None:
    address = await refusing(harness)
    proxy = await harness.proxy(named("s", address), **check_options({"type": "tcp"}))
    async with await harness.dial(proxy) as client:
        assert await client.receive_until_end() == b""
    line = await harness.session()
    assert (line["end"], line["state"]) == ("no-server", "SC")
    assert 's: DOWN, Layer4 connection problem, info: "Connection refused"' in line["detail"]


# The first round


async def test_the_proxy_is_ready_when_every_server_was_checked(harness: ProxyHarness) -> None:
    """Before, the first clients could be sent to a server that is known to be down a moment later."""
    answer = trio.Event()
    slow = await harness.server((WaitFor(answer), *GOOD))
    quick = await harness.server(GOOD)
    started: list[mailproxy.Proxy] = []

    async def start() -> None:
        check = check_options({**IMAP, "timeout": "1h"}, protocol="imap")
        started.append(await harness.proxy(quick.address, slow.address, **check))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        with trio.fail_after(TIMEOUT_S):
            await slow.wait_for()
            await quick.wait_ended()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert not started
        assert not [line for line in harness.lines() if line["event"] == "ready"]
        answer.set()
    statuses = [server.status for server in started[0].backends["b"].servers.values()]
    assert statuses == ["UP", "UP"]


async def test_a_server_that_does_not_answer_keeps_the_proxy_waiting_for_a_while_only(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", 0.05)
    silent, well = await harness.server(stay_silent()), await harness.server(GOOD)
    with trio.fail_after(TIMEOUT_S):
        proxy = await harness.proxy(
            silent.address, well.address, **check_options({**IMAP, "timeout": "1h"}, protocol="imap")
        )
    servers = proxy.backends["b"].servers
    assert (servers[silent.address].last_check, servers[silent.address].status) == (None, "UP 1/3")
    assert servers[well.address].status == "UP"


# What the operator wants


async def up_and_quiet(
    harness: ProxyHarness, *playbooks: Playbook, **options: Any
) -> tuple[ScriptedServer, ProxyServer]:
    """A server ``s`` that was checked, and will not be soon."""
    server = await harness.server(*playbooks)
    checks = {**IMAP, "interval": "1h", **options.pop("check", {})}
    proxy = await harness.proxy(
        named("s", server.address), **check_options(checks, protocol="imap", **options)
    )
    assert proxy.backends["b"].servers["s"].status == "UP"
    return server, proxy.backends["b"].servers["s"]


async def test_leaving_maintenance_is_followed_by_a_check_at_once(harness: ProxyHarness) -> None:
    server, checked = await up_and_quiet(harness, GOOD)
    checked.set_state("maint")
    assert checked.status == "MAINT"
    checked.set_state("ready")
    assert checked.status == "UP 1/3", "nothing is known of it, and the next failure brings it down"
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended(2)
        while checked.status != "UP":  # noqa: ASYNC110 - a word, not an event
            await trio.sleep(0.005)
    assert await wait_for_messages(harness, "leaving") == [
        f"Server b/s is going DOWN for maintenance. {ALONE}",
        "backend b has no server available!",
        "Server b/s is UP/READY (leaving forced maintenance).",
    ]


async def test_leaving_maintenance_broken_brings_a_server_down_with_its_first_check(
    harness: ProxyHarness,
) -> None:
    _, checked = await up_and_quiet(harness, GOOD, BAD)
    checked.set_state("maint")
    checked.set_state("ready")
    sentences = timeless(await wait_for_messages(harness, " is DOWN, "))
    assert sentences[-2:] == [
        f"Server b/s is DOWN, {BAD_REASON}. {ALONE}",
        "backend b has no server available!",
    ]
    assert checked.status == "DOWN"


async def test_a_server_that_is_down_leaves_maintenance_as_new(harness: ProxyHarness) -> None:
    server = await harness.server(BAD, GOOD)
    checked = await check_once(harness, server.address, protocol="imap", **IMAP)
    assert checked.status == "DOWN"
    checked.set_state("maint")
    checked.set_state("ready")
    with trio.fail_after(TIMEOUT_S):
        while checked.status != "UP":  # noqa: ASYNC110 - a word, not an event
            await trio.sleep(0.005)
    assert server.accepted == 2


async def test_draining_goes_on_with_its_checks(harness: ProxyHarness) -> None:
    """Clients that stick to it may still come back, so it must be known whether it is well."""
    server = await harness.server(GOOD, GOOD, BAD)
    check = {**IMAP, "interval": "5ms", "rise": 1, "fall": 1}
    proxy = await harness.proxy(named("s", server.address), **check_options(check, protocol="imap"))
    drained = proxy.backends["b"].servers["s"]
    drained.set_state("drain")
    sentences = timeless(await wait_for_messages(harness, "remains in forced drain mode."))
    assert "Server b/s enters drain state. 0 active and 0 backup servers online. " in sentences[0]
    where = sentences.index("Server b/s remains in forced drain mode.")
    assert sentences[where - 1] == f"Server b/s is DOWN, {BAD_REASON}. {ALONE}"
    assert drained.status == "DOWN"
    drained.set_state("ready")
    await wait_for_messages(harness, "Server b/s is DOWN (leaving forced drain).")


async def test_the_backup_serves_while_all_others_are_down(harness: ProxyHarness) -> None:
    main = await harness.server(GOOD, BAD)
    spare = await harness.server((Send(b"* OK spare\r\n"), Collect()))
    servers = [
        named("main", main.address),
        named("spare", spare.address, backup=True, check={"type": "tcp"}),
    ]
    check = {**IMAP, "interval": "5ms", "rise": 1, "fall": 1, "down_interval": "1h"}
    proxy = await harness.proxy(*servers, **check_options(check, protocol="imap"))
    sentences = timeless(await wait_for_messages(harness, " is DOWN, "))
    assert sentences == [
        (
            f"Server b/main is DOWN, {BAD_REASON}. 0 active and 1 backup servers left. Running on backup. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    async with await harness.dial(proxy) as client:
        assert await client.receive_line() == b"* OK spare\r\n"
    assert (await harness.session())["server"] == "spare"


async def test_a_backend_without_checks_is_never_down(harness: ProxyHarness) -> None:
    proxy = await harness.proxy(named("s", await refusing(harness)))
    server = proxy.backends["b"].servers["s"]
    assert (server.status, server.last_check) == ("no check", None)
    async with await harness.dial(proxy) as client:
        assert await client.receive_until_end() == b""
    await harness.session()
    assert server.status == "no check"
    assert server_messages(harness) == []
