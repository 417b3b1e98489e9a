"""PROXY headers received from a proxy in front: addresses, data behind the header, and failures."""

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
UNTRUSTED: dict[str, Any] = {"accept_proxy": ["192.0.2.0/24", "2001:db8::/32"]}
SHORT_TIMEOUT: dict[str, Any] = {"frontends": {"f": {"timeouts": {"proxy_header": "200ms"}}}}
# For headers that come byte by byte. On a busy machine, 9,000 bytes take longer than the default of 3 s.
LONG_TIMEOUT: dict[str, Any] = {"frontends": {"f": {"timeouts": {"proxy_header": "1h"}}}}


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
HEADERS = {"v1": (V1, IPV4), "v1-ipv6": (V1_6, IPV6), "v2": (V2, IPV4), "v2-ipv6": (V2_6, IPV6), "v2-long": (V2_LONG, IPV4)}  # fmt: skip
HEADER_OF_VERSION = {"v1": HEADERS["v1-ipv6"], "v2": HEADERS["v2-long"]}
each_version = pytest.mark.parametrize(
    ("header", "client"), HEADER_OF_VERSION.values(), ids=HEADER_OF_VERSION
)
each_header = pytest.mark.parametrize(("header", "client"), HEADERS.values(), ids=HEADERS)


def local_name(connection: Connection) -> str:
    host, port = connection.stream.socket.getsockname()
    return f"{host}:{port}"


async def assert_served(client: Connection, header: bytes = b"") -> None:
    with trio.fail_after(TIMEOUT_S):
        await client.send(header + COMMAND)
        assert await client.receive_line() == GREETING
        assert await client.receive_line() == COMMAND


# Addresses


@each_header
async def test_header_sets_client_address(harness: ProxyHarness, header: bytes, client: str) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    connection = await harness.dial(proxy)
    peer = local_name(connection)
    await assert_served(connection, header)
    await connection.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == (client, peer)
    assert (line["end"], line["state"]) == ("client-closed", "--")
    assert line["bytes_in"] == len(COMMAND), "the header is not proxied"


@pytest.mark.parametrize("version", [1, 2])
async def test_mapped_ipv4_address_is_logged_as_ipv4(harness: ProxyHarness, version: int) -> None:
    """Proxies with a bind for both families send such addresses."""
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
async def test_local_and_unknown_keep_connection_address(harness: ProxyHarness, header: bytes) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    client = await harness.dial(proxy)
    name = local_name(client)
    await assert_served(client, header)
    await client.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == (name, None)


@each_version
@pytest.mark.parametrize("log_format", ["tcplog", "text"])
async def test_client_address_in_text_logs(
    harness: ProxyHarness, tmp_path: Path, log_format: str, header: bytes, client: str
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    log = tmp_path / "other.log"
    proxy = await harness.proxy(server.address, bind=TRUSTED, log={"format": log_format, "to": str(log)})
    connection = await harness.dial(proxy)
    peer = local_name(connection)
    await assert_served(connection, header)
    await connection.close()
    if log_format == "text":
        assert f"{client} by {peer} client-closed" in await harness.wait_for_line(log, "client-closed")
    else:  # HAProxy has no brackets
        line = await harness.wait_for_line(log, " -- ")
        assert line.startswith(client.replace("[", "").replace("]", "") + " [")


async def test_health_check_of_other_proxy_is_not_logged(harness: ProxyHarness) -> None:
    """HAProxy sends LOCAL and closes. The check gets the greeting, and by default the session is not logged."""
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


# Bytes behind the header


@each_header
async def test_header_byte_by_byte(harness: ProxyHarness, header: bytes, client: str) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED, **LONG_TIMEOUT)
    connection = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await connection.send_in_pieces(header + COMMAND)
        assert await connection.receive_line() == GREETING
        assert await connection.receive_line() == COMMAND
    await connection.close()
    assert (await harness.session())["client"] == client


@pytest.mark.parametrize("header", [V1_6, FULL], ids=["v1", "v2"])
async def test_header_in_two_segments(harness: ProxyHarness, header: bytes) -> None:
    """The proxy sees each part alone. It waits after the first and connects the server after the second."""
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    cuts = range(1, len(header), 2)
    for sessions_before, cut in enumerate(cuts):
        client = await harness.dial(proxy)
        await client.send(header[:cut])
        await trio.testing.wait_all_tasks_blocked()
        assert server.accepted == sessions_before
        await assert_served(client, header[cut:])
        await client.close()
    assert {line["end"] for line in await harness.sessions(len(cuts))} == {"client-closed"}


@each_version
async def test_data_behind_header_reaches_server(harness: ProxyHarness, header: bytes, client: str) -> None:
    server = await harness.server(collect())
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    connection = await harness.dial(proxy)
    data = header + COMMAND + bytes(range(256)) * 100  # a second header is data
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
async def test_tls_behind_header(
    harness: ProxyHarness, mode: str, size: int | None, header: bytes, client: str
) -> None:
    is_passthrough = mode == "passthrough"
    server = await harness.server(
        greet_and_echo(GREETING), tls=harness.ca.server_context("localhost") if is_passthrough else None
    )
    proxy = await harness.proxy(
        server.address, tls=not is_passthrough, bind={**TRUSTED, "mode": mode}, **LONG_TIMEOUT
    )
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


async def test_server_is_connected_after_whole_header(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    client = await harness.dial(proxy)
    for part in (V2[:1], V2[1:16], V2[16:-1]):
        await client.send(part)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (server.accepted, proxy.sessions) == (0, 1)
    await assert_served(client, V2[-1:])
    client.drop()


# Failures


@frozen
class Case:
    """What a client sends, how it ends its connection, and the expected end reason."""

    name: str
    sent: bytes
    ending: str
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
    Case("a command that begins like v1", b"PROX LOGIN user secret-password\r\n", "stay", end_reasons.HEADER_MISSING),
    Case("a ClientHello", split_into_records(browser_client_hello()), "stay", end_reasons.HEADER_MISSING),
    Case("an empty line", b"\r\n\r\nQUIT\r\n\r\n\r\n", "stay", end_reasons.HEADER_MISSING),
    Case("v1 without end", b"PROXY TCP4 " + b"1" * 200, "stay", end_reasons.HEADER_INVALID, "longer than 107"),
    Case("v1 with a bare LF", V1.replace(b"\r\n", b"\n"), "stay", end_reasons.HEADER_INVALID),
    Case("v1 with a bad address", V1.replace(b"198", b"0198"), "stay", end_reasons.HEADER_INVALID, "not an IPv4"),
    Case("v1 with a bad port", V1.replace(b"993", b"65536"), "close", end_reasons.HEADER_INVALID, "65535"),
    Case("version 3", binary(first=0x31), "stay", end_reasons.HEADER_MISSING, "version 3"),
    Case("command 2", binary(first=0x22), "stay", end_reasons.HEADER_INVALID, "command 2"),
    Case("too long", binary(length=0xFFFF), "stay", end_reasons.HEADER_INVALID, "16384 are read"),
    Case("a bad checksum", FULL[:-1] + b"\0", "stay", end_reasons.HEADER_INVALID, "checksum"),
    Case("UDP", KINDS["UDP4"], "stay", end_reasons.HEADER_UNHANDLED, "0x12"),
    Case("Unix socket", KINDS["UNIX stream"], "stay", end_reasons.HEADER_UNHANDLED, "0x31"),
    Case("unspecified", KINDS["UNSPEC"], "stay", end_reasons.HEADER_UNHANDLED, "0x00"),
    Case("nothing, waits", b"", "stay", end_reasons.HEADER_TIMEOUT),
    Case("a part of v1, waits", V1[:-1], "stay", end_reasons.HEADER_TIMEOUT),
    Case("a part of v2, waits", V2[:-1], "stay", end_reasons.HEADER_TIMEOUT),
]  # fmt: skip


# The cases that differ on a Unix socket: it has no low-water mark (SO_RCVLOWAT) and no resets.
UNIX_SOCKET_CASES = {
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


async def end_connection(client: Connection, ending: str) -> None:
    """End a connection in this way, or stay until the proxy closes it."""
    with trio.fail_after(TIMEOUT_S):
        if ending == "half-close":
            await client.half_close()
        if ending in ("half-close", "stay"):
            await client.receive_until_end()
    if ending == "reset":
        client.reset()
    else:
        client.drop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_failed_header_end_reasons(harness: ProxyHarness, case: Case) -> None:
    server = await harness.server()
    changes = SHORT_TIMEOUT if case.end is end_reasons.HEADER_TIMEOUT else {}
    proxy = await harness.proxy(server.address, bind=TRUSTED, **changes)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    peer = local_name(client)
    if case.sent:
        await client.send(case.sent)
    if case.ending == "reset":
        await trio.testing.wait_all_tasks_blocked(0.01)  # until the proxy has peeked at the data
    await end_connection(client, case.ending)
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["phase"], line["state"]) == (case.end.name, "proxy-header", None)
    assert case.detail in (line["detail"] or "")
    assert line["client"] == peer
    assert client.received == b""
    assert server.accepted == 0
    assert "secret-password" not in harness.log.read_text()


async def test_failed_header_messages_match_haproxy(harness: ProxyHarness, tmp_path: Path) -> None:
    """The log lines have HAProxy's form and sentences."""
    server = await harness.server()
    log = tmp_path / "tcp.log"
    proxy = await harness.proxy(
        server.address, bind=TRUSTED, log={"format": "tcplog", "to": str(log)}, **SHORT_TIMEOUT
    )
    case_of_each_end = list({case.end: case for case in CASES}.values())  # one case for each end reason
    for case in case_of_each_end:
        client = await harness.dial(proxy)
        peer = local_name(client)
        if case.sent:
            await client.send(case.sent)
        if case.ending == "reset":
            await trio.testing.wait_all_tasks_blocked(0.01)
        await end_connection(client, case.ending)
        line = await harness.wait_for_line(log, f"{peer} ")
        date = r"\[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d\.\d{3}\]"
        assert re.fullmatch(rf"{re.escape(peer)} {date} f/B: {re.escape(case.end.state)}( \(.+\))?", line), (
            case.name
        )
    assert {case.end.state for case in case_of_each_end} >= {
        "Connection closed while waiting for PROXY protocol header",
        "Truncated PROXY protocol header received",
        "Connection error while waiting for PROXY protocol header",
        "Timeout while waiting for PROXY protocol header",
        "Received something which does not look like a PROXY protocol header",
        "Received an invalid PROXY protocol header",
        "Received an unhandled protocol in the PROXY protocol header",
    }


async def test_close_without_data_is_not_logged_by_default(harness: ProxyHarness) -> None:
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
@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_slow_header_does_not_extend_timeout(
    harness: ProxyHarness, tmp_path: Path, family: str, header: bytes
) -> None:
    server = await harness.server()
    bind = TRUSTED if family == "tcp" else unix_bind(tmp_path)
    proxy = await harness.proxy(server.address, bind=bind, **SHORT_TIMEOUT)
    client = await harness.dial(proxy)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.send_in_pieces(header[:-1], 1, 0.05)
    client.drop()
    line = await harness.session()
    assert line["end"] == "header-timeout"
    assert 200 <= line["total_ms"] < 2000
    assert server.accepted == 0


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_partial_header_does_not_spin(harness: ProxyHarness, tmp_path: Path, family: str) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, bind=TRUSTED if family == "tcp" else unix_bind(tmp_path))
    clients = []
    for part in (V1[:-1], V2[:5], V2_LONG[:-1]):
        clients.append(await harness.dial(proxy))
        await clients[-1].send(part)
    max_steps = FEW_STEPS if family == "tcp" else 3 * FEW_STEPS  # Unix sockets are polled at intervals
    assert await count_steps() < max_steps
    for client in clients:
        client.drop()
    assert {line["end"] for line in await harness.sessions(3)} == {"header-truncated"}


async def test_rest_and_fin_between_two_peeks(
    harness: ProxyHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peek finds a part, then tests for EOF. Data and FIN may arrive between both steps."""
    server = await harness.server(collect())
    proxy = await harness.proxy(server.address, bind=unix_bind(tmp_path))
    client = await harness.dial(proxy)
    original_has_ended, is_completed = peek._has_ended, False

    def complete_header_and_close(sock: socket.socket) -> bool:
        nonlocal is_completed
        if not is_completed:
            is_completed = True
            sock_of_client = socket.socket(fileno=client.stream.socket.fileno())
            sock_of_client.sendall(V2[-1:] + COMMAND)
            sock_of_client.shutdown(socket.SHUT_WR)
            sock_of_client.detach()
        return original_has_ended(sock)

    monkeypatch.setattr(peek, "_has_ended", complete_header_and_close)
    await client.send(V2[:-1])
    line = await harness.session()
    client.drop()
    assert is_completed
    assert (line["client"], line["end"], line["bytes_in"]) == (IPV4, "client-closed", len(COMMAND))


@pytest.mark.parametrize("sent", [b"", V1, V2, COMMAND])
async def test_untrusted_address_is_rejected(harness: ProxyHarness, sent: bytes) -> None:
    """Other addresses are rejected at once, with or without a header, not after the timeout."""
    server = await harness.server()
    proxy = await harness.proxy(server.address, bind=UNTRUSTED)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    name = local_name(client)
    with suppress(trio.BrokenResourceError):  # the proxy may have closed already
        await client.send(sent)
    await end_connection(client, "stay")
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
    assert line["total_ms"] < 3000
    assert server.accepted == 0


async def test_untrusted_address_in_tcplog(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server()
    log = tmp_path / "tcp.log"
    proxy = await harness.proxy(server.address, bind=UNTRUSTED, log={"format": "tcplog", "to": str(log)})
    client = await harness.dial(proxy)
    name = local_name(client)
    await end_connection(client, "stay")
    assert (await harness.wait_for_line(log, name)).endswith(
        "] f/B: Connection from an address that may not send a PROXY protocol header"
        f" ({name} is in none of the networks of accept_proxy)"
    )


@pytest.mark.parametrize("sent", [b"", V1[:20], V2[:20]])
async def test_stop_during_header(harness: ProxyHarness, sent: bytes) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    client = await harness.dial(proxy)
    if sent:
        await client.send(sent)
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


async def test_stuck_headers_do_not_delay_others(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED)
    before = ResourceSnapshot.now()
    stuck = [await harness.dial(proxy) for _ in range(60)]
    for number, client in enumerate(stuck):
        if sent := (b"", V1[:30], V2[:13], V2_LONG[:-1])[number % 4]:
            await client.send(sent)
    assert await count_steps() < FEW_STEPS * 2, "60 stuck sessions do not spin"
    for header in (V1, V2, V2_LONG):
        working = await harness.dial(proxy)
        await assert_served(working, header)
        await working.close()
    await harness.sessions(3)
    assert proxy.sessions == len(stuck)
    for client in stuck:
        client.drop()
    await before.wait_until_restored()
    lines = await harness.sessions(63)
    assert [line["end"] for line in lines].count("client-closed") == 3


# Optional headers


@pytest.mark.parametrize("mode", ["forward", "tls"])
async def test_optional_header_from_untrusted_address_is_not_awaited(
    harness: ProxyHarness, mode: str
) -> None:
    """The greeting comes although the client has sent nothing: the session does not wait for a header."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(
        server.address, tls=mode == "tls", bind={**UNTRUSTED, "proxy_optional": True, "mode": mode}
    )
    client = await harness.dial(proxy, tls=mode == "tls")
    name = local_name(client)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    await client.close()
    line = await harness.session()
    assert (line["client"], line["peer"], line["end"]) == (name, None, "client-closed")


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_optional_header_from_untrusted_address_is_data(harness: ProxyHarness, header: bytes) -> None:
    """The decision depends on the address alone. An untrusted client cannot claim another address."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, bind={**UNTRUSTED, "proxy_optional": True})
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


async def test_optional_header_is_required_from_trusted_address(harness: ProxyHarness) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind={**TRUSTED, "proxy_optional": True})
    client = await harness.dial(proxy)
    await client.send(COMMAND)
    await end_connection(client, "stay")
    assert (await harness.session())["end"] == "header-missing"
    other = await harness.dial(proxy)
    await assert_served(other, V1)
    await other.close()
    assert (await harness.sessions(2))[1]["client"] == IPV4


# Over a Unix socket


def unix_bind(folder: Path, **options: Any) -> dict[str, Any]:
    return {"address": f"unix:{folder / 'p.sock'}", "accept_proxy": ["unix"], **options}


@each_version
@pytest.mark.parametrize("pause", [None, 0.001], ids=["at-once", "byte-by-byte"])
async def test_header_over_unix_socket(
    harness: ProxyHarness, tmp_path: Path, pause: float | None, header: bytes, client: str
) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=unix_bind(tmp_path))
    connection = await harness.dial(proxy)
    if pause is not None:
        with trio.fail_after(TIMEOUT_S):
            first_bytes = header[:100]  # a longer part only makes the test slower
            await connection.send_in_pieces(first_bytes, 1, pause)
            header = header[len(first_bytes) :]
    await assert_served(connection, header)
    await connection.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == (client, "unix:1")


@pytest.mark.parametrize("header", [KINDS["LOCAL"], b"PROXY UNKNOWN\r\n"], ids=["v2", "v1"])
async def test_local_header_over_unix_socket(harness: ProxyHarness, tmp_path: Path, header: bytes) -> None:
    server = await harness.server(greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=unix_bind(tmp_path))
    client = await harness.dial(proxy)
    await assert_served(client, header)
    await client.close()
    line = await harness.session()
    assert (line["client"], line["peer"]) == ("unix:1", None)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name in UNIX_SOCKET_CASES],
    ids=lambda case: case.name,
)
async def test_failed_header_over_unix_socket(harness: ProxyHarness, tmp_path: Path, case: Case) -> None:
    server = await harness.server()
    changes = SHORT_TIMEOUT if case.end is end_reasons.HEADER_TIMEOUT else {}
    proxy = await harness.proxy(server.address, bind=unix_bind(tmp_path), **changes)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    if case.sent:
        await client.send(case.sent)
    await end_connection(client, case.ending)
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["client"]) == (case.end.name, "unix:1")
    assert case.detail in (line["detail"] or "")
    assert server.accepted == 0


# Use of the header's addresses


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
async def test_routes_use_header_addresses(harness: ProxyHarness, header: bytes, greeting: bytes) -> None:
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
async def test_server_without_port_gets_port_of_header(harness: ProxyHarness, version: int) -> None:
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


# Cancellation


@pytest.mark.parametrize("tls", [False, True])
async def test_cancelled_at_every_step(harness: ProxyHarness, tls: bool) -> None:
    server = await harness.server((Send(GREETING), Collect()))
    mapping = harness.mapping(server.address, tls=tls, bind=TRUSTED)

    async def run_client(address: str) -> None:
        async with await dial(address) as client:
            await client.send(V2[:20])
            await trio.lowlevel.checkpoint()
            await client.send(V2[20:])
            if tls:
                await client.start_tls(harness.ca.client_context())
            await client.send(COMMAND)
            await client.receive_until_end()

    await cancel_at_every_step(mapping, run_client)
    assert server.accepted > 0, "some runs reach the server"
    end_reasons_logged = {line["end"] for line in harness.lines() if line["event"] == "session"}
    assert end_reasons_logged <= {
        "header-stopped",
        "handshake-stopped",
        "handshake-left",  # the client is cancelled along with the proxy, and may be the first to end
        "stopped-connecting",
        "stopped",
        "client-closed",
    }
    assert "header-stopped" in end_reasons_logged
