"""What a check leaves behind: at the server no more than a client that logs out, and here nothing at all."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

import mailproxy
from mailproxy.testing import (
    Close,
    Collect,
    Connection,
    ExpectLine,
    Flood,
    Playbook,
    ScriptedServer,
    Send,
    Stall,
    ThrowAwayCA,
    collect,
    dial,
    stay_silent,
)
from tests.support.proxy.check_harness import (
    MAIL_PROTOCOLS,
    PLAYBOOKS,
    STARTTLS_PLAYBOOKS,
    ServerPlaybook,
    check_once,
    check_options,
    client_bytes,
    server_messages,
)
from tests.support.proxy.header_recorder import HeaderRecorder
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness, ResourceSnapshot
from tests.support.proxy.task_steps import cancel_at_every_step

GREETING = b"* OK ready\r\n"
GOODBYES = {"imap": b"bye LOGOUT\r\n", "pop3": b"QUIT\r\n", "smtp": b"QUIT\r\n", "submission": b"QUIT\r\n", "lmtp": b"QUIT\r\n", "sieve": b"LOGOUT\r\n"}  # fmt: skip
CLEAR: dict[str, Any] = {"tls": False}
TIMEOUT = "150ms"  # of checks that are to run into it

each_protocol = pytest.mark.parametrize("protocol", MAIL_PROTOCOLS)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round of checks is waited for, however busy the machine is."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", TIMEOUT_S)


@pytest.fixture
def short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """For servers that answer no goodbye, and close when they see the end."""
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", 0.05)


def trusting(harness: ProxyHarness, **more: Any) -> dict[str, Any]:
    """A check over TLS that trusts the harness's CA."""
    return {"tls": {"ca": str(harness.ca.pem), **more}}


def certified(harness: ProxyHarness) -> ssl.SSLContext:
    return harness.ca.server_context("127.0.0.1")


async def seen_by(server: ScriptedServer) -> tuple[bytes, str | None]:
    """All that its only client said, and how that left."""
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended()
    assert server.accepted == 1
    connection = server.connections[0]
    return bytes(connection.received), connection.end


# Who passed


@each_protocol
async def test_a_check_says_goodbye_and_closes_in_order(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS[protocol]),))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    assert await seen_by(server) == (client_bytes(PLAYBOOKS[protocol]), "eof")


@each_protocol
async def test_a_check_over_tls_ends_that_in_order_too(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS[protocol]),), tls=certified(harness))
    await check_once(harness, server.address, protocol=protocol, **trusting(harness))
    assert await seen_by(server) == (client_bytes(PLAYBOOKS[protocol]), "close_notify")


@each_protocol
async def test_a_check_with_starttls_ends_that_in_order_too(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((ServerPlaybook(STARTTLS_PLAYBOOKS[protocol], certified(harness)),))
    await check_once(harness, server.address, protocol=protocol, **trusting(harness, mode="starttls"))
    assert await seen_by(server) == (client_bytes(STARTTLS_PLAYBOOKS[protocol]), "close_notify")


@each_protocol
async def test_a_check_of_tls_alone_says_goodbye_too(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS[protocol]),), tls=certified(harness))
    checked = await check_once(harness, server.address, protocol=protocol, type="tls", **trusting(harness))
    assert checked.last_check == "Layer6 check passed"
    assert await seen_by(server) == (client_bytes(PLAYBOOKS[protocol]), "close_notify")


async def test_a_check_of_tls_alone_where_no_protocol_is_known(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=certified(harness))
    await check_once(harness, server.address, type="tls", **trusting(harness))
    assert await seen_by(server) == (b"", "close_notify")


@each_protocol
async def test_a_connection_with_a_header_alone_says_goodbye_too(
    harness: ProxyHarness, protocol: str
) -> None:
    server = HeaderRecorder((ServerPlaybook(PLAYBOOKS[protocol]),))
    await harness.nursery.start(server.serve)
    checked = await check_once(harness, server.address, protocol=protocol, type="tcp", send_proxy="v2")
    assert checked.last_check == "Layer4 check passed"
    assert await seen_by(server) == (client_bytes(PLAYBOOKS[protocol]), "eof")


async def test_what_a_server_says_after_the_goodbye_is_heard(harness: ProxyHarness) -> None:
    """Closed over what was not read, the connection would be reset."""
    chatty = PLAYBOOKS["imap"].replace(
        "S: * BYE Logging out", "S: * BYE Logging out\n" + "S: * OK bye\n" * 1000
    )
    server = await harness.server((ServerPlaybook(chatty),))
    await check_once(harness, server.address, type="imap", **CLEAR)
    assert await seen_by(server) == (client_bytes(PLAYBOOKS["imap"]), "eof")


@pytest.mark.parametrize("kind", ["script", "tcp"])
async def test_what_nobody_asked_for_is_heard_too(harness: ProxyHarness, kind: str) -> None:
    server = await harness.server((Flood(100_000), Collect()))
    check: dict[str, Any] = {"steps": [{"connect": {}}]} if kind == "script" else {"send_proxy": "v1"}
    await check_once(harness, server.address, type=kind, **check)
    received, end = await seen_by(server)
    assert end == "eof"
    assert received == b"" or kind == "tcp"


async def test_a_server_that_does_not_close_is_left_after_a_while(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", 0.05)
    server = await harness.server((Send(GREETING), Stall()))
    before = ResourceSnapshot.now()
    with trio.fail_after(TIMEOUT_S):
        checked = await check_once(harness, server.address, type="script", steps=[{"expect": "OK"}])
    assert checked.status == "UP"
    assert before.sockets < ResourceSnapshot.now().sockets, "the server's own end"
    assert server.connections[0].end is None


# Who failed

REFUSING: dict[str, tuple[Playbook, bytes]] = {
    "imap": ((Send(GREETING), ExpectLine(), Send(b"a1 NO busy\r\n"), ExpectLine(), Send(b"a2 OK\r\n")), b"a1 CAPABILITY\r\na2 LOGOUT\r\n"),
    "pop3": ((Send(b"-ERR busy\r\n"), ExpectLine(), Send(b"+OK\r\n")), b"QUIT\r\n"),
    "smtp": ((Send(b"554 go away\r\n"), ExpectLine(), Send(b"221 bye\r\n")), b"QUIT\r\n"),
    "submission": ((Send(b"220 hi\r\n"), ExpectLine(), Send(b"550 no\r\n"), ExpectLine(), Send(b"221 bye\r\n")), b"EHLO localhost\r\nQUIT\r\n"),
    "lmtp": ((Send(b"450 later\r\n"), ExpectLine(), Send(b"221 bye\r\n")), b"QUIT\r\n"),
    "sieve": ((Send(b'NO "busy"\r\n'), ExpectLine(), Send(b"OK\r\n")), b"LOGOUT\r\n"),
}  # fmt: skip


@each_protocol
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_a_server_that_refuses_is_left_in_order(
    harness: ProxyHarness, protocol: str, tls: bool
) -> None:
    playbook, said = REFUSING[protocol]
    server = await harness.server((*playbook, Collect()), tls=certified(harness) if tls else None)
    check = trusting(harness) if tls else CLEAR
    checked = await check_once(harness, server.address, protocol=protocol, **check)
    assert checked.status == "DOWN"
    assert await seen_by(server) == (said, "close_notify" if tls else "eof")


@each_protocol
async def test_a_server_that_speaks_something_else_is_left_in_order(
    harness: ProxyHarness, protocol: str
) -> None:
    server = await harness.server((Send(b"SSH-2.0-OpenSSH_9.2\r\n" * 100), Collect()))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    goodbye = b"a1 LOGOUT\r\n" if protocol == "imap" else GOODBYES[protocol]
    assert await seen_by(server) == (goodbye, "eof")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_a_server_that_says_goodbye_itself_is_left_in_order(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server(collect(b"* BYE busy\r\n"), tls=certified(harness) if tls else None)
    await check_once(harness, server.address, type="imap", **(trusting(harness) if tls else CLEAR))
    assert await seen_by(server) == (b"", "close_notify" if tls else "eof")


async def test_a_server_without_starttls_is_left_in_order(harness: ProxyHarness) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    await check_once(harness, server.address, type="imap", **trusting(harness, mode="starttls"))
    assert await seen_by(server) == (client_bytes(PLAYBOOKS["imap"]), "eof")


# Failed handshakes


@frozen
class ShakeInVain:
    """Take the server's part in a TLS handshake that the client breaks off, and hear what comes behind its alert."""

    tls: ssl.SSLContext

    async def play(self, connection: Connection) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await connection.accept_tls(self.tls)
        connection.tls = connection.end = None
        await connection.receive_until_end()


async def test_a_server_that_speaks_in_clear_sees_the_end_of_a_handshake(harness: ProxyHarness) -> None:
    """What it said itself, and nobody could make anything of, makes no reset of it."""
    server = await harness.server(collect(b"* OK [CAPABILITY IMAP4rev1] ready\r\n" * 100))
    checked = await check_once(harness, server.address, type="tls", **trusting(harness))
    assert checked.status == "DOWN"
    received, end = await seen_by(server)
    assert received.startswith(b"\x16\x03"), "a handshake"
    assert end == "eof"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_nobody_trusts_is_told_why_and_sees_the_end(
    harness: ProxyHarness, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    (tmp_path / "other").mkdir()
    stranger = ThrowAwayCA(tmp_path / "other").server_context("127.0.0.1")
    stranger.maximum_version = version
    server = await harness.server((ShakeInVain(stranger),))
    checked = await check_once(harness, server.address, type="tls", **trusting(harness))
    assert checked.status == "DOWN"
    assert await seen_by(server) == (b"", "eof")
    assert server.connections[0].tls_fault == "TLSV1_ALERT_UNKNOWN_CA"


# Who was too slow


@each_protocol
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.usefixtures("short_farewell")
async def test_a_server_that_never_greets_is_left_in_order(
    harness: ProxyHarness, protocol: str, tls: bool
) -> None:
    server = await harness.server(stay_silent(), tls=certified(harness) if tls else None)
    check = trusting(harness) if tls else CLEAR
    checked = await check_once(harness, server.address, protocol=protocol, timeout=TIMEOUT, **check)
    assert checked.status == "DOWN"
    assert await seen_by(server) == (GOODBYES[protocol], "close_notify" if tls else "eof")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.usefixtures("short_farewell")
async def test_a_server_that_stops_in_between_is_left_in_order(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server(collect(GREETING), tls=certified(harness) if tls else None)
    check = trusting(harness) if tls else CLEAR
    await check_once(harness, server.address, protocol="imap", timeout=TIMEOUT, **check)
    assert await seen_by(server) == (b"a1 CAPABILITY\r\nbye LOGOUT\r\n", "close_notify" if tls else "eof")


@each_protocol
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.usefixtures("short_farewell")
async def test_a_script_whose_time_is_up_leaves_in_order(
    harness: ProxyHarness, protocol: str, tls: bool
) -> None:
    server = await harness.server(collect(GREETING), tls=certified(harness) if tls else None)
    check = {"type": "script", "steps": [{"expect": "BYE"}], **(trusting(harness) if tls else CLEAR)}
    checked = await check_once(harness, server.address, protocol=protocol, timeout=TIMEOUT, **check)
    assert checked.status == "DOWN"
    assert await seen_by(server) == (GOODBYES[protocol], "close_notify" if tls else "eof")


# Scripts

FORGETFUL: dict[str, tuple[dict[str, Any], Playbook]] = {
    "passed": ({"expect": "OK"}, collect(b"* OK 220 +OK\r\n")),
    "unwanted": ({"expect": "BYE", "not": True}, collect(b"* BYE\r\n")),
    "too slow": ({"expect": "BYE", "timeout": "30ms"}, collect(b"* OK\r\n")),
}


@each_protocol
@pytest.mark.parametrize(("step", "playbook"), FORGETFUL.values(), ids=FORGETFUL)
@pytest.mark.usefixtures("short_farewell")
async def test_a_script_that_forgets_to_say_goodbye(
    harness: ProxyHarness, protocol: str, step: dict[str, Any], playbook: Playbook
) -> None:
    server = await harness.server(playbook)
    await check_once(harness, server.address, protocol=protocol, type="script", steps=[step], **CLEAR)
    assert await seen_by(server) == (GOODBYES[protocol], "eof")


@pytest.mark.usefixtures("short_farewell")
async def test_a_script_that_forgets_to_say_goodbye_over_tls(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=certified(harness))
    script = {"type": "script", "steps": [{"expect": "OK"}], **trusting(harness)}
    await check_once(harness, server.address, protocol="imap", **script)
    assert await seen_by(server) == (b"bye LOGOUT\r\n", "close_notify")


@pytest.mark.parametrize("words", ["x logout\r\n", "QUIT\r\n"])
@pytest.mark.usefixtures("short_farewell")
async def test_a_script_that_says_goodbye_itself_says_it_once(harness: ProxyHarness, words: str) -> None:
    server = await harness.server(collect(GREETING))
    steps = [{"expect": "OK"}, {"send": words}]
    await check_once(harness, server.address, protocol="imap", type="script", steps=steps, **CLEAR)
    assert await seen_by(server) == (words.encode(), "eof")


@pytest.mark.usefixtures("short_farewell")
async def test_a_script_behind_a_header_that_forgets_to_say_goodbye(harness: ProxyHarness) -> None:
    """The signature of version 2 has QUIT in it, which is none."""
    server = HeaderRecorder(collect(GREETING))
    await harness.nursery.start(server.serve)
    script: dict[str, Any] = {"type": "script", "steps": [{"expect": "OK"}], "send_proxy": "v2"}
    await check_once(harness, server.address, protocol="pop3", **script, **CLEAR)
    assert await seen_by(server) == (b"QUIT\r\n", "eof")


FAILING: dict[str, dict[str, Any]] = {
    "unmet": {"expect": "BYE", "timeout": "30ms"},
    "unwanted": {"expect": "OK", "not": True},
}


@pytest.mark.parametrize("step", FAILING.values(), ids=FAILING)
@pytest.mark.usefixtures("short_farewell")
async def test_a_script_that_fails_before_it_says_goodbye_says_it_all_the_same(
    harness: ProxyHarness, step: dict[str, Any]
) -> None:
    server = await harness.server(collect(GREETING))
    steps = [step, {"send": "x LOGOUT\r\n"}]
    checked = await check_once(harness, server.address, protocol="imap", type="script", steps=steps, **CLEAR)
    assert checked.status == "DOWN"
    assert await seen_by(server) == (b"bye LOGOUT\r\n", "eof")


@pytest.mark.parametrize("step", FAILING.values(), ids=FAILING)
@pytest.mark.usefixtures("short_farewell")
async def test_a_script_that_fails_after_it_said_goodbye_says_no_other(
    harness: ProxyHarness, step: dict[str, Any]
) -> None:
    server = await harness.server((ExpectLine(), Send(GREETING), Collect()))
    steps = [{"send": "x LOGOUT\r\n"}, step]
    checked = await check_once(harness, server.address, protocol="imap", type="script", steps=steps, **CLEAR)
    assert checked.status == "DOWN"
    assert await seen_by(server) == (b"x LOGOUT\r\n", "eof")


async def test_a_script_where_no_protocol_is_known(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    await check_once(harness, server.address, type="script", steps=[{"expect": "OK"}])
    assert await seen_by(server) == (b"", "eof")


@pytest.mark.usefixtures("short_farewell")
async def test_every_connection_of_a_script_is_closed_in_order(harness: ProxyHarness) -> None:
    servers = [await harness.server(collect(GREETING)) for _ in range(3)]
    ports = [int(server.address.rpartition(":")[2]) for server in servers]
    steps: list[dict[str, Any]] = []
    for port in ports:
        steps += [{"connect": {"port": port}}, {"expect": "OK"}]
    await check_once(harness, servers[0].address, protocol="imap", type="script", steps=steps, **CLEAR)
    for server in servers:
        assert await seen_by(server) == (b"bye LOGOUT\r\n", "eof")


# Plain checks


@contextmanager
def listening(host: str = "127.0.0.1", backlog: int = 100) -> Iterator[socket.socket]:
    """A program that could accept, and does not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as listener:
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_plain_checks_are_never_heard_of(harness: ProxyHarness, host: str) -> None:
    """The handshake is not finished, so that the server's program has nothing to accept."""
    with listening(host) as listener:
        port = listener.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        servers: list[Any] = [{"name": f"s{number}", "address": address} for number in range(20)]
        proxy = await harness.proxy(*servers, **check_options({"type": "tcp"}, protocol="imap"))
        checked = [server.last_check for server in proxy.backends["b"].servers.values()]
        assert checked == ["Layer4 check passed"] * 20
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert server_messages(harness) == []


async def test_plain_checks_take_no_clients_place(harness: ProxyHarness) -> None:
    """None of them stands in the short line of those that wait to be accepted."""
    with listening(backlog=1) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        servers: list[Any] = [{"name": f"s{number}", "address": address} for number in range(50)]
        proxy = await harness.proxy(*servers, **check_options({"type": "tcp"}))
        assert {server.status for server in proxy.backends["b"].servers.values()} == {"UP"}
        with trio.fail_after(TIMEOUT_S):
            async with await dial(address):
                await trio.lowlevel.wait_readable(listener)
                listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


# Here


@pytest.mark.parametrize("way", ["tcp", "imap", "starttls", "tls", "script"])
async def test_cancelled_at_every_step_of_a_check(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Started as soon as the first checks have begun, so that whatever they do is met by the end."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", 0.0)
    monkeypatch.setattr("mailproxy.proxy.checks.checker._SPREAD_PER_SERVER_S", 0.0)
    context = certified(harness)
    book = STARTTLS_PLAYBOOKS["imap"] if way == "starttls" else PLAYBOOKS["imap"]
    server = await harness.server(
        collect(GREETING) if way == "script" else (ServerPlaybook(book, context),),
        tls=context if way == "tls" else None,
    )
    check: dict[str, Any] = {
        "tcp": {"type": "tcp"},
        "imap": {"type": "imap", **CLEAR},
        "starttls": {"type": "imap", **trusting(harness, mode="starttls")},
        "tls": {"type": "tls", **trusting(harness)},
        "script": {
            "type": "script",
            "steps": [
                {"expect": "OK"},
                {"send": "a1 CAPABILITY\r\n"},
                {"connect": {}},
                {"expect": "BYE", "timeout": "20ms"},
            ],
        },
    }[way]
    mapping = harness.mapping(server.address, **check_options(check, protocol="imap"))

    async def visit(address: str) -> None:
        async with await dial(address) as client:
            await client.receive_until_end()

    await cancel_at_every_step(mapping, visit, stride=1)
    said = {bytes(connection.received) for connection in server.connections}
    assert way == "tcp" or any(b"LOGOUT" in words for words in said), "some got as far as the goodbye"
    assert server_messages(harness) == [] or way == "script"
    assert not [line for line in harness.lines() if line["event"] == "check-fault"]


async def test_three_hundred_servers_at_once(harness: ProxyHarness) -> None:
    good = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    bad = await harness.server((Send(b"* BYE busy\r\n"), Close()))
    before = ResourceSnapshot.now()
    addresses = [good.address, good.address, bad.address]
    servers: list[Any] = [
        {"name": f"s{number}", "address": address}
        for number, address in zip(range(300), addresses * 100, strict=True)
    ]
    config = mailproxy.from_mapping(
        harness.mapping(
            *servers, **check_options({"type": "imap", "timeout": "1m", **CLEAR}, protocol="imap")
        )
    )
    async with trio.open_nursery() as nursery:
        proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
        backend = proxy.backends["b"]
        states = [server.status for server in backend.servers.values()]
        nursery.cancel_scope.cancel()
    assert states == ["UP", "UP", "DOWN"] * 100
    assert (good.accepted, bad.accepted) == (200, 100)
    assert {connection.end for connection in good.connections} == {"eof"}
    assert sum(" is DOWN, reason: " in sentence for sentence in server_messages(harness)) == 100
    await before.wait_until_restored()
