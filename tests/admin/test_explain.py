"""The command ``explain``: the present state of the proxy decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mailproxy.testing import dial
from tests.admin.conftest import Administered, open_administered
from tests.support.proxy.proxy_harness import ProxyHarness


async def answer(administered: Administered, more: str = "") -> Any:
    port = administered.harness.proxies[0].frontends["f"].addresses[0].rpartition(":")[2]
    return json.loads(await administered.ask(f"explain client=127.0.0.1 port={port} format=json {more}"))


async def test_states_and_loads_decide(harness: ProxyHarness, tmp_path: Path) -> None:
    administered = await open_administered(harness, tmp_path, backends={"b": {"balance": "leastconn"}})
    assert (await answer(administered))["candidates"] == ["s1", "s2"]
    client = await harness.dial(harness.proxies[0])
    greeted_by = (await client.receive_line()).decode().strip()
    other = "s2" if greeted_by == "s1" else "s1"
    value = await answer(administered)
    assert (value["server"], value["candidates"]) == (other, [other])
    await administered.ask(f"set server b/{other} state maint")
    value = await answer(administered)
    assert value["server"] == greeted_by
    assert any(f"{other}: MAINT" in step for step in value["steps"])
    await client.close()


async def test_stick_entries_decide(harness: ProxyHarness, tmp_path: Path) -> None:
    administered = await open_administered(harness, tmp_path, backends={"b": {"stick": {}}})
    assert any("has no entry for this one" in step for step in (await answer(administered))["steps"])
    await administered.ask("set table b key 127.0.0.1 data.server_id 2")
    table = administered.harness.proxies[0]._process.service.backends["b"].pool.stick
    assert table is not None
    (entry,) = table.entries()
    value = await answer(administered)
    assert list(table.entries()) == [entry]  # the question has not renewed it
    assert value["server"] == "s2"
    assert "The client had server s2, and returns to it (stick)." in value["steps"]
    await administered.ask("set server b/s2 state maint")
    value = await answer(administered)
    assert value["server"] == "s1"
    assert "The client had server s2 (stick), but that cannot be used (MAINT)." in value["steps"]


async def test_limits_queues_and_frontends_decide(harness: ProxyHarness, tmp_path: Path) -> None:
    administered = await open_administered(
        harness, tmp_path, backends={"b": {"max_queue": 5}}, frontends={"f": {"max_sessions_per_client": 2}}
    )
    await administered.ask("set maxconn server b/s1 1; set maxconn server b/s2 1")
    proxy = harness.proxies[0]
    clients = [await dial(proxy.frontends["f"].addresses[0])]
    await clients[0].receive_line()
    await administered.ask(
        "set maxconn server b/s1 1; set server b/s2 state drain; set server b/s1 state drain"
    )
    assert (await answer(administered))["end"] == "no-server"
    await administered.ask("set server b/s1 state ready; set server b/s2 state ready")
    clients.append(await dial(proxy.frontends["f"].addresses[0]))
    await clients[1].receive_line()
    value = await answer(administered)
    assert value["end"] == "client-limit"
    assert any("max_sessions_per_client is 2" in step for step in value["steps"])
    value = json.loads(
        await administered.ask(
            f"explain client=127.0.0.9 port={proxy.frontends['f'].addresses[0].rpartition(':')[2]} format=json"
        )
    )
    assert (value["server"], value["candidates"], value["end"]) == (None, [], None)
    assert any("waits in the queue of backend b" in step for step in value["steps"])
    await administered.ask("disable frontend f")
    assert any("paused the frontend" in step for step in (await answer(administered))["steps"])
    for client in clients:
        await client.close()


async def test_text_and_errors(administered: Administered) -> None:
    port = administered.harness.proxies[0].frontends["f"].addresses[0].rpartition(":")[2]
    text = await administered.ask(f"explain client=192.0.2.1 port={port}")
    assert text.startswith("1. The client 192.0.2.1 connects to bind ")
    assert text.splitlines()[-1].endswith("-> b/ one of s1, s2")
    for words, message in (
        ("", "An IP address and a port are expected."),
        ("client=x port=1", "An IP address and a port are expected."),
        ("client=192.0.2.1 port=1", "there is no bind with port 1; the binds are"),
        ("client=192.0.2.1 port=1 colour=red", "Unexpected 'colour=red'."),
    ):
        assert message in await administered.ask(f"explain {words}")


async def test_level_user_may_not_ask(administered: Administered) -> None:
    assert "Permission denied" in await administered.ask("user;explain client=192.0.2.1 port=1")
