"""The PROXY header that a proxy in front sends: whose address counts, what is taken of the connection, how it ends."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from attrs import frozen

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.net import peek
from mailproxy.protocol.proxy_header import Command, HeaderV2, Protocol, Tlv, Type, format_v2
from mailproxy.testing import Collect, Connection, Send, collect, dial, greet_and_echo
from tests.support.protocol.client_hellos import browser_client_hello, split_into_records
from tests.support.protocol.proxy_headers import FULL, KINDS, binary
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness, ResourceSnapshot
from tests.support.proxy.task_steps import FEW_STEPS, cancel_at_every_step, count_steps

GREETING = b"* OK ready\r\n"
COMMAND = b"a1 LOGIN user secret-password\r\n"

TRUSTED: dict[str, Any] = {"accept_proxy": ["127.0.0.0/8"]}
FOREIGN: dict[str, Any] = {"accept_proxy": ["192.0.2.0/24", "2001:db8::/32"]}
QUICK: dict[str, Any] = {"frontends": {"f": {"timeouts": {"proxy_header": "200ms"}}}}


def v2(source: tuple[str, int], destination: tuple[str, int], *tlvs: Tlv) -> bytes:
    return format_v2(
        HeaderV2(
            command=Command.PROXY,
            protocol=Protocol.TCP6 if ":" in source[0] else Protocol.TCP4,
            source=source,
            destination=destination,
            tlvs=tlvs,
        )
    )


V1 = b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 993\r\n"
V1_6 = b"PROXY TCP6 2001:DB8::7 2001:db8:0::9 40000 993\r\n"
V2 = v2(("198.51.100.7", 40000), ("203.0.113.9", 993))
V2_6 = v2(("2001:db8::7", 40000), ("2001:db8::9", 993))
V2_LONG = v2(("198.51.100.7", 40000), ("203.0.113.9", 993), Tlv(Type.NOOP, bytes(9000)))

IPV4, IPV6 = "198.51.100.7:40000", "[2001:db8::7]:40000"
SPOKEN_FOR = {"v1": (V1, IPV4), "v1-ipv6": (V1_6, IPV6), "v2": (V2, IPV4), "v2-ipv6": (V2_6, IPV6), "v2-long": (V2_LONG, IPV4)}  # fmt: skip
EACH = {"v1": SPOKEN_FOR["v1-ipv6"], "v2": SPOKEN_FOR["v2-long"]}
each_version = pytest.mark.parametrize(("header", "client"), EACH.values(), ids=EACH)
each_header = pytest.mark.parametrize(("header", "client"), SPOKEN_FOR.values(), ids=SPOKEN_FOR)


def local_name(connection: Connection) -> str:
    host, port = connection.stream.socket.getsockname()
    return f"{host}:{port}"


async def assert_served(client: Connection, header: bytes = b"") -> None:
    with trio.fail_after(TIMEOUT_S):
        await client.send(header + COMMAND)
        assert await client.receive_line() == GREETING
        assert await client.receive_line() == COMMAND


# Whose address counts


@each_header
async def test_the_address_of_the_header_is_the_clients(
    harness: ProxyHarness, header: bytes, client: str
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    connection = await harness.dial(proxy)
    peer = local_name(connection)
    await assert_served(connection, header)
    await connection.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == (client, peer)
    assert (line["end"], line["state"]) == ("client-closed", "--")
    assert line["bytes_in"] == len(COMMAND), "the header is no part of what is proxied"


@pytest.mark.parametrize("version", [1, 2])
async def test_an_ipv4_address_in_ipv6_is_logged_as_ipv4(harness: ProxyHarness, version: int) -> None:
    """Proxies with a bind for both families send them like that."""
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    client = await harness.dial(proxy)
    await assert_served(
        client,
        b"PROXY TCP6 ::ffff:198.51.100.7 ::ffff:203.0.113.9 40000 993\r\n"
        if version == 1
        else v2(("::ffff:198.51.100.7", 40000), ("::ffff:203.0.113.9", 993)),
    )
    await client.close()
    assert (await harness.session())["client"] == IPV4


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN 198.51.100.7 203.0.113.9 40000 993\r\n",
        KINDS["LOCAL"],
        KINDS["LOCAL with a block"],
    ],
)
async def test_local_and_unknown_leave_the_real_address(harness: ProxyHarness, header: bytes) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    client = await harness.dial(proxy)
    name = local_name(client)
    await assert_served(client, header)
    await client.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == (name, None)


@each_version
@pytest.mark.parametrize("form", ["tcplog", "text"])
async def test_in_other_logs(
    harness: ProxyHarness, tmp_path: Path, form: str, header: bytes, client: str
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    log = tmp_path / "other.log"
    proxy = await harness.proxy(server.address, bind=TRUSTED, log={"format": form, "to": str(log)})
    connection = await harness.dial(proxy)
    peer = local_name(connection)
    await assert_served(connection, header)
    await connection.close()
    if form == "text":
        assert f"{client} by {peer} client-closed" in await harness.wait_for_line(log, "client-closed")
    else:  # HAProxy has no brackets
        line = await harness.wait_for_line(log, " -- ")
        assert line.startswith(client.replace("[", "").replace("]", "") + " [")


async def test_the_health_check_of_a_proxy_in_front_is_no_news(harness: ProxyHarness) -> None:
    """HAProxy's: LOCAL, and gone. It had an answer, and by default it has no line."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED, frontends={"f": {"log_null": False}})
    client = await harness.dial(proxy)
    await client.send(KINDS["LOCAL"])
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    await client.close()
    await harness.wait_until_idle()
    other = await harness.dial(proxy)
    await other.send(COMMAND)
    other.drop()
    assert (await harness.session())["end"] == "header-missing"


# What is taken of the connection


@each_header
async def test_single_bytes(harness: ProxyHarness, header: bytes, client: str) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    connection = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await connection.send_in_pieces(header + COMMAND)
        assert await connection.receive_line() == GREETING
        assert await connection.receive_line() == COMMAND
    await connection.close()
    assert (await harness.session())["client"] == client


@pytest.mark.parametrize("header", [V1_6, FULL], ids=["v1", "v2"])
async def test_cut_anywhere(harness: ProxyHarness, header: bytes) -> None:
    """In two pieces, each seen alone: the first is waited for more, the second has the server's connection behind it."""
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    cuts = range(1, len(header), 2)
    for count, cut in enumerate(cuts):
        client = await harness.dial(proxy)
        await client.send(header[:cut])
        await trio.testing.wait_all_tasks_blocked()
        assert server.accepted == count
        await assert_served(client, header[cut:])
        await client.close()
    assert {line["end"] for line in await harness.sessions(len(cuts))} == {"client-closed"}


@each_version
async def test_nothing_behind_the_header_is_taken(harness: ProxyHarness, header: bytes, client: str) -> None:
    server = await harness.server(collect())
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    connection = await harness.dial(proxy)
    data = header + COMMAND + bytes(range(256)) * 100  # what looks like one more header is data, too
    await connection.send(header + data)
    await connection.close()
    line = await harness.session()
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended()
    assert bytes(server.connections[0].received) == data
    assert line["bytes_in"] == len(data)


@each_version
@pytest.mark.parametrize("mode", ["tls", "passthrough"])
@pytest.mark.parametrize("size", [None, 1], ids=["one-segment", "byte-by-byte"])
async def test_tls_behind_the_header(
    harness: ProxyHarness, mode: str, size: int | None, header: bytes, client: str
) -> None:
    passes = mode == "passthrough"
    server = await harness.server(
        greet_and_echo(GREETING), tls=harness.ca.server_context("localhost") if passes else None
    )
    proxy = await harness.proxy(server.address, tls=not passes, bind={**TRUSTED, "mode": mode})
    connection = await harness.dial(proxy)
    if size is None:
        connection._outgoing.write(header)  # in one call with the ClientHello
    else:
        await connection.send_in_pieces(header, size)
    with trio.fail_after(TIMEOUT_S):
        await connection.start_tls(harness.ca.client_context())
    await assert_served(connection)
    await connection.close()
    line = await harness.session()
    assert (line["client"], line["sni"], line["end"]) == (client, "localhost", "client-closed")


async def test_the_server_is_connected_only_then(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    client = await harness.dial(proxy)
    for piece in (V2[:1], V2[1:16], V2[16:-1]):
        await client.send(piece)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (server.accepted, proxy.sessions) == (0, 1)
    await assert_served(client, V2[-1:])
    client.drop()


# How it ends


@frozen
class Case:
    """What a client sends and how it leaves, and the end of that."""

    name: str
    said: bytes
    leave: str
    end: EndReason
    detail: str = ""


CASES = [
    Case("nothing, closed", b"", "close", end_reasons.HEADER_EMPTY),
    Case("nothing, reset", b"", "reset", end_reasons.HEADER_ABORTED, "reset by peer"),
    Case("a part of v1, closed", V1[:20], "close", end_reasons.HEADER_TRUNCATED, "closed after 20 bytes"),
    Case("a byte of v2, closed", V2[:1], "close", end_reasons.HEADER_TRUNCATED),
    Case("a part of v2, closed", V2[:-1], "close", end_reasons.HEADER_TRUNCATED),
    Case("a part of v2, half-closed", V2[:-1], "half-close", end_reasons.HEADER_TRUNCATED),
    Case("a part of v1, reset", V1[:20], "reset", end_reasons.HEADER_ABORTED, "reset by peer"),
    Case("a part of v2, reset", V2[:-1], "reset", end_reasons.HEADER_ABORTED, "reset by peer"),
    Case("a command", COMMAND, "stay", end_reasons.HEADER_MISSING),
    Case("a command, closed", COMMAND, "close", end_reasons.HEADER_MISSING),
    Case("a command that begins alike", b"PROX LOGIN user secret-password\r\n", "stay", end_reasons.HEADER_MISSING),
    Case("a ClientHello", split_into_records(browser_client_hello()), "stay", end_reasons.HEADER_MISSING),
    Case("an empty line", b"\r\n\r\nQUIT\r\n\r\n\r\n", "stay", end_reasons.HEADER_MISSING),
    Case("v1 without end", b"PROXY TCP4 " + b"1" * 200, "stay", end_reasons.HEADER_INVALID, "longer than 107"),
    Case("v1 with a bare LF", V1.replace(b"\r\n", b"\n"), "stay", end_reasons.HEADER_INVALID),
    Case("v1 with a bad address", V1.replace(b"198", b"0198"), "stay", end_reasons.HEADER_INVALID, "no IPv4"),
    Case("v1 with a bad port", V1.replace(b"993", b"65536"), "close", end_reasons.HEADER_INVALID, "65535"),
    Case("version 3", binary(first=0x31), "stay", end_reasons.HEADER_MISSING, "version 3"),
    Case("command 2", binary(first=0x22), "stay", end_reasons.HEADER_INVALID, "command 2"),
    Case("too long", binary(length=0xFFFF), "stay", end_reasons.HEADER_INVALID, "16384 are read"),
    Case("a bad checksum", FULL[:-1] + b"\0", "stay", end_reasons.HEADER_INVALID, "checksum"),
    Case("UDP", KINDS["UDP4"], "stay", end_reasons.HEADER_UNHANDLED, "0x12"),
    Case("a Unix socket's", KINDS["UNIX stream"], "stay", end_reasons.HEADER_UNHANDLED, "0x31"),
    Case("unspecified", KINDS["UNSPEC"], "stay", end_reasons.HEADER_UNHANDLED, "0x00"),
    Case("nothing, waits", b"", "stay", end_reasons.HEADER_TIMEOUT),
    Case("a part of v1, waits", V1[:-1], "stay", end_reasons.HEADER_TIMEOUT),
    Case("a part of v2, waits", V2[:-1], "stay", end_reasons.HEADER_TIMEOUT),
]  # fmt: skip


# A Unix socket does not hold back what is too little; it knows no resets.
SEEN_OTHERWISE = {
    "nothing, closed",
    "a part of v1, closed",
    "a part of v2, closed",
    "a part of v2, half-closed",
    "a command",
    "v1 without end",
    "UDP",
    "nothing, waits",
    "a part of v1, waits",
    "a part of v2, waits",
}


async def leave(client: Connection, way: str) -> None:
    """Leave like this, or stay until sent away."""
    with trio.fail_after(TIMEOUT_S):
        if way == "half-close":
            await client.half_close()
        if way in ("half-close", "stay"):
            await client.receive_until_end()
    if way == "reset":
        client.reset()
    else:
        client.drop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_end(harness: ProxyHarness, case: Case) -> None:
    server = await harness.server()
    changes = QUICK if case.end is end_reasons.HEADER_TIMEOUT else {}
    proxy = await harness.proxy(server.address, bind=TRUSTED, **changes)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    peer = local_name(client)
    if case.said:
        await client.send(case.said)
    if case.leave == "reset":
        await trio.testing.wait_all_tasks_blocked(0.01)  # what it sent has been looked at
    await leave(client, case.leave)
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["phase"], line["state"]) == (case.end.name, "proxy-header", None)
    assert case.detail in (line["detail"] or "")
    assert line["client"] == peer
    assert client.received == b""
    assert server.accepted == 0
    assert "secret-password" not in harness.log.read_text()


async def test_messages_in_tcplog(harness: ProxyHarness, tmp_path: Path) -> None:
    """In HAProxy's form and words."""
    server = await harness.server()
    log = tmp_path / "tcp.log"
    proxy = await harness.proxy(
        server.address, bind=TRUSTED, log={"format": "tcplog", "to": str(log)}, **QUICK
    )
    told = list({case.end: case for case in CASES}.values())  # one of each
    for case in told:
        client = await harness.dial(proxy)
        peer = local_name(client)
        if case.said:
            await client.send(case.said)
        if case.leave == "reset":
            await trio.testing.wait_all_tasks_blocked(0.01)
        await leave(client, case.leave)
        line = await harness.wait_for_line(log, f"{peer} ")
        date = r"\[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d\.\d{3}\]"
        assert re.fullmatch(rf"{re.escape(peer)} {date} f/B: {re.escape(case.end.state)}( \(.+\))?", line), (
            case.name
        )
    assert {case.end.state for case in told} >= {
        "Connection closed while waiting for PROXY protocol header",
        "Truncated PROXY protocol header received",
        "Connection error while waiting for PROXY protocol header",
        "Timeout while waiting for PROXY protocol header",
        "Received something which does not look like a PROXY protocol header",
        "Received an invalid PROXY protocol header",
        "Received an unhandled protocol in the PROXY protocol header",
    }


async def test_nothing_and_closed_is_not_logged_by_default(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, bind=TRUSTED, frontends={"f": {"log_null": False}})
    for _ in range(3):
        (await harness.dial(proxy)).drop()
    client = await harness.dial(proxy)
    await client.send(V1[:10])
    client.drop()
    assert (await harness.session())["end"] == "header-truncated"
    await harness.wait_until_idle()
    await harness.sessions(1)


@pytest.mark.parametrize("header", [V1, V2_LONG], ids=["v1", "v2"])
@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_trickling_does_not_stretch_the_limit(
    harness: ProxyHarness, tmp_path: Path, where: str, header: bytes
) -> None:
    server = await harness.server()
    bind = TRUSTED if where == "tcp" else on_unix(tmp_path)
    proxy = await harness.proxy(server.address, bind=bind, **QUICK)
    client = await harness.dial(proxy)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.send_in_pieces(header[:-1], 1, 0.05)
    client.drop()
    line = await harness.session()
    assert line["end"] == "header-timeout"
    assert 200 <= line["total_ms"] < 2000
    assert server.accepted == 0


@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_a_part_is_waited_on_without_spinning(
    harness: ProxyHarness, tmp_path: Path, where: str
) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, bind=TRUSTED if where == "tcp" else on_unix(tmp_path))
    clients = []
    for part in (V1[:-1], V2[:5], V2_LONG[:-1]):
        clients.append(await harness.dial(proxy))
        await clients[-1].send(part)
    most = FEW_STEPS if where == "tcp" else 3 * FEW_STEPS  # Unix sockets can only be looked at now and then
    assert await count_steps() < most
    for client in clients:
        client.drop()
    assert {line["end"] for line in await harness.sessions(3)} == {"header-truncated"}


async def test_the_rest_and_the_end_between_two_looks(
    harness: ProxyHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks, finds a part, and looks whether that was all: what has come in between is no end in the middle."""
    server = await harness.server(collect())
    proxy = await harness.proxy(server.address, bind=on_unix(tmp_path))
    client = await harness.dial(proxy)
    has_ended, ended = peek._has_ended, False

    def end_meanwhile(sock: socket.socket) -> bool:
        nonlocal ended
        if not ended:
            ended = True
            raw = socket.socket(fileno=client.stream.socket.fileno())
            raw.sendall(V2[-1:] + COMMAND)
            raw.shutdown(socket.SHUT_WR)
            raw.detach()
        return has_ended(sock)

    monkeypatch.setattr(peek, "_has_ended", end_meanwhile)
    await client.send(V2[:-1])
    line = await harness.session()
    client.drop()
    assert ended
    assert (line["client"], line["end"], line["bytes_in"]) == (IPV4, "client-closed", len(COMMAND))


@pytest.mark.parametrize("said", [b"", V1, V2, COMMAND])
async def test_others_are_not_trusted(harness: ProxyHarness, said: bytes) -> None:
    """Nobody else may connect, with a header or without: at once, not after the time limit."""
    server = await harness.server()
    proxy = await harness.proxy(server.address, bind=FOREIGN)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    name = local_name(client)
    with suppress(trio.BrokenResourceError):  # it may have been sent away
        await client.send(said)
    await leave(client, "stay")
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["by"], line["phase"], line["state"]) == (
        "untrusted",
        "proxy",
        "proxy-header",
        None,
    )
    assert line["client"] == name
    assert line["peer"] is None
    assert line["total_ms"] < 1000
    assert server.accepted == 0


async def test_others_in_tcplog(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server()
    log = tmp_path / "tcp.log"
    proxy = await harness.proxy(server.address, bind=FOREIGN, log={"format": "tcplog", "to": str(log)})
    client = await harness.dial(proxy)
    name = local_name(client)
    await leave(client, "stay")
    assert (await harness.wait_for_line(log, name)).endswith(
        "] f/B: Connection from an address that may not send a PROXY protocol header"
        f" ({name} is in none of the networks of accept_proxy)"
    )


@pytest.mark.parametrize("said", [b"", V1[:20], V2[:20]])
async def test_stopped_meanwhile(harness: ProxyHarness, said: bytes) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    client = await harness.dial(proxy)
    if said:
        await client.send(said)
    with trio.fail_after(TIMEOUT_S):
        while not proxy.sessions:  # noqa: ASYNC110 - a count, not an event
            await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked()
        await proxy.drain(0)
        await client.receive_until_end()
    client.drop()
    line = await harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == (
        "header-stopped",
        "admin",
        "proxy-header",
        None,
    )


async def test_stuck_headers_harm_nobody(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    before = ResourceSnapshot.now()
    stuck = [await harness.dial(proxy) for _ in range(60)]
    for number, client in enumerate(stuck):
        if said := (b"", V1[:30], V2[:13], V2_LONG[:-1])[number % 4]:
            await client.send(said)
    assert await count_steps() < FEW_STEPS * 2, "nobody spins, however many they are"
    for header in (V1, V2, V2_LONG):
        good = await harness.dial(proxy)
        await assert_served(good, header)
        await good.close()
    await harness.sessions(3)
    assert proxy.sessions == len(stuck)
    for client in stuck:
        client.drop()
    await before.wait_until_restored()
    lines = await harness.sessions(63)
    assert [line["end"] for line in lines].count("client-closed") == 3


# Where a header is no must


@pytest.mark.parametrize("mode", ["forward", "tls"])
async def test_clients_from_elsewhere_need_none_where_it_is_optional(
    harness: ProxyHarness, mode: str
) -> None:
    """The greeting comes although the client has said nothing: nobody waits to see whether a header comes."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(
        server.address, tls=mode == "tls", bind={**FOREIGN, "proxy_optional": True, "mode": mode}
    )
    client = await harness.dial(proxy, tls=mode == "tls")
    name = local_name(client)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    await client.close()
    line = await harness.session()
    assert (line["client"], line["peer"], line["end"]) == (name, None, "client-closed")


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_a_header_from_elsewhere_is_data(harness: ProxyHarness, header: bytes) -> None:
    """By the address alone: who is not trusted cannot say who he is."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, bind={**FOREIGN, "proxy_optional": True})
    client = await harness.dial(proxy)
    name = local_name(client)
    await client.send(header)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    await client.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == (name, None)
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended()
    assert bytes(server.connections[0].received) == header


async def test_the_trusted_must_send_one_where_it_is_optional(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind={**TRUSTED, "proxy_optional": True})
    client = await harness.dial(proxy)
    await client.send(COMMAND)
    await leave(client, "stay")
    assert (await harness.session())["end"] == "header-missing"
    other = await harness.dial(proxy)
    await assert_served(other, V1)
    await other.close()
    assert (await harness.sessions(2))[1]["client"] == IPV4


# Over a Unix socket


def on_unix(folder: Path, **more: Any) -> dict[str, Any]:
    return {"address": f"unix:{folder / 'p.sock'}", "accept_proxy": ["unix"], **more}


@each_version
@pytest.mark.parametrize("pause", [None, 0.001], ids=["at-once", "byte-by-byte"])
async def test_over_a_unix_socket(
    harness: ProxyHarness, tmp_path: Path, pause: float | None, header: bytes, client: str
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=on_unix(tmp_path))
    connection = await harness.dial(proxy)
    if pause is not None:
        with trio.fail_after(TIMEOUT_S):
            begin = header[:100]  # a longer one is slow for no new reason
            await connection.send_in_pieces(begin, 1, pause)
            header = header[len(begin) :]
    await assert_served(connection, header)
    await connection.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == (client, "unix:1")


@pytest.mark.parametrize("header", [KINDS["LOCAL"], b"PROXY UNKNOWN\r\n"], ids=["v2", "v1"])
async def test_local_over_a_unix_socket(harness: ProxyHarness, tmp_path: Path, header: bytes) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=on_unix(tmp_path))
    client = await harness.dial(proxy)
    await assert_served(client, header)
    await client.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == ("unix:1", None)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name in SEEN_OTHERWISE],
    ids=lambda case: case.name,
)
async def test_end_over_a_unix_socket(harness: ProxyHarness, tmp_path: Path, case: Case) -> None:
    server = await harness.server()
    changes = QUICK if case.end is end_reasons.HEADER_TIMEOUT else {}
    proxy = await harness.proxy(server.address, bind=on_unix(tmp_path), **changes)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    if case.said:
        await client.send(case.said)
    await leave(client, case.leave)
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["client"]) == (case.end.name, "unix:1")
    assert case.detail in (line["detail"] or "")
    assert server.accepted == 0


# What goes by the addresses of the header


@pytest.mark.parametrize(
    ("header", "greeting"),
    [
        (V1, b"* office\r\n"),
        (V2, b"* office\r\n"),
        (V2_6, b"* office\r\n"),
        (b"PROXY TCP6 ::ffff:198.51.100.7 ::ffff:203.0.113.9 40000 993\r\n", b"* office\r\n"),
        (v2(("192.0.2.1", 1), ("203.0.113.9", 4993)), b"* port\r\n"),
        (b"PROXY TCP4 192.0.2.1 203.0.113.9 40000 993\r\n", b"* default\r\n"),
        (KINDS["LOCAL"], b"* real\r\n"),
    ],
)
async def test_routes_go_by_the_header(harness: ProxyHarness, header: bytes, greeting: bytes) -> None:
    names = ("default", "office", "port", "real")
    servers = {name: await harness.server(collect(f"* {name}\r\n".encode())) for name in names}
    proxy = await harness.proxy(
        bind=TRUSTED,
        frontends={
            "f": {
                "backend": "default",
                "routes": [
                    {"client": ["198.51.100.0/24", "2001:db8::/32"], "backend": "office"},
                    {"port": [4993], "backend": "port"},
                    {"client": ["127.0.0.0/8"], "backend": "real"},
                ],
            }
        },
        backends={name: {"servers": [server.address]} for name, server in servers.items()},
    )
    client = await harness.dial(proxy)
    await client.send(header)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == greeting
    await client.close()
    assert (await harness.session())["backend"] == greeting[2:-2].decode()


@pytest.mark.parametrize("version", [1, 2])
async def test_a_server_without_a_port_is_asked_at_the_headers(harness: ProxyHarness, version: int) -> None:
    server = await harness.server(collect(GREETING))
    port = int(server.address.rpartition(":")[2])
    proxy = await harness.proxy("127.0.0.1", bind=TRUSTED)
    client = await harness.dial(proxy)
    await client.send(
        b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 %d\r\n" % port
        if version == 1
        else v2(("198.51.100.7", 40000), ("203.0.113.9", port))
    )
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    await client.close()
    assert (await harness.session())["server_address"] == server.address


# Cancelled


@pytest.mark.parametrize("tls", [False, True])
async def test_cancelled_at_every_step(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    mapping = harness.mapping(server.address, tls=tls, bind=TRUSTED)

    async def visit(address: str) -> None:
        async with await dial(address) as client:
            await client.send(V2[:20])
            await trio.lowlevel.checkpoint()
            await client.send(V2[20:])
            if tls:
                await client.start_tls(harness.ca.client_context())
            await client.send(COMMAND)
            await client.receive_until_end()

    await cancel_at_every_step(mapping, visit)
    assert server.accepted > 0, "some got as far as the server"
    ended = {line["end"] for line in harness.lines() if line["event"] == "session"}
    assert ended <= {"header-stopped", "handshake-stopped", "stopped-connecting", "stopped", "client-closed"}
    assert "header-stopped" in ended
