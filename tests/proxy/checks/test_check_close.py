"""How a check closes its connection: in order at the server, and with nothing left here."""

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
TIMEOUT = "150ms"  # timeout of checks that must reach it

EACH_PROTOCOL = pytest.mark.parametrize("protocol", MAIL_PROTOCOLS)


@pytest.fixture(autouse=True)
def long_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the first round of checks even on a busy machine."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", TIMEOUT_S)


@pytest.fixture
def short_close_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for servers that do not answer the goodbye and close when they see the end."""
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", 0.05)


def trust_ca(harness: ProxyHarness, **more: Any) -> dict[str, Any]:
    """Return a check over TLS that trusts the harness's CA."""
    return {"tls": {"ca": str(harness.ca.pem), **more}}


def server_context(harness: ProxyHarness) -> ssl.SSLContext:
    return harness.ca.server_context("127.0.0.1")


async def received_by(server: ScriptedServer) -> tuple[bytes, str | None]:
    """Return all that the server's only client sent, and how the client closed."""
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended()
    assert server.accepted == 1
    connection = server.connections[0]
    return bytes(connection.received), connection.end


# Passed checks


@EACH_PROTOCOL
async def test_check_logs_out_and_closes(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS[protocol]),))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    assert await received_by(server) == (client_bytes(PLAYBOOKS[protocol]), "eof")


@EACH_PROTOCOL
async def test_tls_check_sends_close_notify(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS[protocol]),), tls=server_context(harness))
    await check_once(harness, server.address, protocol=protocol, **trust_ca(harness))
    assert await received_by(server) == (client_bytes(PLAYBOOKS[protocol]), "close_notify")


@EACH_PROTOCOL
async def test_starttls_check_sends_close_notify(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((ServerPlaybook(STARTTLS_PLAYBOOKS[protocol], server_context(harness)),))
    await check_once(harness, server.address, protocol=protocol, **trust_ca(harness, mode="starttls"))
    assert await received_by(server) == (client_bytes(STARTTLS_PLAYBOOKS[protocol]), "close_notify")


@EACH_PROTOCOL
async def test_check_of_type_tls_logs_out(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS[protocol]),), tls=server_context(harness))
    checked = await check_once(harness, server.address, protocol=protocol, type="tls", **trust_ca(harness))
    assert checked.last_check == "Layer6 check passed"
    assert await received_by(server) == (client_bytes(PLAYBOOKS[protocol]), "close_notify")


async def test_check_of_type_tls_without_protocol_closes(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=server_context(harness))
    await check_once(harness, server.address, type="tls", **trust_ca(harness))
    assert await received_by(server) == (b"", "close_notify")


@EACH_PROTOCOL
async def test_check_of_type_tcp_with_header_logs_out(harness: ProxyHarness, protocol: str) -> None:
    server = HeaderRecorder((ServerPlaybook(PLAYBOOKS[protocol]),))
    await harness.nursery.start(server.serve)
    checked = await check_once(harness, server.address, protocol=protocol, type="tcp", send_proxy="v2")
    assert checked.last_check == "Layer4 check passed"
    assert await received_by(server) == (client_bytes(PLAYBOOKS[protocol]), "eof")


async def test_answers_after_goodbye_are_read(harness: ProxyHarness) -> None:
    """Closing with unread data would reset the connection."""
    long_playbook = PLAYBOOKS["imap"].replace(
        "S: * BYE Logging out", "S: * BYE Logging out\n" + "S: * OK bye\n" * 1000
    )
    server = await harness.server((ServerPlaybook(long_playbook),))
    await check_once(harness, server.address, type="imap", **CLEAR)
    assert await received_by(server) == (client_bytes(PLAYBOOKS["imap"]), "eof")


@pytest.mark.parametrize("kind", ["script", "tcp"])
async def test_unexpected_data_is_read(harness: ProxyHarness, kind: str) -> None:
    server = await harness.server((Flood(100_000), Collect()))
    check: dict[str, Any] = {"steps": [{"connect": {}}]} if kind == "script" else {"send_proxy": "v1"}
    await check_once(harness, server.address, type=kind, **check)
    received, end = await received_by(server)
    assert end == "eof"
    assert received == b"" or kind == "tcp"


async def test_check_closes_if_server_does_not(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", 0.05)
    server = await harness.server((Send(GREETING), Stall()))
    before = ResourceSnapshot.now()
    with trio.fail_after(TIMEOUT_S):
        checked = await check_once(harness, server.address, type="script", steps=[{"expect": "OK"}])
    assert checked.status == "UP"
    assert before.sockets < ResourceSnapshot.now().sockets, "the server's end stays open"
    assert server.connections[0].end is None


# Failed checks

REFUSALS: dict[str, tuple[Playbook, bytes]] = {
    "imap": ((Send(GREETING), ExpectLine(), Send(b"a1 NO busy\r\n"), ExpectLine(), Send(b"a2 OK\r\n")), b"a1 CAPABILITY\r\na2 LOGOUT\r\n"),
    "pop3": ((Send(b"-ERR busy\r\n"), ExpectLine(), Send(b"+OK\r\n")), b"QUIT\r\n"),
    "smtp": ((Send(b"554 go away\r\n"), ExpectLine(), Send(b"221 bye\r\n")), b"QUIT\r\n"),
    "submission": ((Send(b"220 hi\r\n"), ExpectLine(), Send(b"550 no\r\n"), ExpectLine(), Send(b"221 bye\r\n")), b"EHLO localhost\r\nQUIT\r\n"),
    "lmtp": ((Send(b"450 later\r\n"), ExpectLine(), Send(b"221 bye\r\n")), b"QUIT\r\n"),
    "sieve": ((Send(b'NO "busy"\r\n'), ExpectLine(), Send(b"OK\r\n")), b"LOGOUT\r\n"),
}  # fmt: skip


@EACH_PROTOCOL
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_refusing_server_gets_logout(harness: ProxyHarness, protocol: str, tls: bool) -> None:
    playbook, expected = REFUSALS[protocol]
    server = await harness.server((*playbook, Collect()), tls=server_context(harness) if tls else None)
    check = trust_ca(harness) if tls else CLEAR
    checked = await check_once(harness, server.address, protocol=protocol, **check)
    assert checked.status == "DOWN"
    assert await received_by(server) == (expected, "close_notify" if tls else "eof")


@EACH_PROTOCOL
async def test_server_with_other_protocol_gets_logout(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((Send(b"SSH-2.0-OpenSSH_9.2\r\n" * 100), Collect()))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    goodbye = b"a1 LOGOUT\r\n" if protocol == "imap" else GOODBYES[protocol]
    assert await received_by(server) == (goodbye, "eof")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_server_after_bye_sees_orderly_close(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server(collect(b"* BYE busy\r\n"), tls=server_context(harness) if tls else None)
    await check_once(harness, server.address, type="imap", **(trust_ca(harness) if tls else CLEAR))
    assert await received_by(server) == (b"", "close_notify" if tls else "eof")


async def test_server_without_starttls_gets_logout(harness: ProxyHarness) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    await check_once(harness, server.address, type="imap", **trust_ca(harness, mode="starttls"))
    assert await received_by(server) == (client_bytes(PLAYBOOKS["imap"]), "eof")


# Failed handshakes


@frozen
class FailingHandshake:
    """Take the server's part in a TLS handshake that the client aborts.

    Then receive what follows the client's alert.
    """

    tls: ssl.SSLContext

    async def play(self, connection: Connection) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await connection.accept_tls(self.tls)
        connection.tls = connection.end = None
        await connection.receive_until_end()


async def test_server_without_tls_sees_orderly_close(harness: ProxyHarness) -> None:
    """The unread data of the server must not turn the close into a reset."""
    server = await harness.server(collect(b"* OK [CAPABILITY IMAP4rev1] ready\r\n" * 100))
    checked = await check_once(harness, server.address, type="tls", **trust_ca(harness))
    assert checked.status == "DOWN"
    received, end = await received_by(server)
    assert received.startswith(b"\x16\x03"), "a handshake"
    assert end == "eof"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_untrusted_server_gets_alert_and_orderly_close(
    harness: ProxyHarness, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    (tmp_path / "other").mkdir()
    untrusted = ThrowAwayCA(tmp_path / "other").server_context("127.0.0.1")
    untrusted.maximum_version = version
    server = await harness.server((FailingHandshake(untrusted),))
    checked = await check_once(harness, server.address, type="tls", **trust_ca(harness))
    assert checked.status == "DOWN"
    assert await received_by(server) == (b"", "eof")
    assert server.connections[0].tls_fault == "TLSV1_ALERT_UNKNOWN_CA"


# Timeouts


@EACH_PROTOCOL
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.usefixtures("short_close_timeout")
async def test_server_without_greeting_gets_logout(harness: ProxyHarness, protocol: str, tls: bool) -> None:
    server = await harness.server(stay_silent(), tls=server_context(harness) if tls else None)
    check = trust_ca(harness) if tls else CLEAR
    checked = await check_once(harness, server.address, protocol=protocol, timeout=TIMEOUT, **check)
    assert checked.status == "DOWN"
    assert await received_by(server) == (GOODBYES[protocol], "close_notify" if tls else "eof")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.usefixtures("short_close_timeout")
async def test_unresponsive_server_gets_logout(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server(collect(GREETING), tls=server_context(harness) if tls else None)
    check = trust_ca(harness) if tls else CLEAR
    await check_once(harness, server.address, protocol="imap", timeout=TIMEOUT, **check)
    assert await received_by(server) == (b"a1 CAPABILITY\r\nbye LOGOUT\r\n", "close_notify" if tls else "eof")


@EACH_PROTOCOL
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.usefixtures("short_close_timeout")
async def test_script_after_timeout_logs_out(harness: ProxyHarness, protocol: str, tls: bool) -> None:
    server = await harness.server(collect(GREETING), tls=server_context(harness) if tls else None)
    check = {"type": "script", "steps": [{"expect": "BYE"}], **(trust_ca(harness) if tls else CLEAR)}
    checked = await check_once(harness, server.address, protocol=protocol, timeout=TIMEOUT, **check)
    assert checked.status == "DOWN"
    assert await received_by(server) == (GOODBYES[protocol], "close_notify" if tls else "eof")


# Scripts

WITHOUT_GOODBYE: dict[str, tuple[dict[str, Any], Playbook]] = {
    "passed": ({"expect": "OK"}, collect(b"* OK 220 +OK\r\n")),
    "unwanted match": ({"expect": "BYE", "not": True}, collect(b"* BYE\r\n")),
    "too slow": ({"expect": "BYE", "timeout": "30ms"}, collect(b"* OK\r\n")),
}


@EACH_PROTOCOL
@pytest.mark.parametrize(("step", "playbook"), WITHOUT_GOODBYE.values(), ids=WITHOUT_GOODBYE)
@pytest.mark.usefixtures("short_close_timeout")
async def test_script_without_goodbye_logs_out(
    harness: ProxyHarness, protocol: str, step: dict[str, Any], playbook: Playbook
) -> None:
    server = await harness.server(playbook)
    await check_once(harness, server.address, protocol=protocol, type="script", steps=[step], **CLEAR)
    assert await received_by(server) == (GOODBYES[protocol], "eof")


@pytest.mark.usefixtures("short_close_timeout")
async def test_tls_script_without_goodbye_logs_out(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=server_context(harness))
    script = {"type": "script", "steps": [{"expect": "OK"}], **trust_ca(harness)}
    await check_once(harness, server.address, protocol="imap", **script)
    assert await received_by(server) == (b"bye LOGOUT\r\n", "close_notify")


@pytest.mark.parametrize("data", ["x logout\r\n", "QUIT\r\n"])
@pytest.mark.usefixtures("short_close_timeout")
async def test_script_with_goodbye_sends_no_other(harness: ProxyHarness, data: str) -> None:
    server = await harness.server(collect(GREETING))
    steps = [{"expect": "OK"}, {"send": data}]
    await check_once(harness, server.address, protocol="imap", type="script", steps=steps, **CLEAR)
    assert await received_by(server) == (data.encode(), "eof")


@pytest.mark.usefixtures("short_close_timeout")
async def test_script_with_header_logs_out(harness: ProxyHarness) -> None:
    """The signature of version 2 contains ``QUIT``, which must not count as a goodbye."""
    server = HeaderRecorder(collect(GREETING))
    await harness.nursery.start(server.serve)
    script: dict[str, Any] = {"type": "script", "steps": [{"expect": "OK"}], "send_proxy": "v2"}
    await check_once(harness, server.address, protocol="pop3", **script, **CLEAR)
    assert await received_by(server) == (b"QUIT\r\n", "eof")


FAILING: dict[str, dict[str, Any]] = {
    "no match": {"expect": "BYE", "timeout": "30ms"},
    "unwanted match": {"expect": "OK", "not": True},
}


@pytest.mark.parametrize("step", FAILING.values(), ids=FAILING)
@pytest.mark.usefixtures("short_close_timeout")
async def test_script_failing_before_goodbye_logs_out(harness: ProxyHarness, step: dict[str, Any]) -> None:
    server = await harness.server(collect(GREETING))
    steps = [step, {"send": "x LOGOUT\r\n"}]
    checked = await check_once(harness, server.address, protocol="imap", type="script", steps=steps, **CLEAR)
    assert checked.status == "DOWN"
    assert await received_by(server) == (b"bye LOGOUT\r\n", "eof")


@pytest.mark.parametrize("step", FAILING.values(), ids=FAILING)
@pytest.mark.usefixtures("short_close_timeout")
async def test_script_failing_after_goodbye_sends_no_other(
    harness: ProxyHarness, step: dict[str, Any]
) -> None:
    server = await harness.server((ExpectLine(), Send(GREETING), Collect()))
    steps = [{"send": "x LOGOUT\r\n"}, step]
    checked = await check_once(harness, server.address, protocol="imap", type="script", steps=steps, **CLEAR)
    assert checked.status == "DOWN"
    assert await received_by(server) == (b"x LOGOUT\r\n", "eof")


async def test_script_without_protocol_closes(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    await check_once(harness, server.address, type="script", steps=[{"expect": "OK"}])
    assert await received_by(server) == (b"", "eof")


@pytest.mark.usefixtures("short_close_timeout")
async def test_script_logs_out_on_each_connection(harness: ProxyHarness) -> None:
    servers = [await harness.server(collect(GREETING)) for _ in range(3)]
    ports = [int(server.address.rpartition(":")[2]) for server in servers]
    steps: list[dict[str, Any]] = []
    for port in ports:
        steps += [{"connect": {"port": port}}, {"expect": "OK"}]
    await check_once(harness, servers[0].address, protocol="imap", type="script", steps=steps, **CLEAR)
    for server in servers:
        assert await received_by(server) == (b"bye LOGOUT\r\n", "eof")


# Checks of type tcp


@contextmanager
def full_listener(host: str = "127.0.0.1", backlog: int = 100) -> Iterator[socket.socket]:
    """Yield a listening socket whose program does not accept."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as listener:
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_tcp_check_is_never_accepted(harness: ProxyHarness, host: str) -> None:
    """The check does not finish the TCP handshake, so the server's program has nothing to accept."""
    with full_listener(host) as listener:
        port = listener.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        servers: list[Any] = [{"name": f"s{number}", "address": address} for number in range(20)]
        proxy = await harness.proxy(*servers, **check_options({"type": "tcp"}, protocol="imap"))
        checked = [server.last_check for server in proxy.backends["b"].servers.values()]
        assert checked == ["Layer4 check passed"] * 20
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert server_messages(harness) == []


async def test_tcp_check_takes_no_place_in_backlog(harness: ProxyHarness) -> None:
    """No check is in the short queue of connections to accept."""
    with full_listener(backlog=1) as listener:
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


# Nothing is left here


@pytest.mark.parametrize("variant", ["tcp", "imap", "starttls", "tls", "script"])
async def test_cancellation_at_every_step_leaves_nothing(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    """The proxy is ready when the first checks start, so the cancellation meets each of their steps."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", 0.0)
    monkeypatch.setattr("mailproxy.proxy.checks.checker._SPREAD_PER_SERVER_S", 0.0)
    context = server_context(harness)
    playbook = STARTTLS_PLAYBOOKS["imap"] if variant == "starttls" else PLAYBOOKS["imap"]
    server = await harness.server(
        collect(GREETING) if variant == "script" else (ServerPlaybook(playbook, context),),
        tls=context if variant == "tls" else None,
    )
    check: dict[str, Any] = {
        "tcp": {"type": "tcp"},
        "imap": {"type": "imap", **CLEAR},
        "starttls": {"type": "imap", **trust_ca(harness, mode="starttls")},
        "tls": {"type": "tls", **trust_ca(harness)},
        "script": {
            "type": "script",
            "steps": [
                {"expect": "OK"},
                {"send": "a1 CAPABILITY\r\n"},
                {"connect": {}},
                {"expect": "BYE", "timeout": "20ms"},
            ],
        },
    }[variant]
    mapping = harness.mapping(server.address, **check_options(check, protocol="imap"))

    async def run_client(address: str) -> None:
        async with await dial(address) as client:
            await client.receive_until_end()

    await cancel_at_every_step(mapping, run_client, stride=1)
    received = {bytes(connection.received) for connection in server.connections}
    assert variant == "tcp" or any(b"LOGOUT" in data for data in received), "some checks reached the goodbye"
    assert server_messages(harness) == [] or variant == "script"
    assert not [line for line in harness.lines() if line["event"] == "check-fault"]


async def test_300_servers_are_checked_at_once(harness: ProxyHarness) -> None:
    healthy = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    refusing = await harness.server((Send(b"* BYE busy\r\n"), Close()))
    before = ResourceSnapshot.now()
    addresses = [healthy.address, healthy.address, refusing.address]
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
    assert (healthy.accepted, refusing.accepted) == (200, 100)
    assert {connection.end for connection in healthy.connections} == {"eof"}
    assert sum(" is DOWN, reason: " in message for message in server_messages(harness)) == 100
    await before.wait_until_restored()
