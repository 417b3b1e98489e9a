"""A new configuration in place: what stays, what changes, and that a faulty one changes nothing."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

import mailproxy
from mailproxy.errors import ConfigError
from mailproxy.net.listener import Listener
from mailproxy.testing import Connection, ScriptedServer, dial, greet_and_echo
from tests.support.proxy.backend_cluster import receive_server_name
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot
from tests.support.timeouts import wait_until


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Reloader:
    """A proxy whose configuration is changed in place, in front of servers that greet with their names."""

    def __init__(self, harness: ProxyHarness) -> None:
        self.harness = harness
        self.servers: dict[str, ScriptedServer] = {}
        self.proxy: mailproxy.Proxy
        self.mapping: Line = {}

    async def start(self, *names: str, **changes: Any) -> None:
        for name in names:
            self.servers[name] = await self.harness.server(greet_and_echo(f"{name}\r\n".encode()))
        self.mapping = self.harness.mapping(**changes)
        self.mapping["frontends"]["f"]["backend"] = "b"
        self.mapping.setdefault("backends", {})["b"] = self.backend(*names)
        self.proxy = await self.harness.run_proxy(self.mapping)
        self.harness.proxies.append(self.proxy)

    def backend(self, *names: str, **keys: Any) -> Line:
        return {"servers": [self.server(name) for name in names], "check": "none", **keys}

    def server(self, name: str, **keys: Any) -> Line:
        return {"name": name, "address": self.servers[name].address, **keys}

    async def reload(self) -> tuple[str, ...]:
        """Use the mapping as it is now, and return the answer without its last line."""
        answer = await self.proxy.reload(mailproxy.from_mapping(self.mapping))
        assert answer[-1].startswith("reloaded in ")
        return answer[:-1]

    async def dial(self, frontend: str = "f", bind: int = 0) -> Connection:
        return await dial(self.proxy.frontends[frontend].addresses[bind])

    async def server_of_new_session(self, frontend: str = "f") -> str:
        async with await self.dial(frontend) as client:
            return await receive_server_name(client)


@pytest.fixture
def reloader(harness: ProxyHarness) -> Reloader:
    return Reloader(harness)


async def test_equal_configuration_changes_nothing(reloader: Reloader) -> None:
    await reloader.start("s1")
    before = ResourceSnapshot.now()
    addresses = reloader.proxy.frontends["f"].addresses
    assert await reloader.reload() == ()
    assert reloader.proxy.frontends["f"].addresses == addresses
    await before.wait_until_restored()
    assert await reloader.server_of_new_session() == "s1"
    (event,) = await reloader.harness.events("reloaded")
    assert event["changes"] == []


async def test_added_server_gets_sessions(reloader: Reloader) -> None:
    await reloader.start("s1", "s2")
    reloader.mapping["backends"]["b"] = reloader.backend("s1")
    await reloader.reload()
    async with await reloader.dial() as old:
        assert await receive_server_name(old) == "s1"
        reloader.mapping["backends"]["b"] = reloader.backend("s1", "s2")
        assert await reloader.reload() == (f"+ server b/s2 {reloader.servers['s2'].address}",)
        assert await reloader.server_of_new_session() == "s2"
        await old.send(b"still here\r\n")
        assert await old.receive_line() == b"still here\r\n"


async def test_session_of_removed_server_has_drain_timeout(reloader: Reloader) -> None:
    await reloader.start("s1", "s2", process={"drain_timeout": "300ms"})
    clients = [await reloader.dial() for _ in range(2)]
    by_name = {await receive_server_name(client): client for client in clients}
    reloader.mapping["backends"]["b"] = reloader.backend("s2")
    await reloader.reload()
    assert await reloader.server_of_new_session() == "s2"
    with trio.fail_after(TIMEOUT_S):
        await by_name["s1"].receive_until_end()
    await by_name["s2"].send(b"later\r\n")
    assert await by_name["s2"].receive_line() == b"later\r\n"
    for client in clients:
        client.drop()
    (line,) = [each for each in await reloader.harness.sessions(3) if each["server"] == "s1"]
    assert line["end"] == "drained"
    assert line["total_ms"] >= 300


async def test_drained_sessions_keep_their_deadline_over_further_reloads(reloader: Reloader) -> None:
    """One drain has them, however often the file is reloaded, and none once their route is back."""
    await reloader.start("s1", "s2", process={"drain_timeout": "60s"})
    reloader.mapping["backends"]["c"] = reloader.backend("s2")
    async with await reloader.dial() as client:
        await receive_server_name(client)
        for backend in ("c", "c", "c", "b", "c"):
            reloader.mapping["frontends"]["f"]["backend"] = backend
            await reloader.reload()
        started = await reloader.harness.events("drain-started", 2)
        assert [(line["what"], line["sessions"]) for line in started] == [("reload 1", 1), ("reload 5", 1)]
        await client.send(b"now\r\n")
        assert await client.receive_line() == b"now\r\n"


async def test_option_that_the_kernel_refuses_leaves_no_half_configuration(
    reloader: Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    await reloader.start("s1", "s2")
    reloader.mapping["backends"]["b"] = reloader.backend("s2")
    monkeypatch.setattr(Listener, "update_socket", fail)
    await reloader.reload()
    assert await reloader.server_of_new_session() == "s2"
    assert "Invalid argument" in (await reloader.harness.events("helper-failed", 1))[0]["message"]


async def test_readdressed_server_keeps_its_name_and_counts(reloader: Reloader) -> None:
    await reloader.start("s1", "s2")
    reloader.mapping["backends"]["b"] = reloader.backend("s1")
    await reloader.reload()
    assert await reloader.server_of_new_session() == "s1"
    reloader.proxy.backends["b"].servers["s1"].set_weight(7)
    reloader.mapping["backends"]["b"]["servers"] = [{"name": "s1", "address": reloader.servers["s2"].address}]
    await reloader.reload()
    assert await reloader.server_of_new_session() == "s2"
    server = reloader.proxy.backends["b"].servers["s1"]
    assert (server.counts.sessions, server.weight) == (2, 7)


@pytest.mark.parametrize("fault", ["certificate", "address in use", "name"])
async def test_faulty_configuration_changes_nothing(reloader: Reloader, fault: str) -> None:
    await reloader.start("s1")
    before = ResourceSnapshot.now()
    frontend = reloader.mapping["frontends"]["f"]
    servers = reloader.mapping["backends"]["b"]["servers"]
    frontend["bind"].append({"address": "127.0.0.2:0"})
    frontend["max_sessions"] = 1
    expected = {
        "certificate": r"frontends\.f\.bind\[2\]\.tls\.certificates\[0\].*: No such file",
        "address in use": r"frontends\.f\.bind\[2\]: cannot listen on .*: Address already in use",
        "name": r"backends\.b\.servers\[1\]\.address: nowhere\.invalid: ",
    }[fault]
    match fault:
        case "certificate":
            tls = {"certificates": ["/nowhere.pem"]}
            frontend["bind"].append({"address": "127.0.0.3:0", "mode": "tls", "tls": tls})
        case "address in use":
            frontend["bind"].append({"address": reloader.servers["s1"].address})
            reloader.mapping["backends"]["b"]["servers"] = servers = ["127.0.0.9:1"]
        case _:
            servers.append({"name": "n", "address": "nowhere.invalid:143"})
    with pytest.raises(ConfigError, match=expected):
        await reloader.reload()
    await before.wait_until_restored()
    async with await reloader.dial() as one, await reloader.dial() as two:
        assert await receive_server_name(one) == "s1"
        assert await receive_server_name(two) == "s1"
    (event,) = await reloader.harness.events("reload-failed")
    assert len(event["faults"]) == 1


async def test_what_the_operator_set_stays_until_the_file_says_otherwise(reloader: Reloader) -> None:
    await reloader.start("s1", "s2")

    def seen() -> list[tuple[str, int]]:
        return [(each.state, each.weight) for each in reloader.proxy.backends["b"].servers.values()]

    reloader.proxy.backends["b"].servers["s1"].set_state("drain")
    reloader.proxy.backends["b"].servers["s1"].set_weight(9)
    reloader.mapping["backends"]["b"]["servers"][0]["max_sessions"] = 5
    await reloader.reload()
    assert seen() == [("drain", 9), ("ready", 1)]
    reloader.mapping["backends"]["b"]["servers"][0].update(weight=3, state="maint")
    await reloader.reload()
    assert seen() == [("maint", 3), ("ready", 1)]
    reloader.mapping["backends"]["b"]["servers"][0].update(weight=3, state="ready")
    await reloader.reload()
    assert seen() == [("ready", 3), ("ready", 1)]


async def test_limit_is_exact_and_queue_goes_on(reloader: Reloader) -> None:
    await reloader.start("s1")
    servers = reloader.mapping["backends"]["b"]["servers"]
    servers[0]["max_sessions"] = 1
    await reloader.reload()
    pool = reloader.proxy._service.backends["b"].pool
    async with await reloader.dial() as first:
        assert await receive_server_name(first) == "s1"
        async with await reloader.dial() as second:
            await wait_until(lambda: pool.waiting == 1)
            async with await reloader.dial() as third:
                await wait_until(lambda: pool.waiting == 2)
                servers[0]["send_proxy"] = "none"
                servers[0]["on_marked_down"] = "shutdown-sessions"
                await reloader.reload()
                assert reloader.proxy.backends["b"].servers["s1"].sessions == 1
                first.drop()
                assert await receive_server_name(second) == "s1"
                assert not third.received
                servers[0]["max_sessions"] = 2
                await reloader.reload()
                assert await receive_server_name(third) == "s1"


async def test_frontend_limit_changes(reloader: Reloader) -> None:
    await reloader.start("s1", frontends={"f": {"max_sessions": 1}})
    async with await reloader.dial() as first, await reloader.dial() as second:
        assert await receive_server_name(first)
        assert not second.received
        reloader.mapping["frontends"]["f"]["max_sessions"] = 2
        assert await reloader.reload() == ("~ frontends.f.max_sessions: 1 -> 2",)
        assert await receive_server_name(second)


async def test_limit_per_client_counts_on(reloader: Reloader) -> None:
    await reloader.start("s1", frontends={"f": {"max_sessions_per_client": 5}})
    async with await reloader.dial() as first, await reloader.dial() as second:
        assert await receive_server_name(first)
        reloader.mapping["frontends"]["f"]["max_sessions_per_client"] = 2
        await reloader.reload()
        assert await receive_server_name(second)
        async with await reloader.dial() as third:
            await third.receive_until_end()
            assert not third.received
        await first.close()
        await wait_until(lambda: reloader.proxy.sessions == 1)
        assert await reloader.server_of_new_session() == "s1"


async def test_stick_entries_follow_names(reloader: Reloader) -> None:
    await reloader.start("s1", "s2", "s3")
    stick = {"balance": "roundrobin", "stick": {}}
    reloader.mapping["backends"]["b"] = reloader.backend("s1", "s2", **stick)
    await reloader.reload()
    name = await reloader.server_of_new_session()
    reloader.mapping["backends"]["b"] = reloader.backend("s3", "s2", "s1", **stick)
    await reloader.reload()
    for _ in range(5):
        assert await reloader.server_of_new_session() == name


async def test_routes_change_for_new_sessions(reloader: Reloader) -> None:
    await reloader.start("s1", "s2", process={"drain_timeout": "300ms"})
    reloader.mapping["backends"] = {"b": reloader.backend("s1"), "c": reloader.backend("s2")}
    reloader.mapping["frontends"]["f"]["routes"] = [{"client": ["192.0.2.0/24"], "backend": "c"}]
    await reloader.reload()
    async with await reloader.dial() as stays, await reloader.dial() as goes:
        assert await receive_server_name(stays) == "s1"
        assert await receive_server_name(goes) == "s1"
        reloader.mapping["frontends"]["f"]["routes"][0]["client"] = ["127.0.0.0/8"]
        assert await reloader.reload() == ("~ frontends.f.routes",)
        assert await reloader.server_of_new_session() == "s2"
        await trio.sleep(0.5)
        await stays.send(b"here\r\n")
        assert await stays.receive_line() == b"here\r\n"
        del reloader.mapping["frontends"]["f"]["routes"], reloader.mapping["backends"]["b"]
        reloader.mapping["frontends"]["f"]["backend"] = "c"
        await reloader.reload()
        with trio.fail_after(TIMEOUT_S):
            await stays.receive_until_end()
            await goes.receive_until_end()


@pytest.mark.parametrize(("drain_timeout", "pause_s"), [("1s", 0), ("100ms", 0.4)], ids=["within", "after"])
async def test_session_that_selects_a_removed_backend_is_drained(
    reloader: Reloader, drain_timeout: str, pause_s: float
) -> None:
    """Its PROXY header comes after the reload, and it still has the routes from before."""
    await reloader.start(
        "s1",
        "s2",
        process={"drain_timeout": drain_timeout},
        bind={"accept_proxy": ["127.0.0.0/8"]},
        frontends={"f": {"timeouts": {"proxy_header": "60s"}}},
    )
    async with await reloader.dial() as client:
        await wait_until(lambda: reloader.proxy.sessions == 1)
        reloader.mapping["backends"] = {"c": reloader.backend("s2")}
        reloader.mapping["frontends"]["f"]["backend"] = "c"
        await reloader.reload()
        await trio.sleep(pause_s)
        await client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 143\r\n")
        assert await receive_server_name(client) in ("s1", "s2")
        with trio.fail_after(TIMEOUT_S):
            await client.receive_until_end()
    assert (await reloader.harness.session())["end"] == "drained"


async def test_session_has_the_time_of_the_reload_that_removes_its_backend(
    reloader: Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier reload with a shorter time does not end it."""
    monkeypatch.setattr("mailproxy.proxy.service._LOOK_INTERVAL_S", 0.02)
    await reloader.start(
        "s1",
        "s2",
        process={"drain_timeout": "100ms"},
        bind={"accept_proxy": ["127.0.0.0/8"]},
        frontends={"f": {"timeouts": {"proxy_header": "60s"}}},
    )
    async with await reloader.dial() as client:
        await wait_until(lambda: reloader.proxy.sessions == 1)
        reloader.mapping["backends"]["c"] = reloader.backend("s2")
        await reloader.reload()
        await trio.sleep(0.3)
        reloader.mapping["process"]["drain_timeout"] = "60s"
        reloader.mapping["frontends"]["f"]["backend"] = "c"
        await reloader.reload()
        await client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 143\r\n")
        assert await receive_server_name(client) == "s1"
        await trio.sleep(0.3)
        await client.send(b"here\r\n")
        assert await client.receive_line() == b"here\r\n"


async def test_frontends_come_and_go(reloader: Reloader) -> None:
    await reloader.start("s1", process={"drain_timeout": "300ms"})
    old = reloader.proxy.frontends["f"].addresses[0]
    before = ResourceSnapshot.now()
    async with await reloader.dial() as client:
        assert await receive_server_name(client) == "s1"
        frontends = reloader.mapping["frontends"]
        frontends["g"] = {"backend": "b", "bind": ["127.0.0.2:0"]}
        f = frontends.pop("f")
        await reloader.reload()
        assert await reloader.server_of_new_session("g") == "s1"
        with pytest.raises(OSError, match=r"refused|all attempts"):
            await dial(old)
        with trio.fail_after(TIMEOUT_S):
            await client.receive_until_end()
    frontends["f"] = f
    del frontends["g"]
    await reloader.reload()
    assert await reloader.server_of_new_session() == "s1"
    await reloader.harness.wait_until_idle()
    await before.wait_until_restored(more_tasks=1)  # another socket than before, since port 0 is any


@pytest.mark.parametrize("is_faulty", [False, True])
async def test_new_address_may_have_the_port_of_the_old_one(reloader: Reloader, is_faulty: bool) -> None:
    await reloader.start("s1")
    old = reloader.proxy.frontends["f"].addresses[0]
    bind = reloader.mapping["frontends"]["f"]["bind"]
    bind[0]["address"] = old
    if is_faulty:
        bind.append({"address": (await reloader.harness.server()).address})
        with pytest.raises(ConfigError, match=r"bind\[1\]: cannot listen"):
            await reloader.reload()
    else:
        assert await reloader.reload() == ("- bind f 127.0.0.1:0", f"+ bind f {old}")
    assert reloader.proxy.frontends["f"].addresses == (old,)
    for _ in range(5):
        assert await reloader.server_of_new_session() == "s1"
    (listener,) = reloader.proxy._service.listeners
    assert not listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


async def test_bind_moves_to_another_frontend_without_a_pause(reloader: Reloader) -> None:
    await reloader.start("s1", "s2")
    frontends = reloader.mapping["frontends"]
    reloader.mapping["backends"] = {"b": reloader.backend("s1"), "c": reloader.backend("s2")}
    frontends["f"]["bind"] = [{"address": "127.0.0.1:0"}, {"address": "127.0.0.5:0"}]
    frontends["g"] = {"backend": "c", "bind": ["127.0.0.6:0"]}
    await reloader.reload()
    address = reloader.proxy.frontends["f"].addresses[1]
    for owner, other, name in (("g", "f", "s2"), ("f", "g", "s1")):
        frontends[owner]["bind"] = [*frontends[owner]["bind"], {"address": "127.0.0.5:0"}]
        frontends[other]["bind"] = frontends[other]["bind"][:-1]
        await reloader.reload()
        assert reloader.proxy.frontends[owner].addresses[-1] == address
        async with await dial(address) as client:
            assert await receive_server_name(client) == name


async def test_connections_in_the_accept_queue_are_kept(reloader: Reloader) -> None:
    await reloader.start("s1", frontends={"f": {"max_sessions": 1}})
    clients = [await reloader.dial() for _ in range(20)]
    assert await receive_server_name(clients[0])
    reloader.mapping["frontends"]["f"].update(max_sessions=0, log_start=True)
    reloader.mapping["frontends"]["f"]["bind"][0]["backlog"] = 50
    await reloader.reload()
    for client in clients[1:]:
        assert await receive_server_name(client) == "s1"
    for client in clients:
        client.drop()


async def test_health_goes_on(reloader: Reloader) -> None:
    await reloader.start("s1", "s2")
    check: Line = {"type": "tcp", "interval": "50ms", "rise": 2, "fall": 2}
    dead = {"name": "dead", "address": "127.0.0.1:1"}
    backend: Line = {"servers": [reloader.server("s1"), dead], "check": check}
    reloader.mapping["backends"]["b"] = backend
    await reloader.reload()
    servers = reloader.proxy.backends["b"].servers
    await wait_until(lambda: [each.status for each in servers.values()] == ["UP", "DOWN"])
    backend["servers"].append(reloader.server("s2"))
    await reloader.reload()
    servers = reloader.proxy.backends["b"].servers
    assert [servers[name].status for name in ("s1", "dead")] == ["UP", "DOWN"]
    await wait_until(lambda: servers["s2"].status == "UP")
    checks = servers["s1"].counts.checks
    await wait_until(lambda: servers["s1"].counts.checks > checks + 1)
    backend["check"] = {**check, "fall": 7}
    await reloader.reload()
    servers = reloader.proxy.backends["b"].servers
    assert [servers[name].status for name in ("s1", "dead")] == ["UP", "DOWN"]


async def test_certificates_change(reloader: Reloader) -> None:
    await reloader.start("s1", tls=True)
    harness = reloader.harness
    context = harness.ca.client_context()
    async with await dial(reloader.proxy.frontends["f"].addresses[0], tls=context) as old:
        assert await receive_server_name(old) == "s1"
        other = harness.ca.issue("other.example.com", "127.0.0.1")
        reloader.mapping["frontends"]["f"]["tls"]["certificates"].insert(0, str(other))
        changes = await reloader.reload()
        assert changes == ("~ frontends.f.tls.certificates", "+ certificate other.example.com")
        address = reloader.proxy.frontends["f"].addresses[0]
        async with await dial(address, tls=context, server_name="other.example.com") as new:
            assert await receive_server_name(new) == "s1"
            assert new.tls is not None
            assert "other.example.com" in str(new.tls.getpeercert())
        await old.send(b"here\r\n")
        assert await old.receive_line() == b"here\r\n"


async def test_log_targets_change(reloader: Reloader) -> None:
    await reloader.start("s1")
    harness = reloader.harness
    assert await reloader.server_of_new_session() == "s1"
    await harness.sessions()
    descriptors = open_descriptors()
    new = harness.folder / "new.log"
    reloader.mapping["log"] = {"format": "tcplog", "to": str(new)}
    await reloader.reload()
    assert await reloader.server_of_new_session() == "s1"
    await harness.wait_for_line(new, " f b/s1 ")
    await harness.wait_for_line(new, "reloaded in")
    assert len(await harness.sessions()) == 1
    await wait_until(lambda: open_descriptors() <= descriptors)
    reloader.mapping["log"]["to"] = "/nowhere/log"
    with pytest.raises(ConfigError, match=r"log\.to: .*there is no folder /nowhere"):
        await reloader.reload()
    assert await reloader.server_of_new_session() == "s1"


async def test_what_needs_a_restart_is_named(reloader: Reloader) -> None:
    await reloader.start("s1")
    reloader.mapping["process"]["workers"] = 2
    assert await reloader.reload() == ("! process.workers: 1 -> 2 (needs a restart)",)
    assert await reloader.reload() == ("! process.workers: 1 -> 2 (needs a restart)",)


async def test_draining_proxy_is_not_reloaded(reloader: Reloader) -> None:
    await reloader.start("s1")
    async with await reloader.dial() as client, trio.open_nursery() as nursery:
        assert await receive_server_name(client)
        nursery.start_soon(reloader.proxy.drain, 5)
        await trio.testing.wait_all_tasks_blocked(0.02)
        with pytest.raises(ConfigError, match="starting or stopping"):
            await reloader.reload()
        client.drop()


@pytest.mark.slow
async def test_no_session_is_lost_in_twenty_reloads(reloader: Reloader) -> None:
    """200 logins a second beside 500 open sessions, while servers, routes and certificates change."""
    await reloader.start("s1", "s2", "s3", process={"drain_timeout": "60s"}, tls=True)
    harness, proxy = reloader.harness, reloader.proxy
    other = harness.ca.issue("other.example.com", "127.0.0.1")
    mapping = reloader.mapping
    mapping["backends"]["c"] = reloader.backend("s1")
    mapping["frontends"]["f"]["bind"].append({"address": "127.0.0.1:0", "name": "clear"})
    await reloader.reload()
    address = proxy.frontends["f"].addresses[1]
    (certificate,) = mapping["frontends"]["f"]["tls"]["certificates"]
    lost: list[object] = []
    logins = 0
    is_done = False

    async def log_in(number: int) -> None:
        nonlocal logins
        try:
            async with await dial(address) as client:
                name = await receive_server_name(client)
                await client.send(b"login %d\r\n" % number)
                if await client.receive_line() != b"login %d\r\n" % number or not name:
                    lost.append(number)
        except (OSError, EOFError, AssertionError) as error:
            lost.append(error)
        logins += 1

    async def log_in_steadily(nursery: trio.Nursery) -> None:
        number = 0
        while not is_done:
            nursery.start_soon(log_in, number)
            number += 1
            await trio.sleep(1 / 200)

    def change(number: int) -> None:
        is_odd = number % 2
        mapping["backends"]["b"] = reloader.backend("s1", "s2", *["s3"] * is_odd)
        networks = ["127.0.0.0/8"] if is_odd else ["192.0.2.0/24"]
        mapping["frontends"]["f"]["routes"] = [{"client": networks, "backend": "c"}]
        mapping["frontends"]["f"]["tls"]["certificates"] = [certificate, *[str(other)] * is_odd]

    change(0)
    await reloader.reload()
    proxy.backends["b"].servers["s1"].set_weight(4)
    proxy.backends["b"].servers["s2"].set_state("drain")
    clients = [await dial(address) for _ in range(500)]
    for client in clients:
        assert await receive_server_name(client)
    descriptors = open_descriptors()
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log_in_steadily, nursery)
        for number in range(1, 21):
            before = logins
            await wait_until(lambda: logins >= before + 10)  # noqa: B023 - called at once
            change(number)
            await reloader.reload()
        is_done = True
    assert not lost
    for number, client in enumerate(clients):
        await client.send(b"%d\r\n" % number)
        assert await client.receive_line() == b"%d\r\n" % number
    servers = proxy.backends["b"].servers
    assert (servers["s1"].weight, servers["s2"].state) == (4, "drain")
    await wait_until(lambda: open_descriptors() <= descriptors)
    # A reload leaves a task until the deadline for sessions of s3, and one for those that were connecting.
    await wait_until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks + 45)
    for client in clients:
        client.drop()
    ends = {line["end"] for line in await harness.sessions(500 + logins)}
    assert ends <= {"client-closed", "client-aborted"}
