"""Routes by ClientHello: the selected server and certificate, rejections, and invalid ClientHellos."""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field

import mailproxy
from mailproxy.protocol.client_hello import ClientHello
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.testing import Collect, Connection, ScriptedServer, Send, collect, dial, greet_and_echo
from tests.support.ports import free_ports
from tests.support.protocol.client_hellos import (
    APPLICATION_DATA,
    alpn,
    browser_client_hello,
    client_hello,
    client_hello_of_size,
    message,
    numbers,
    record,
    server_name,
    split_into_records,
    split_into_records_of,
    vector,
)
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot
from tests.support.proxy.task_steps import FEW_STEPS, cancel_at_every_step, count_steps

SHORT_TIMEOUT: dict[str, Any] = {"timeouts": {"handshake": "200ms"}}
COMMAND = b"a1 NOOP\r\n"

DECODE_ERROR = b"\x15\3\3\0\2\2\x32"
ACCESS_DENIED = b"\x15\3\3\0\2\2\x31"
UNRECOGNIZED_NAME = b"\x15\3\3\0\2\2\x70"


@define
class RoutedProxy:
    """A proxy with routes whose backends are named after their greeting: ``a`` greets with ``* a``.

    Servers named ``tls-...`` speak TLS, with a certificate for ``NAME.server.example``.
    """

    harness: ProxyHarness
    servers: dict[str, ScriptedServer] = field(factory=dict)
    proxy: mailproxy.Proxy | None = None

    async def run(
        self, routes: Sequence[Mapping[str, Any]], *backends: str, mode: str = "tls", **changes: Any
    ) -> mailproxy.Proxy:
        self.proxy = await self.harness.run_proxy(await self.mapping(routes, *backends, mode=mode, **changes))
        self.harness.proxies.append(self.proxy)
        return self.proxy

    async def mapping(
        self, routes: Sequence[Mapping[str, Any]], *backends: str, mode: str = "tls", **changes: Any
    ) -> Line:
        for name in backends:
            has_tls = name.startswith("tls-")
            context = self.harness.ca.server_context(f"{name}.server.example") if has_tls else None
            self.servers[name] = await self.harness.server(greet_and_echo(greeting(name)), tls=context)
        mapping = self.harness.mapping(
            tls=mode == "tls",
            bind={"mode": mode},
            frontends={"f": {"routes": list(routes), **changes}},
            backends={name: {"servers": [server.address]} for name, server in self.servers.items()},
        )
        if mode != "tls" and any(route.get("mode") == "tls" for route in routes):
            mapping["frontends"]["f"]["tls"] = {"certificates": [str(self.harness.pem)]}
        return mapping

    @property
    def address(self) -> str:
        assert self.proxy is not None
        return self.proxy.frontends["f"].addresses[0]

    async def dial(
        self, name: str | None = None, *protocols: str, context: ssl.SSLContext | None = None
    ) -> Connection:
        """Connect a client with a handshake. The tests compare the certificate's name."""
        return await dial(self.address, tls=context or self.context(*protocols), server_name=name)

    def context(self, *protocols: str) -> ssl.SSLContext:
        context = self.harness.ca.client_context()
        context.check_hostname = False
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    @property
    def accepted(self) -> int:
        return sum(server.accepted for server in self.servers.values())


@pytest.fixture
def routed(harness: ProxyHarness) -> RoutedProxy:
    return RoutedProxy(harness)


def greeting(name: str) -> bytes:
    return f"* {name}\r\n".encode()


def certificate_name(client: Connection) -> str:
    """Return the first name of the certificate that a client got."""
    assert client.tls is not None
    certificate: Any = client.tls.getpeercert()
    return str(certificate["subjectAltName"][0][1])


async def talk_and_close(client: Connection) -> str:
    """Return the name of the server that a client is connected to, and close the client."""
    with trio.fail_after(TIMEOUT_S):
        line = await client.receive_line()
        await client.send(COMMAND)
        assert await client.receive_line() == COMMAND
    await client.close()
    return line.decode().removeprefix("* ").strip()


def openssl_client_hello(
    name: str | None, *protocols: str
) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO, bytes]:
    """Return OpenSSL's own ClientHello as a message without records, and the handshake that it belongs to."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return tls, incoming, outgoing, outgoing.read()[5:]


# Selection

ROUTES: list[Line] = [
    {"sni": ["exact.example.com", "Other.Example.COM"], "backend": "exact"},
    {"sni": ["*.example.com"], "backend": "star"},
    {"sni": False, "backend": "nameless"},
    {"alpn": ["pop3", "managesieve"], "backend": "alpn"},
    {"sni": ["both.example.net"], "alpn": ["imap"], "backend": "both"},
    {"sni": ["far.example.net"], "client": ["192.0.2.0/24"], "backend": "far"},
    {"sni": ["near.example.net"], "client": ["192.0.2.0/24", "127.0.0.0/8"], "backend": "near"},
    {"sni": ["port.example.net"], "port": [1], "backend": "far"},
]
CASES: list[tuple[str | None, tuple[str, ...], str]] = [
    ("exact.example.com", (), "exact"),
    ("EXACT.Example.com", (), "exact"),
    ("exact.example.com.", (), "exact"),
    ("other.example.com", (), "exact"),
    ("any.example.com", (), "star"),
    ("two.labels.example.com", (), "default"),
    ("example.com", (), "default"),
    ("elsewhere.example", (), "default"),
    (None, (), "nameless"),
    (None, ("pop3",), "nameless"),  # the first match
    ("elsewhere.example", ("pop3",), "alpn"),
    ("elsewhere.example", ("http/1.1", "managesieve"), "alpn"),
    ("elsewhere.example", ("imap",), "default"),
    ("both.example.net", (), "default"),
    ("both.example.net", ("imap",), "both"),
    ("far.example.net", (), "default"),
    ("near.example.net", (), "near"),
    ("port.example.net", (), "default"),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
async def test_route_selects_backend(harness: ProxyHarness, routed: RoutedProxy, mode: str) -> None:
    backends = ["exact", "star", "nameless", "alpn", "both", "far", "near", "default"]
    prefix = "tls-" if mode == "passthrough" else ""
    routes = [{**route, "backend": f"{prefix}{route['backend']}"} for route in ROUTES]
    await routed.run(routes, *(prefix + name for name in backends), mode=mode, backend=f"{prefix}default")
    before = ResourceSnapshot.now()
    for number, (requested_name, protocols, backend) in enumerate(CASES, 1):
        client = await routed.dial(requested_name, *protocols)
        expected_certificate = "localhost" if mode == "tls" else f"tls-{backend}.server.example"
        assert certificate_name(client) == expected_certificate, requested_name
        assert await talk_and_close(client) == prefix + backend, requested_name
        line = (await harness.sessions(number))[-1]
        assert line["backend"] == prefix + backend
        logged_name = (line["sni"] or "").lower().rstrip(".") or None
        assert logged_name == (requested_name and requested_name.lower().rstrip("."))
        assert (line["tls_version"] is not None) == (mode == "tls"), (
            "a passthrough session only has the server name"
        )
    await before.wait_until_restored()


async def test_route_by_name_and_port(harness: ProxyHarness, routed: RoutedProxy) -> None:
    mapping = await routed.mapping([], "one", "two", "default", backend="default")
    bind = mapping["frontends"]["f"]["bind"][0]
    ports = free_ports(2, ("127.0.0.1",))
    mapping["frontends"]["f"]["bind"] = [
        {**bind, "name": name, "address": f"127.0.0.1:{port}"} for name, port in zip("BC", ports, strict=True)
    ]
    mapping["frontends"]["f"]["routes"] = [
        {"sni": ["x.example"], "port": [ports[0]], "backend": "one"},
        {"sni": ["x.example"], "port": ports, "backend": "two"},
    ]
    proxy = await harness.run_proxy(mapping)
    for address, backend in zip(proxy.frontends["f"].addresses, ["one", "two"], strict=True):
        assert (
            await talk_and_close(await dial(address, tls=routed.context(), server_name="x.example"))
            == backend
        )
        assert (
            await talk_and_close(await dial(address, tls=routed.context(), server_name="y.example"))
            == "default"
        )


MIXED = [
    {"sni": ["terminated.example"], "mode": "tls", "backend": "terminated"},
    {"sni": ["passed.example"], "mode": "passthrough", "backend": "tls-passed"},
]


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
async def test_terminated_and_passthrough_routes_share_bind(
    harness: ProxyHarness, routed: RoutedProxy, mode: str
) -> None:
    default = "default" if mode == "tls" else "tls-default"
    await routed.run(MIXED, "terminated", "tls-passed", default, mode=mode, backend=default)
    for requested_name, backend, name in [
        ("terminated.example", "terminated", "localhost"),
        ("passed.example", "tls-passed", "tls-passed.server.example"),
        ("other.example", default, "localhost" if mode == "tls" else "tls-default.server.example"),
    ]:
        client = await routed.dial(requested_name)
        assert certificate_name(client) == name
        assert await talk_and_close(client) == backend
    terminated, passed, other = await harness.sessions(3)
    assert [line["sni"] for line in (terminated, passed, other)] == [
        "terminated.example", "passed.example", "other.example",
    ]  # fmt: skip
    assert terminated["tls_version"] == "TLSv1.3"
    assert passed["tls_version"] is None
    assert terminated["close_notify"] is True
    assert passed["close_notify"] is None


async def test_tcplog_marks_terminated_tls(
    harness: ProxyHarness, routed: RoutedProxy, tmp_path: Path
) -> None:
    log = tmp_path / "tcp.log"
    mapping = await routed.mapping(MIXED, "terminated", "tls-passed", mode="passthrough")
    mapping["log"] = {"format": "tcplog", "to": str(log)}
    routed.proxy = await harness.run_proxy(mapping)
    await talk_and_close(await routed.dial("terminated.example"))
    await talk_and_close(await routed.dial("passed.example"))
    assert " f~ terminated/" in await harness.wait_for_line(log, " terminated/")
    assert " f tls-passed/" in await harness.wait_for_line(log, " tls-passed/")


# ClientHellos in parts


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("length", ["short", "long"])
async def test_client_hello_in_small_records(
    harness: ProxyHarness, routed: RoutedProxy, mode: str, size: int, length: str
) -> None:
    """The handshake completes, whether the proxy or the server terminates TLS."""
    backend = "name" if mode == "tls" else "tls-name"
    await routed.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode)
    protocols = [f"{number:0>240}" for number in range(20)] if length == "long" else []
    tls, incoming, outgoing, sent = openssl_client_hello("n.example", *protocols)
    assert len(sent) > 5000 or length == "short"
    if size == 1 and length == "long":
        size = 3  # with 1, the record headers would exceed the limit of a ClientHello
    client = await dial(routed.address)
    await client.send(split_into_records_of(size, sent))
    with trio.fail_after(TIMEOUT_S):
        while True:
            incoming.write(await client.receive())
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await client.send(outgoing.read())
        await client.send(outgoing.read())
        text = b""
        while not text.endswith(b"\r\n"):
            try:
                text += tls.read(100)
            except ssl.SSLWantReadError:
                incoming.write(await client.receive())
    client.drop()
    assert text == greeting(backend)
    assert (await harness.session())["sni"] == "n.example"


@pytest.mark.parametrize(
    "wire",
    [
        split_into_records(browser_client_hello(b"n.example")),
        split_into_records(browser_client_hello(b"n.example"), range(0, 400, 3)),
        split_into_records_of(500, browser_client_hello(b"n.example")),
        split_into_records_of(1, client_hello(server_name(b"n.example"))),
        split_into_records(client_hello_of_size(15000, server_name(b"n.example"))),
        split_into_records(client_hello(server_name(b"N.example."))),
    ],
    ids=["browser", "tiny-records", "records", "bytes", "huge", "other-spelling"],
)
@pytest.mark.parametrize("size", [None, 700, 1], ids=["whole", "segments", "bytes"])
async def test_passthrough_keeps_all_bytes(
    harness: ProxyHarness, routed: RoutedProxy, wire: bytes, size: int | None
) -> None:
    """The server gets the ClientHello as it was sent, and the data behind it."""
    if size == 1 and len(wire) > 3000:
        size = 100
    server = await harness.server(collect())
    routed.servers["name"] = server
    await routed.run([{"sni": ["n.example"], "backend": "name"}], mode="passthrough")
    client = await dial(routed.address)
    early_data = record(b"early data", APPLICATION_DATA)
    with trio.fail_after(TIMEOUT_S):
        await client.send_in_pieces(wire + early_data, size or 100_000)
        await client.close()
        await server.wait_ended()
    assert bytes(server.connections[0].received) == wire + early_data
    line = await harness.session()
    assert (line["sni"], line["end"]) == ("n.example", "client-closed")


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
async def test_client_hello_is_freed_after_connecting(
    harness: ProxyHarness, routed: RoutedProxy, mode: str
) -> None:
    """A client chooses the length of its ClientHello, and a session may last for days."""
    await routed.run(
        [],
        "default" if mode == "tls" else "tls-default",
        mode=mode,
        backend="default" if mode == "tls" else "tls-default",
    )
    before = [obj for obj in gc.get_objects() if isinstance(obj, ClientHello | ClientInfo)]
    with trio.fail_after(TIMEOUT_S):
        client = await routed.dial("imap.example.com", *(f"x{number}" for number in range(200)))
        assert await client.receive_line()
        assert not [
            obj for obj in gc.get_objects() if isinstance(obj, ClientHello | ClientInfo) and obj not in before
        ]
        await client.close()
    assert (await harness.session())["sni"] == "imap.example.com"


async def test_server_is_connected_after_whole_client_hello(
    harness: ProxyHarness, routed: RoutedProxy
) -> None:
    routed.servers["name"] = server = await harness.server((Send(b"* hello\r\n"), Collect()))
    await routed.run([], mode="passthrough", backend="name")
    client = await dial(routed.address)
    wire = split_into_records(browser_client_hello())
    for part in (wire[:1], wire[1:6], wire[6:-1]):
        await client.send(part)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.accepted == 0
    await client.send(wire[-1:])
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"* hello\r\n"
    client.drop()


# Without peeking or certificates


async def test_forward_bind_does_not_wait_for_client_hello(
    harness: ProxyHarness, routed: RoutedProxy
) -> None:
    """The greeting comes although the client has sent nothing. Routes by name do not apply to the bind."""
    mapping = await routed.mapping(
        [{"sni": ["n.example"], "backend": "name"}, {"sni": False, "backend": "name"}],
        "name", "default", backend="default",
    )  # fmt: skip
    mapping["frontends"]["f"]["bind"].append({"address": "127.0.0.1:0", "name": "C", "mode": "forward"})
    proxy = await harness.run_proxy(mapping)
    client = await dial(proxy.frontends["f"].addresses[1])
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == greeting("default")
    await client.close()
    line = await harness.session()
    assert (line["bind"], line["sni"]) == ("C", None)


async def test_passthrough_needs_no_certificate(harness: ProxyHarness, routed: RoutedProxy) -> None:
    await routed.run([{"sni": ["n.example"], "backend": "tls-name"}], "tls-name", mode="passthrough")
    client = await routed.dial("n.example")
    assert certificate_name(client) == "tls-name.server.example"
    assert await talk_and_close(client) == "tls-name"


# Rejected


async def handshake_error(routed: RoutedProxy, name: str | None) -> str:
    """Connect a client whose handshake fails; return its TLS error."""
    client = await dial(routed.address)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.start_tls(routed.context(), name)
    client.drop()
    return client.tls_fault


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
async def test_reject_by_server_name(harness: ProxyHarness, routed: RoutedProxy, mode: str) -> None:
    default = "default" if mode == "tls" else "tls-default"
    await routed.run([{"sni": ["*.bad.example"], "reject": True}], default, mode=mode, backend=default)
    before = ResourceSnapshot.now()
    assert await handshake_error(routed, "x.bad.example") == "TLSV1_UNRECOGNIZED_NAME"
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["state"], line["by"], line["phase"]) == ("rejected", "PR", "proxy", "route")
    assert (line["sni"], line["backend"]) == ("x.bad.example", None)
    assert line["detail"] == "frontends.f.routes[0] by sni"
    assert routed.accepted == 0
    assert await talk_and_close(await routed.dial("good.example")) == default


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
@pytest.mark.parametrize("name", ["elsewhere.example", None])
async def test_no_route_and_no_default_backend(
    harness: ProxyHarness, routed: RoutedProxy, mode: str, name: str | None
) -> None:
    backend = "name" if mode == "tls" else "tls-name"
    await routed.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode)
    before = ResourceSnapshot.now()
    assert await handshake_error(routed, name) == "TLSV1_UNRECOGNIZED_NAME"
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["state"], line["sni"]) == ("no-server", "SC", name)
    assert routed.accepted == 0


async def test_alert_arrives_despite_unread_data(harness: ProxyHarness, routed: RoutedProxy) -> None:
    """Unread data would make the kernel reset the connection, and on a long path RST overtakes the alert."""
    await routed.run([{"sni": ["n.example"], "backend": "tls-name"}], "tls-name", mode="passthrough")
    client = await dial(routed.address)
    await client.send(split_into_records(client_hello_of_size(9000)) + record(bytes(10000), APPLICATION_DATA))
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == UNRECOGNIZED_NAME
    assert (await harness.session())["end"] == "no-server"
    assert client.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "no reset"
    client.drop()


async def test_reject_by_address(harness: ProxyHarness, routed: RoutedProxy) -> None:
    await routed.run([{"client": ["127.0.0.0/8"], "reject": True}], "default", backend="default")
    client = await dial(routed.address)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.start_tls(routed.context(), "n.example")
    client.drop()
    line = await harness.session()
    assert (line["end"], line["state"], line["sni"]) == ("rejected", "PR", "n.example")


async def test_reject_in_clear_text(harness: ProxyHarness, routed: RoutedProxy) -> None:
    """A client without TLS gets no alert."""
    await routed.run(
        [{"client": ["127.0.0.0/8"], "reject": True}], "default", mode="forward", backend="default"
    )
    client = await dial(routed.address)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    assert (line["end"], line["detail"]) == ("rejected", "frontends.f.routes[0] by client")


async def test_rejected_clients_in_tcplog(harness: ProxyHarness, routed: RoutedProxy, tmp_path: Path) -> None:
    log = tmp_path / "tcp.log"
    mapping = await routed.mapping([{"sni": ["bad.example"], "reject": True}], mode="passthrough")
    mapping["log"] = {"format": "tcplog", "to": str(log)}
    routed.proxy = await harness.run_proxy(mapping)
    await handshake_error(routed, "bad.example")
    assert " f f/<NOSRV> -1/-1/" in await harness.wait_for_line(log, " PR ")
    await handshake_error(routed, "other.example")
    assert " f f/<NOSRV> -1/-1/" in await harness.wait_for_line(log, " SC ")


@pytest.mark.parametrize("has_route", [False, True])
@pytest.mark.parametrize("name", ["elsewhere.example", None])
async def test_strict_sni(
    harness: ProxyHarness, routed: RoutedProxy, has_route: bool, name: str | None
) -> None:
    """The certificates decide, whether a route matched the name before or not."""
    routes = [{"sni": ["elsewhere.example", "localhost"], "backend": "name"}] if has_route else []
    mapping = await routed.mapping(routes, "name", "default", backend="default")
    mapping["frontends"]["f"]["tls"]["strict_sni"] = True
    routed.proxy = await harness.run_proxy(mapping)
    assert await handshake_error(routed, name) == "TLSV1_UNRECOGNIZED_NAME"
    line = await harness.session()
    assert line["end"] == "handshake-failed"
    assert line["detail"]
    assert await talk_and_close(await routed.dial("localhost")) == ("name" if has_route else "default")


# Invalid and incomplete ClientHellos


async def log_of_failed_client_hello(
    harness: ProxyHarness, routed: RoutedProxy, sent: bytes, ending: str, mode: str, **changes: Any
) -> tuple[Line, bytes]:
    """Send these bytes, then close, reset or stay; return the log line and the answer."""
    backend = "name" if mode == "tls" else "tls-name"
    await routed.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode, **changes)
    before = ResourceSnapshot.now()
    client = await dial(routed.address)
    if sent:
        await client.send(sent)
    if ending == "close":
        client.drop()
    elif ending == "reset":
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.reset()
    line = await harness.session()
    if ending == "stay":
        with trio.fail_after(TIMEOUT_S):
            await client.receive_until_end()
        client.drop()
    await before.wait_until_restored()
    assert routed.accepted == 0
    assert (line["phase"], line["state"]) == ("handshake", None)
    return line, bytes(client.received)


CLIENT_HELLO = split_into_records(client_hello(server_name(b"n.example")))
both_modes = pytest.mark.parametrize("mode", ["tls", "passthrough"])


@pytest.mark.parametrize(
    ("sent", "detail", "answer"),
    [
        (b"a1 LOGIN user secret-password\r\n", "does not speak TLS", b""),
        (b"\r\n\r\n\0\r\nQUIT\n", "does not speak TLS", b""),
        (record(b"\1\0", kind=21), "does not speak TLS", b""),
        (b"\x16\2\0\0\5hello", "version 2", b""),
        (b"\x16\3\1\0\0", "a record of 0 bytes", DECODE_ERROR),
        (record(message(b"", kind=2)), "no ClientHello", DECODE_ERROR),
        (split_into_records(client_hello(server_name(b"n.example")), [10])[:15] + record(b"x", kind=23), "interrupted", DECODE_ERROR),
        (split_into_records(client_hello(numbers(0, 999))), "exceeds", DECODE_ERROR),
        (split_into_records(client_hello(server_name(b"a.example", b"b.example"))), "two host names", DECODE_ERROR),
        (split_into_records(client_hello(server_name(b"caf\xe9.example"))), "ASCII", DECODE_ERROR),
        (split_into_records(client_hello(alpn(b""))), "application protocol", DECODE_ERROR),
        (split_into_records(message(vector(bytes(10), 1)))[:9], "a hello of 11 bytes", DECODE_ERROR),
        (record(b"\1\0\xff\xff" + bytes(100)), "longer than 20480", DECODE_ERROR),
    ],
)  # fmt: skip
async def test_invalid_client_hello(
    harness: ProxyHarness, routed: RoutedProxy, sent: bytes, detail: str, answer: bytes
) -> None:
    # In mode tls the same code reads the ClientHello, but the answer could come from OpenSSL.
    mode = "passthrough" if len(sent) % 2 else "tls"
    line, received = await log_of_failed_client_hello(harness, routed, sent, "stay", mode)
    assert line["end"] == "handshake-failed"
    assert detail in line["detail"]
    assert received == answer
    assert "secret-password" not in harness.log.read_text()


@both_modes
@pytest.mark.parametrize("size", [0, 50])
async def test_unfinished_client_hello_times_out(
    harness: ProxyHarness, routed: RoutedProxy, mode: str, size: int
) -> None:
    line, received = await log_of_failed_client_hello(
        harness, routed, CLIENT_HELLO[:size], "stay", mode, **SHORT_TIMEOUT
    )
    assert line["end"] == "handshake-timeout"
    assert 200 <= line["total_ms"] < 2000
    assert received == b""


@both_modes
@pytest.mark.parametrize(
    ("size", "ending", "end"),
    [
        (0, "close", "handshake-empty"),
        (1, "close", "handshake-left"),
        (50, "close", "handshake-left"),
        (0, "reset", "handshake-failed"),
        (50, "reset", "handshake-failed"),
    ],
)
async def test_client_ends_within_client_hello(
    harness: ProxyHarness, routed: RoutedProxy, *, mode: str, size: int, ending: str, end: str
) -> None:
    line, _ = await log_of_failed_client_hello(harness, routed, CLIENT_HELLO[:size], ending, mode)
    assert line["end"] == end


async def test_close_without_data_is_not_logged_by_default(
    harness: ProxyHarness, routed: RoutedProxy
) -> None:
    await routed.run([], "tls-name", mode="passthrough", backend="tls-name", log_null=False)
    for _ in range(3):
        (await dial(routed.address)).drop()
    client = await dial(routed.address)
    await client.send(b"clear text\r\n")
    assert (await harness.session())["end"] == "handshake-failed"
    client.drop()
    await harness.wait_until_idle()
    await harness.sessions(1)


@both_modes
async def test_slow_client_hello_does_not_extend_timeout(
    harness: ProxyHarness, routed: RoutedProxy, mode: str
) -> None:
    backend = "name" if mode == "tls" else "tls-name"
    await routed.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode, **SHORT_TIMEOUT)
    client = await dial(routed.address)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.send_in_pieces(
            split_into_records_of(1, client_hello(server_name(b"n.example"))), 1, 0.05
        )
    client.drop()
    line = await harness.session()
    assert line["end"] == "handshake-timeout"
    assert 200 <= line["total_ms"] < 2000
    assert routed.accepted == 0


async def test_client_hello_and_handshake_share_timeout(harness: ProxyHarness, routed: RoutedProxy) -> None:
    """After a late ClientHello, the handshake has only the rest of the timeout."""
    await routed.run(MIXED, "terminated", "tls-passed", timeouts={"handshake": "2s"})
    client = await dial(routed.address)
    wire = split_into_records(openssl_client_hello("terminated.example")[3])
    await client.send(wire[:-1])
    await trio.sleep(1.2)
    await client.send(wire[-1:])
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    assert client.received, "the client got the server's part of the handshake"
    client.drop()
    line = await harness.session()
    assert line["end"] == "handshake-timeout"
    assert 2000 <= line["total_ms"] < 1200 + 2000


@both_modes
async def test_stuck_client_hellos_do_not_delay_others(
    harness: ProxyHarness, routed: RoutedProxy, mode: str
) -> None:
    backend = "name" if mode == "tls" else "tls-name"
    await routed.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode)
    before = ResourceSnapshot.now()
    stuck = [await dial(routed.address) for _ in range(40)]
    large_client_hello = split_into_records(client_hello_of_size(9000))
    for number, client in enumerate(stuck):
        if sent := (
            b"",
            CLIENT_HELLO[:1],
            CLIENT_HELLO[:-1],
            large_client_hello[:-1],
            large_client_hello[:3000],
        )[number % 5]:
            await client.send(sent)
    assert await count_steps() < FEW_STEPS
    assert await talk_and_close(await routed.dial("n.example")) == backend
    for client in stuck:
        client.drop()
    await before.wait_until_restored()
    assert len([line for line in await harness.sessions(41) if line["end"] == "client-closed"]) == 1


@both_modes
async def test_stop_during_client_hello(harness: ProxyHarness, routed: RoutedProxy, mode: str) -> None:
    backend = "name" if mode == "tls" else "tls-name"
    proxy = await routed.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode)
    client = await dial(routed.address)
    await client.send(CLIENT_HELLO[:30])
    with trio.fail_after(TIMEOUT_S):
        while not proxy.sessions:  # noqa: ASYNC110 - a count, not an event
            await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked()
        await proxy.drain(0)
    client.drop()
    assert (await harness.session())["end"] == "handshake-stopped"


@pytest.mark.parametrize("name", ["terminated.example", "passed.example", "elsewhere.example"])
async def test_cancelled_at_every_step(harness: ProxyHarness, routed: RoutedProxy, name: str) -> None:
    mapping = await routed.mapping(MIXED, "terminated", "tls-passed")
    context = routed.context()

    async def run_client(address: str) -> None:
        async with await dial(address) as client:
            await client.start_tls(context, name)
            await client.receive_until_end()

    await cancel_at_every_step(mapping, run_client, stride=3)
    logged = {line["end"] for line in harness.lines() if line["event"] == "session"}
    assert logged <= {"handshake-stopped", "stopped-connecting", "stopped", "no-server", "handshake-left"}
    assert ({"no-server"} if name == "elsewhere.example" else {"stopped"}) <= logged
