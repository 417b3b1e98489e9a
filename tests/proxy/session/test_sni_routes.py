"""Routes by what a ClientHello says: who comes to which server, with whose certificate, and how the others end."""

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

QUICK: dict[str, Any] = {"timeouts": {"handshake": "200ms"}}
COMMAND = b"a1 NOOP\r\n"

DECODE_ERROR = b"\x15\3\3\0\2\2\x32"
ACCESS_DENIED = b"\x15\3\3\0\2\2\x31"
UNRECOGNIZED_NAME = b"\x15\3\3\0\2\2\x70"


@define
class Names:
    """A proxy whose backends are called after what their servers say: ``a`` greets with ``* a``.

    Those called ``tls-...`` speak TLS themselves, with a certificate for ``NAME.server.example``.
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
            ours = name.startswith("tls-")
            context = self.harness.ca.server_context(f"{name}.server.example") if ours else None
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
        """With a handshake; the certificate's name is not verified but looked at by the test."""
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
def names(harness: ProxyHarness) -> Names:
    return Names(harness)


def greeting(name: str) -> bytes:
    return f"* {name}\r\n".encode()


def certified(client: Connection) -> str:
    """The first name of the certificate that a client got."""
    assert client.tls is not None
    shown: Any = client.tls.getpeercert()
    return str(shown["subjectAltName"][0][1])


async def heard(client: Connection) -> str:
    """The server that a client is talking to; it has left afterwards."""
    with trio.fail_after(TIMEOUT_S):
        line = await client.receive_line()
        await client.send(COMMAND)
        assert await client.receive_line() == COMMAND
    await client.close()
    return line.decode().removeprefix("* ").strip()


def real_hello(
    name: str | None, *protocols: str
) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO, bytes]:
    """OpenSSL's own ClientHello as a message without records, and the handshake that it belongs to."""
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


# Who comes where

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
    (None, ("pop3",), "nameless"),  # the first that fits
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
async def test_each_route(harness: ProxyHarness, names: Names, mode: str) -> None:
    backends = ["exact", "star", "nameless", "alpn", "both", "far", "near", "default"]
    prefix = "tls-" if mode == "passthrough" else ""
    routes = [{**route, "backend": f"{prefix}{route['backend']}"} for route in ROUTES]
    await names.run(routes, *(prefix + name for name in backends), mode=mode, backend=f"{prefix}default")
    before = ResourceSnapshot.now()
    for number, (asked, protocols, backend) in enumerate(CASES, 1):
        client = await names.dial(asked, *protocols)
        served_by = "localhost" if mode == "tls" else f"tls-{backend}.server.example"
        assert certified(client) == served_by, asked
        assert await heard(client) == prefix + backend, asked
        line = (await harness.sessions(number))[-1]
        assert line["backend"] == prefix + backend
        known = (line["sni"] or "").lower().rstrip(".") or None
        assert known == (asked and asked.lower().rstrip("."))
        assert (line["tls_version"] is not None) == (mode == "tls"), (
            "of a TLS that passes only the name is known"
        )
    await before.wait_until_restored()


async def test_the_port_that_was_connected_to(harness: ProxyHarness, names: Names) -> None:
    mapping = await names.mapping([], "one", "two", "default", backend="default")
    bind = mapping["frontends"]["f"]["bind"][0]
    mapping["frontends"]["f"]["bind"] = [bind, {**bind, "name": "C"}]
    probe = await harness.run_proxy(mapping)
    ports = [int(address.rpartition(":")[2]) for address in probe.frontends["f"].addresses]
    await probe.drain(0)
    for place, port in zip(mapping["frontends"]["f"]["bind"], ports, strict=True):
        place["address"] = f"127.0.0.1:{port}"
    mapping["frontends"]["f"]["routes"] = [
        {"sni": ["x.example"], "port": [ports[0]], "backend": "one"},
        {"sni": ["x.example"], "port": ports, "backend": "two"},
    ]
    proxy = await harness.run_proxy(mapping)
    for address, backend in zip(proxy.frontends["f"].addresses, ["one", "two"], strict=True):
        assert await heard(await dial(address, tls=names.context(), server_name="x.example")) == backend
        assert await heard(await dial(address, tls=names.context(), server_name="y.example")) == "default"


MIXED = [
    {"sni": ["here.example"], "mode": "tls", "backend": "here"},
    {"sni": ["through.example"], "mode": "passthrough", "backend": "tls-through"},
]


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
async def test_ended_and_passed_at_one_bind(harness: ProxyHarness, names: Names, mode: str) -> None:
    default = "default" if mode == "tls" else "tls-default"
    await names.run(MIXED, "here", "tls-through", default, mode=mode, backend=default)
    for asked, backend, name in [
        ("here.example", "here", "localhost"),
        ("through.example", "tls-through", "tls-through.server.example"),
        ("other.example", default, "localhost" if mode == "tls" else "tls-default.server.example"),
    ]:
        client = await names.dial(asked)
        assert certified(client) == name
        assert await heard(client) == backend
    here, through, other = await harness.sessions(3)
    assert [line["sni"] for line in (here, through, other)] == [
        "here.example", "through.example", "other.example",
    ]  # fmt: skip
    assert here["tls_version"] == "TLSv1.3"
    assert through["tls_version"] is None
    assert here["close_notify"] is True
    assert through["close_notify"] is None


async def test_a_tilde_where_tls_ended(harness: ProxyHarness, names: Names, tmp_path: Path) -> None:
    log = tmp_path / "tcp.log"
    mapping = await names.mapping(MIXED, "here", "tls-through", mode="passthrough")
    mapping["log"] = {"format": "tcplog", "to": str(log)}
    names.proxy = await harness.run_proxy(mapping)
    await heard(await names.dial("here.example"))
    await heard(await names.dial("through.example"))
    assert " f~ here/" in await harness.wait_for_line(log, " here/")
    assert " f tls-through/" in await harness.wait_for_line(log, " tls-through/")


# Hellos in pieces


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("length", ["short", "long"])
async def test_hello_in_small_records(
    harness: ProxyHarness, names: Names, mode: str, size: int, length: str
) -> None:
    """A handshake goes on, whoever ends it."""
    backend = "name" if mode == "tls" else "tls-name"
    await names.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode)
    many = [f"{number:0>240}" for number in range(20)] if length == "long" else []
    tls, incoming, outgoing, said = real_hello("n.example", *many)
    assert len(said) > 5000 or length == "short"
    if size == 1 and length == "long":
        size = 3  # more heads than a hello may take
    client = await dial(names.address)
    await client.send(split_into_records_of(size, said))
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
    ids=["browser", "tiny-records", "records", "bytes", "huge", "other-writing"],
)
@pytest.mark.parametrize("size", [None, 700, 1], ids=["whole", "segments", "bytes"])
async def test_every_byte_passes(harness: ProxyHarness, names: Names, wire: bytes, size: int | None) -> None:
    """The server gets the hello as it was sent, and what came right behind it."""
    if size == 1 and len(wire) > 3000:
        size = 100
    server = await harness.server(collect())
    names.servers["name"] = server
    await names.run([{"sni": ["n.example"], "backend": "name"}], mode="passthrough")
    client = await dial(names.address)
    behind = record(b"early data", APPLICATION_DATA)
    with trio.fail_after(TIMEOUT_S):
        await client.send_in_pieces(wire + behind, size or 100_000)
        await client.close()
        await server.wait_ended()
    assert bytes(server.connections[0].received) == wire + behind
    line = await harness.session()
    assert (line["sni"], line["end"]) == ("n.example", "client-closed")


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
async def test_what_only_the_beginning_needs_is_let_go_of(
    harness: ProxyHarness, names: Names, mode: str
) -> None:
    """A stranger decides how long his hello is, and a session may live for days."""
    await names.run(
        [],
        "default" if mode == "tls" else "tls-default",
        mode=mode,
        backend="default" if mode == "tls" else "tls-default",
    )
    before = [each for each in gc.get_objects() if isinstance(each, ClientHello | ClientInfo)]
    with trio.fail_after(TIMEOUT_S):
        client = await names.dial("imap.example.com", *(f"x{number}" for number in range(200)))
        assert await client.receive_line()
        assert not [
            each
            for each in gc.get_objects()
            if isinstance(each, ClientHello | ClientInfo) and each not in before
        ]
        await client.close()
    assert (await harness.session())["sni"] == "imap.example.com"


async def test_the_server_is_connected_only_behind_the_hello(harness: ProxyHarness, names: Names) -> None:
    names.servers["name"] = server = await harness.server((Send(b"* hello\r\n"), Collect()))
    await names.run([], mode="passthrough", backend="name")
    client = await dial(names.address)
    wire = split_into_records(browser_client_hello())
    for piece in (wire[:1], wire[1:6], wire[6:-1]):
        await client.send(piece)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.accepted == 0
    await client.send(wire[-1:])
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"* hello\r\n"
    client.drop()


# Binds that wait for nothing


async def test_a_forward_bind_beside_names_does_not_wait(harness: ProxyHarness, names: Names) -> None:
    """The greeting comes although the client has said nothing; routes by name are none for it."""
    mapping = await names.mapping(
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


async def test_passing_needs_no_certificate(harness: ProxyHarness, names: Names) -> None:
    await names.run([{"sni": ["n.example"], "backend": "tls-name"}], "tls-name", mode="passthrough")
    client = await names.dial("n.example")
    assert certified(client) == "tls-name.server.example"
    assert await heard(client) == "tls-name"


# Refused


async def refusal(names: Names, name: str | None) -> str:
    """What a client says of the handshake that it did not get."""
    client = await dial(names.address)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.start_tls(names.context(), name)
    client.drop()
    return client.tls_fault


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
async def test_rejected_by_name(harness: ProxyHarness, names: Names, mode: str) -> None:
    default = "default" if mode == "tls" else "tls-default"
    await names.run([{"sni": ["*.bad.example"], "reject": True}], default, mode=mode, backend=default)
    before = ResourceSnapshot.now()
    assert await refusal(names, "x.bad.example") == "TLSV1_UNRECOGNIZED_NAME"
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["state"], line["by"], line["phase"]) == ("rejected", "PR", "proxy", "route")
    assert (line["sni"], line["backend"]) == ("x.bad.example", None)
    assert line["detail"] == "frontends.f.routes[0] by sni"
    assert names.accepted == 0
    assert await heard(await names.dial("good.example")) == default


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
@pytest.mark.parametrize("name", ["elsewhere.example", None])
async def test_no_route_and_no_backend(
    harness: ProxyHarness, names: Names, mode: str, name: str | None
) -> None:
    backend = "name" if mode == "tls" else "tls-name"
    await names.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode)
    before = ResourceSnapshot.now()
    assert await refusal(names, name) == "TLSV1_UNRECOGNIZED_NAME"
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["state"], line["sni"]) == ("no-server", "SC", name)
    assert names.accepted == 0


async def test_the_alert_arrives_whatever_was_sent(harness: ProxyHarness, names: Names) -> None:
    """What was not read would make the kernel reset the connection, and on a long way that overtakes the alert."""
    await names.run([{"sni": ["n.example"], "backend": "tls-name"}], "tls-name", mode="passthrough")
    client = await dial(names.address)
    await client.send(split_into_records(client_hello_of_size(9000)) + record(bytes(10000), APPLICATION_DATA))
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == UNRECOGNIZED_NAME
    assert (await harness.session())["end"] == "no-server"
    assert client.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "no reset"
    client.drop()


async def test_rejected_by_address(harness: ProxyHarness, names: Names) -> None:
    await names.run([{"client": ["127.0.0.0/8"], "reject": True}], "default", backend="default")
    client = await dial(names.address)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.start_tls(names.context(), "n.example")
    client.drop()
    line = await harness.session()
    assert (line["end"], line["state"], line["sni"]) == ("rejected", "PR", "n.example")


async def test_rejected_in_clear_text(harness: ProxyHarness, names: Names) -> None:
    """No TLS, no alert."""
    await names.run(
        [{"client": ["127.0.0.0/8"], "reject": True}], "default", mode="forward", backend="default"
    )
    client = await dial(names.address)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    assert (line["end"], line["detail"]) == ("rejected", "frontends.f.routes[0] by client")


async def test_refused_in_tcplog(harness: ProxyHarness, names: Names, tmp_path: Path) -> None:
    log = tmp_path / "tcp.log"
    mapping = await names.mapping([{"sni": ["bad.example"], "reject": True}], mode="passthrough")
    mapping["log"] = {"format": "tcplog", "to": str(log)}
    names.proxy = await harness.run_proxy(mapping)
    await refusal(names, "bad.example")
    assert " f f/<NOSRV> -1/-1/" in await harness.wait_for_line(log, " PR ")
    await refusal(names, "other.example")
    assert " f f/<NOSRV> -1/-1/" in await harness.wait_for_line(log, " SC ")


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("name", ["elsewhere.example", None])
async def test_strict_sni(harness: ProxyHarness, names: Names, routed: bool, name: str | None) -> None:
    """The certificates have the say, whether a route has looked at the name before or not."""
    routes = [{"sni": ["elsewhere.example", "localhost"], "backend": "name"}] if routed else []
    mapping = await names.mapping(routes, "name", "default", backend="default")
    mapping["frontends"]["f"]["tls"]["strict_sni"] = True
    names.proxy = await harness.run_proxy(mapping)
    assert await refusal(names, name) == "TLSV1_UNRECOGNIZED_NAME"
    line = await harness.session()
    assert line["end"] == "handshake-failed"
    assert line["detail"]
    assert await heard(await names.dial("localhost")) == ("name" if routed else "default")


# Hellos that are none


async def hello_line(
    harness: ProxyHarness, names: Names, said: bytes, leave: str, mode: str, **changes: Any
) -> tuple[Line, bytes]:
    """The line of a client that says this and leaves in this way or stays, and what it was answered."""
    backend = "name" if mode == "tls" else "tls-name"
    await names.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode, **changes)
    before = ResourceSnapshot.now()
    client = await dial(names.address)
    if said:
        await client.send(said)
    if leave == "close":
        client.drop()
    elif leave == "reset":
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.reset()
    line = await harness.session()
    if leave == "stay":
        with trio.fail_after(TIMEOUT_S):
            await client.receive_until_end()
        client.drop()
    await before.wait_until_restored()
    assert names.accepted == 0
    assert (line["phase"], line["state"]) == ("handshake", None)
    return line, bytes(client.received)


HELLO = split_into_records(client_hello(server_name(b"n.example")))
both_modes = pytest.mark.parametrize("mode", ["tls", "passthrough"])


@pytest.mark.parametrize(
    ("said", "detail", "answer"),
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
async def test_bad_hello(
    harness: ProxyHarness, names: Names, said: bytes, detail: str, answer: bytes
) -> None:
    # where TLS ends here the hello is read by the same code, but its answer could come from OpenSSL
    mode = "passthrough" if len(said) % 2 else "tls"
    line, heard = await hello_line(harness, names, said, "stay", mode)
    assert line["end"] == "handshake-failed"
    assert detail in line["detail"]
    assert heard == answer
    assert "secret-password" not in harness.log.read_text()


@both_modes
@pytest.mark.parametrize("size", [0, 50])
async def test_never_finished(harness: ProxyHarness, names: Names, mode: str, size: int) -> None:
    line, heard = await hello_line(harness, names, HELLO[:size], "stay", mode, **QUICK)
    assert line["end"] == "handshake-timeout"
    assert 200 <= line["total_ms"] < 2000
    assert heard == b""


@both_modes
@pytest.mark.parametrize(
    ("size", "leave", "end"),
    [
        (0, "close", "handshake-empty"),
        (1, "close", "handshake-left"),
        (50, "close", "handshake-left"),
        (0, "reset", "handshake-failed"),
        (50, "reset", "handshake-failed"),
    ],
)
async def test_left(
    harness: ProxyHarness, names: Names, *, mode: str, size: int, leave: str, end: str
) -> None:
    line, _ = await hello_line(harness, names, HELLO[:size], leave, mode)
    assert line["end"] == end


async def test_nothing_and_closed_is_not_logged_by_default(harness: ProxyHarness, names: Names) -> None:
    await names.run([], "tls-name", mode="passthrough", backend="tls-name", log_null=False)
    for _ in range(3):
        (await dial(names.address)).drop()
    client = await dial(names.address)
    await client.send(b"clear text\r\n")
    assert (await harness.session())["end"] == "handshake-failed"
    client.drop()
    await harness.wait_until_idle()
    await harness.sessions(1)


@both_modes
async def test_trickling_does_not_stretch_the_limit(harness: ProxyHarness, names: Names, mode: str) -> None:
    backend = "name" if mode == "tls" else "tls-name"
    await names.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode, **QUICK)
    client = await dial(names.address)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT_S):
        await client.send_in_pieces(
            split_into_records_of(1, client_hello(server_name(b"n.example"))), 1, 0.05
        )
    client.drop()
    line = await harness.session()
    assert line["end"] == "handshake-timeout"
    assert 200 <= line["total_ms"] < 2000
    assert names.accepted == 0


async def test_the_limit_is_one_for_hello_and_handshake(harness: ProxyHarness, names: Names) -> None:
    """Who brings the hello late has only what is left for the rest."""
    await names.run(MIXED, "here", "tls-through", timeouts={"handshake": "500ms"})
    client = await dial(names.address)
    wire = split_into_records(real_hello("here.example")[3])
    await client.send(wire[:-1])
    await trio.sleep(0.4)
    await client.send(wire[-1:])
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    assert client.received, "the server's part of the handshake"
    client.drop()
    line = await harness.session()
    assert line["end"] == "handshake-timeout"
    assert 500 <= line["total_ms"] < 900


@both_modes
async def test_stuck_hellos_harm_nobody_and_do_not_spin(
    harness: ProxyHarness, names: Names, mode: str
) -> None:
    backend = "name" if mode == "tls" else "tls-name"
    await names.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode)
    before = ResourceSnapshot.now()
    stuck = [await dial(names.address) for _ in range(40)]
    big = split_into_records(client_hello_of_size(9000))
    for number, client in enumerate(stuck):
        if said := (b"", HELLO[:1], HELLO[:-1], big[:-1], big[:3000])[number % 5]:
            await client.send(said)
    assert await count_steps() < FEW_STEPS
    assert await heard(await names.dial("n.example")) == backend
    for client in stuck:
        client.drop()
    await before.wait_until_restored()
    assert len([line for line in await harness.sessions(41) if line["end"] == "client-closed"]) == 1


@both_modes
async def test_stopped_meanwhile(harness: ProxyHarness, names: Names, mode: str) -> None:
    backend = "name" if mode == "tls" else "tls-name"
    proxy = await names.run([{"sni": ["n.example"], "backend": backend}], backend, mode=mode)
    client = await dial(names.address)
    await client.send(HELLO[:30])
    with trio.fail_after(TIMEOUT_S):
        while not proxy.sessions:  # noqa: ASYNC110 - a count, not an event
            await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked()
        await proxy.drain(0)
    client.drop()
    assert (await harness.session())["end"] == "handshake-stopped"


@pytest.mark.parametrize("name", ["here.example", "through.example", "elsewhere.example"])
async def test_cancelled_at_every_step(harness: ProxyHarness, names: Names, name: str) -> None:
    mapping = await names.mapping(MIXED, "here", "tls-through")
    context = names.context()

    async def visit(address: str) -> None:
        async with await dial(address) as client:
            await client.start_tls(context, name)
            await client.receive_until_end()

    await cancel_at_every_step(mapping, visit, stride=3)
    ended = {line["end"] for line in harness.lines() if line["event"] == "session"}
    assert ended <= {"handshake-stopped", "stopped-connecting", "stopped", "no-server", "handshake-left"}
    assert ({"no-server"} if name == "elsewhere.example" else {"stopped"}) <= ended
