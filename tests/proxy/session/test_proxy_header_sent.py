"""The PROXY header that a server gets: before all else, in one piece, saying of the client what was asked for."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailproxy.protocol.proxy_header import (
    Client,
    Command,
    Header,
    HeaderV1,
    HeaderV2,
    Protocol,
    Ssl,
    Tlv,
    Type,
    format_header,
    format_ssl,
    format_v2,
    with_checksum,
)
from mailproxy.testing import Collect, Connection, RefusingServer, Send, collect, dial, greet_and_echo
from tests.support.proxy.header_recorder import HeaderRecorder
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot
from tests.support.proxy.task_steps import cancel_at_every_step

GREETING = b"* OK ready\r\n"
COMMAND = b"a1 NOOP\r\n"
KINDS = ["v1", "v2", "v2-ssl", "v2-ssl-cn"]
TRUSTED: dict[str, Any] = {"accept_proxy": ["127.0.0.0/8"]}
SOURCE, DESTINATION = ("198.51.100.7", 40000), ("203.0.113.9", 993)

Address = tuple[str, int]


def announcing(kind: str, **more: Any) -> dict[str, Any]:
    """Changes of a harness's backend."""
    return {"backends": {"b": {"send_proxy": kind, **more}}}


async def introduced(harness: ProxyHarness, *playbooks: Any, **options: Any) -> HeaderRecorder:
    server = HeaderRecorder(*playbooks, **options)
    await harness.nursery.start(server.serve)
    return server


def ends_of(connection: Connection) -> tuple[Address, Address]:
    """A client's address and the one that it connected to."""
    sock = connection.stream.socket
    source, destination = sock.getsockname(), sock.getpeername()
    return (source[0], source[1]), (destination[0], destination[1])


async def talk(client: Connection) -> None:
    """A greeting, a command and its echo."""
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
        await client.send(COMMAND)
        assert await client.receive_line() == COMMAND


async def told(harness: ProxyHarness, server: HeaderRecorder, client: Connection) -> Line:
    """Talk and leave; the session's line."""
    await talk(client)
    await client.close()
    line = await harness.session()
    assert (line["end"], line["detail"]) == ("client-closed", None)
    return line


def expected(kind: str, source: Address, destination: Address, *, tls: bool) -> Header:
    """What a server is told by default."""
    is_v6 = ":" in source[0]
    if kind == "v1":
        return HeaderV1(protocol="TCP6" if is_v6 else "TCP4", source=source, destination=destination)
    said = Ssl(
        client=Client.SSL if tls else Client(0),
        verify=0,
        extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.3"),) if tls else (),
    )
    return HeaderV2(
        command=Command.PROXY,
        protocol=Protocol.TCP6 if is_v6 else Protocol.TCP4,
        source=source,
        destination=destination,
        tlvs=(format_ssl(said),) if kind.startswith("v2-ssl") else (),
    )


# Each kind, before all else


@pytest.mark.parametrize("server_tls", [False, True], ids=["to-clear", "to-tls"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind(harness: ProxyHarness, kind: str, tls: bool, server_tls: bool) -> None:
    """Towards a server with TLS the header stands in clear before the handshake."""
    behind = harness.ca.server_context("127.0.0.1") if server_tls else None
    server = await introduced(harness, greet_and_echo(GREETING), tls_after_header=behind)
    proxy = await harness.proxy(server.address, tls=tls, server_tls=server_tls, **announcing(kind))
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy, tls=tls)
    ends = ends_of(client)
    line = await told(harness, server, client)
    await before.wait_until_restored()
    assert server.headers == [expected(kind, *ends, tls=tls)]
    assert server.raw == [format_header(server.headers[0])]
    assert line["bytes_in"] == len(COMMAND), "the header is no part of what is proxied"


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("where", ["[::1]:0", "[::]:0"])
async def test_over_ipv6(harness: ProxyHarness, kind: str, where: str) -> None:
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind={"address": where}, **announcing(kind))
    port = proxy.frontends["f"].addresses[0].rpartition(":")[2]
    client = await dial(f"[::1]:{port}")
    ends = ends_of(client)
    await told(harness, server, client)
    assert server.headers == [expected(kind, *ends, tls=False)]


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_ipv4_at_a_bind_of_both_families(harness: ProxyHarness, kind: str) -> None:
    """It comes mapped into IPv6 and is told as what it is."""
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind={"address": "[::]:0"}, **announcing(kind))
    port = proxy.frontends["f"].addresses[0].rpartition(":")[2]
    client = await dial(f"127.0.0.1:{port}")
    ends = ends_of(client)
    assert ends[1] == ("127.0.0.1", int(port))
    line = await told(harness, server, client)
    assert server.headers == [expected(kind, *ends, tls=False)]
    assert line["client"] == f"127.0.0.1:{ends[0][1]}"


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("kind", ["v1", "v2", "v2-ssl-cn"])
async def test_a_client_without_an_address(
    harness: ProxyHarness, tmp_path: Path, kind: str, tls: bool
) -> None:
    """Of a Unix socket's there is nothing to tell; the server takes the proxy's own address."""
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address, tls=tls, bind={"address": f"unix:{tmp_path / 'p.sock'}"}, **announcing(kind)
    )
    await told(harness, server, await harness.dial(proxy, tls=tls))
    nobody: Header = HeaderV1(protocol="UNKNOWN") if kind == "v1" else HeaderV2(command=Command.LOCAL)
    assert server.headers == [nobody]


async def test_to_a_unix_socket(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await introduced(harness, greet_and_echo(GREETING), bind=f"unix:{tmp_path / 's.sock'}")
    proxy = await harness.proxy(server.address, **announcing("v2"))
    client = await harness.dial(proxy)
    ends = ends_of(client)
    await told(harness, server, client)
    assert server.headers == [expected("v2", *ends, tls=False)]


async def test_none(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, **announcing("none"))
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    await client.send(COMMAND)
    await client.close()
    await harness.session()
    assert bytes(server.connections[0].received) == COMMAND


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_to_a_server_without_a_port(harness: ProxyHarness, kind: str) -> None:
    """The header's port, that of the header which came in, and the one that is connected to are the same."""
    server = await introduced(harness, greet_and_echo(GREETING))
    port = int(server.address.rpartition(":")[2])
    proxy = await harness.proxy("127.0.0.1", bind=TRUSTED, **announcing(kind))
    client = await harness.dial(proxy)
    await client.send(b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 %d\r\n" % port)
    await told(harness, server, client)
    assert server.headers == [expected(kind, SOURCE, ("203.0.113.9", port), tls=False)]


async def test_a_client_that_speaks_first(harness: ProxyHarness) -> None:
    """What it says stands behind the header, whole."""
    server = await introduced(harness, collect())
    proxy = await harness.proxy(server.address, **announcing("v2"))
    client = await harness.dial(proxy)
    said = bytes(range(256)) * 200
    await client.send(said)
    await client.close()
    await harness.session()
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended()
    assert bytes(server.connections[0].received) == said


async def test_passed_through(harness: ProxyHarness) -> None:
    """The client's TLS is not the proxy's: nothing is said of it, and the header stands before it."""
    server = await introduced(
        harness, greet_and_echo(GREETING), tls_after_header=harness.ca.server_context("imap.example.com")
    )
    proxy = await harness.proxy(
        server.address,
        bind={"mode": "passthrough"},
        **announcing("v2-ssl", send_proxy_tlvs=["authority", "alpn"]),
    )
    client = await harness.dial(proxy, tls=True, server_name="imap.example.com")
    source, destination = ends_of(client)
    await told(harness, server, client)
    assert (server.header.source, server.header.destination) == (source, destination)
    assert server.tlvs == {
        Type.AUTHORITY: b"imap.example.com",
        Type.SSL: format_ssl(Ssl(client=Client(0), verify=0)).value,
    }


async def test_each_server_has_its_own(harness: ProxyHarness) -> None:
    first = await introduced(harness, greet_and_echo(GREETING))
    second = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        "unused",
        backends={
            "b": {
                "send_proxy": "v1",
                "servers": [first.address, {"address": second.address, "send_proxy": "v2"}],
            }
        },
    )
    clients = [await harness.dial(proxy) for _ in range(2)]
    for client in clients:
        await talk(client)
    for client in clients:
        await client.close()
    await harness.sessions(2)
    assert [type(header) for header in first.headers + second.headers] == [HeaderV1, HeaderV2]


# More than the default


async def announced(harness: ProxyHarness, *chosen: str, **options: Any) -> tuple[HeaderRecorder, Line]:
    """A client that shows what there is to tell of its TLS, and what the server was told."""
    frontend_tls = {"alpn": ["imap", "other"], "min_version": "1.2"}
    server = await introduced(harness, greet_and_echo(GREETING))
    kind = options.pop("kind", "v2")
    alpn: Sequence[str] = options.pop("alpn", ("imap",))
    name: str = options.pop("name", "imap.example.com")
    protocol = options.pop("protocol", "imap")
    proxy = await harness.proxy(
        server.address,
        tls=True,
        frontends={"f": {"tls": frontend_tls}},
        **announcing(kind, send_proxy_tlvs=list(chosen), protocol=protocol),
    )
    context = harness.ca.client_context()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    for key, value in options.items():
        setattr(context, key, value)
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, server_name=name)
    line = await told(harness, server, client)
    return server, line


async def test_authority(harness: ProxyHarness) -> None:
    server, _ = await announced(harness, "authority", alpn=())
    assert server.tlvs == {Type.AUTHORITY: b"imap.example.com"}


async def test_authority_of_a_client_without_a_name(harness: ProxyHarness) -> None:
    """It asked for an address, which ``ssl`` sends no name for."""
    server, line = await announced(harness, "authority", alpn=(), name="127.0.0.1")
    assert line["sni"] is None
    assert server.tlvs == {}


async def test_unique_id_is_the_logs(harness: ProxyHarness) -> None:
    server, line = await announced(harness, "unique-id", alpn=())
    assert server.tlvs == {Type.UNIQUE_ID: line["id"].encode()}


async def test_checksum(harness: ProxyHarness) -> None:
    server, _ = await announced(harness, "crc32c", "authority")
    assert list(server.tlvs) == [Type.CRC32C, Type.ALPN, Type.AUTHORITY]
    assert server.header == with_checksum(server.header)
    assert server.raw == [format_v2(server.header)]


@pytest.mark.parametrize(
    ("protocol", "offered", "chosen", "said"),
    [
        ("imap", ["imap"], [], b"imap"),
        ("imap", ["nonsense", "other"], [], None),  # Dovecot would end the connection for it
        ("pop3", ["imap"], [], None),
        ("imap", ["other"], ["alpn"], b"other"),
        ("imap", ["nonsense"], ["alpn"], None),
        ("imap", [], ["alpn"], None),
        ("tcp", ["imap"], [], None),
        ("tcp", ["imap"], ["alpn"], b"imap"),
    ],
)
async def test_alpn_if_it_fits(
    harness: ProxyHarness, protocol: str, offered: list[str], chosen: list[str], said: bytes | None
) -> None:
    server, line = await announced(harness, *chosen, alpn=offered, protocol=protocol)
    assert server.tlvs == ({} if said is None else {Type.ALPN: said})
    assert line["alpn"] == ("imap" if "imap" in offered else "other" if "other" in offered else None)


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_cipher_and_our_certificate(harness: ProxyHarness, kind: str) -> None:
    server, line = await announced(harness, "ssl-cipher", "cert-sig", "cert-key", kind=kind, alpn=())
    assert server.ssl == Ssl(
        client=Client.SSL,
        verify=0,
        extensions=(
            Tlv(Type.SSL_VERSION, line["tls_version"].encode()),
            Tlv(Type.SSL_KEY_ALG, b"EC256"),
            Tlv(Type.SSL_SIG_ALG, b"ecdsa-with-SHA256"),
            Tlv(Type.SSL_CIPHER, line["tls_cipher"].encode()),
        ),
    )


async def test_old_tls(harness: ProxyHarness) -> None:
    server, _ = await announced(harness, kind="v2-ssl", alpn=(), maximum_version=ssl.TLSVersion.TLSv1_2)
    assert server.ssl.value_of(Type.SSL_VERSION) == b"TLSv1.2"


async def test_no_client_certificate_no_extension(harness: ProxyHarness) -> None:
    server, _ = await announced(harness, "client-cert", kind="v2-ssl-cn", alpn=())
    assert (server.ssl.client, server.ssl.verify) == (Client.SSL, 0)
    assert server.ssl.value_of(Type.SSL_CLIENT_CERT) is None
    assert server.ssl.value_of(Type.SSL_CN) is None


async def test_everything(harness: ProxyHarness) -> None:
    """One of each, with a client certificate in it, in one segment."""
    certificate = harness.ca.issue_client("alice")
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address,
        tls=True,
        frontends={
            "f": {"tls": {"alpn": ["imap"], "client_verify": "required", "client_ca": str(harness.ca.pem)}}
        },
        **announcing(
            "v2-ssl-cn",
            protocol="imap",
            send_proxy_tlvs=[
                *("authority", "alpn", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key"),
                "client-cert",
            ],
        ),
    )
    context = harness.ca.client_context(certificate)
    context.set_alpn_protocols(["imap"])
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, server_name="imap.example.com")
    line = await told(harness, server, client)
    assert list(server.tlvs) == [Type.CRC32C, Type.ALPN, Type.AUTHORITY, Type.UNIQUE_ID, Type.SSL]
    assert [tlv.type for tlv in server.ssl.extensions] == [
        Type.SSL_VERSION,
        Type.SSL_CN,
        Type.SSL_KEY_ALG,
        Type.SSL_SIG_ALG,
        Type.SSL_CIPHER,
        Type.SSL_CLIENT_CERT,
    ]
    assert server.ssl.client == Client.SSL | Client.CERT_CONN | Client.CERT_SESS
    assert server.ssl.verify == 0
    assert server.ssl.value_of(Type.SSL_CN) == b"alice"
    shown = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert server.ssl.value_of(Type.SSL_CLIENT_CERT) == shown.public_bytes(Encoding.DER)
    assert server.tlvs[Type.UNIQUE_ID] == line["id"].encode()


# What came with a header


def arriving(*tlvs: Tlv) -> bytes:
    return format_v2(
        HeaderV2(
            command=Command.PROXY,
            protocol=Protocol.TCP4,
            source=SOURCE,
            destination=DESTINATION,
            tlvs=tlvs,
        )
    )


OWN_SSL = format_ssl(Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.2"),)))
ARRIVING = (
    Tlv(Type.ALPN, b"imap"),
    Tlv(Type.AUTHORITY, b"imap.example.com"),
    Tlv(Type.UNIQUE_ID, b"0815"),
    OWN_SSL,
    Tlv(0xEA, b"of a cloud"),
)


@pytest.mark.parametrize("forward", [False, True])
async def test_extensions_are_forwarded_if_that_is_said(harness: ProxyHarness, forward: bool) -> None:
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address, bind=TRUSTED, **announcing("v2", forward_tlvs=forward, protocol="imap")
    )
    client = await harness.dial(proxy)
    await client.send(arriving(*ARRIVING, Tlv(Type.NOOP, b"\0\0\0")))
    await told(harness, server, client)
    assert server.header.tlvs == (ARRIVING if forward else ())
    assert (server.header.source, server.header.destination) == (SOURCE, DESTINATION)


@pytest.mark.parametrize("tlv", [Tlv(Type.ALPN, b"h2"), Tlv(Type.ALPN, b""), Tlv(Type.AUTHORITY, b"no name")])
async def test_what_receivers_cannot_bear_is_not_forwarded(harness: ProxyHarness, tlv: Tlv) -> None:
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address, bind=TRUSTED, **announcing("v2", forward_tlvs=True, protocol="imap")
    )
    client = await harness.dial(proxy)
    await client.send(arriving(tlv, Tlv(0xEA, b"of a cloud")))
    await told(harness, server, client)
    assert server.tlvs == {0xEA: b"of a cloud"}


async def test_what_is_known_here_goes_before_what_is_forwarded(harness: ProxyHarness) -> None:
    """Our own id, and what the TLS was that ended here; the checksum is that of the new header."""
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address,
        tls=True,
        bind=TRUSTED,
        **announcing("v2-ssl", forward_tlvs=True, send_proxy_tlvs=["unique-id", "crc32c"]),
    )
    client = await harness.dial(proxy)
    client._outgoing.write(format_v2(with_checksum(HeaderV2(
        command=Command.PROXY, protocol=Protocol.TCP4, source=SOURCE, destination=DESTINATION, tlvs=ARRIVING
    ))))  # fmt: skip
    await client.start_tls(harness.ca.client_context())
    line = await told(harness, server, client)
    assert server.header == with_checksum(server.header)
    assert server.tlvs[Type.UNIQUE_ID] == line["id"].encode()
    assert server.ssl.value_of(Type.SSL_VERSION) == b"TLSv1.3"
    assert server.tlvs[0xEA] == b"of a cloud"


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_a_header_that_came_tells_who_the_client_is(harness: ProxyHarness, kind: str) -> None:
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED, **announcing(kind))
    client = await harness.dial(proxy)
    await client.send(b"PROXY TCP6 2001:db8::7 2001:db8::9 40000 993\r\n")
    await told(harness, server, client)
    assert server.headers == [expected(kind, ("2001:db8::7", 40000), ("2001:db8::9", 993), tls=False)]


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_local_is_told_of_the_connection_itself(harness: ProxyHarness, kind: str) -> None:
    server = await introduced(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED, **announcing(kind))
    client = await harness.dial(proxy)
    ends = ends_of(client)
    await client.send(format_v2(HeaderV2(command=Command.LOCAL)))
    await told(harness, server, client)
    assert server.headers == [expected(kind, *ends, tls=False)]


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize(("first", "second"), [("v1", "v2"), ("v2-ssl", "v1"), ("v2-ssl-cn", "v2-ssl")])
async def test_a_chain_of_two(harness: ProxyHarness, first: str, second: str, tls: bool) -> None:
    server = await introduced(harness, greet_and_echo(GREETING))
    behind = await harness.proxy(
        server.address,
        bind={**TRUSTED, "name": "BEHIND"},
        **announcing(second, **({"forward_tlvs": True} if second != "v1" else {})),
    )
    front = await harness.proxy(
        behind.frontends["f"].addresses[0], tls=tls, bind={"name": "FRONT"}, **announcing(first)
    )
    client = await harness.dial(front, tls=tls)
    source, destination = ends_of(client)
    await talk(client)
    await client.close()
    lines = {line["bind"]: line for line in await harness.sessions(2)}
    name = f"{source[0]}:{source[1]}"
    assert {line["client"] for line in lines.values()} == {name}
    assert lines["FRONT"]["peer"] is None
    assert lines["BEHIND"]["peer"] not in (None, name)
    assert server.headers == [
        expected(second, source, destination, tls=tls and first != "v1" and second != "v1")
    ]


# Faults


async def test_a_server_that_refuses_gets_none(harness: ProxyHarness) -> None:
    nobody: str = await harness.nursery.start(RefusingServer().serve)
    proxy = await harness.proxy(nobody, tls=True, **announcing("v2"))
    client = await harness.dial(proxy, tls=True)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    assert (await harness.session())["end"] == "server-refused"


async def test_a_server_that_expects_none(harness: ProxyHarness) -> None:
    """TLS fails there, as the log says."""
    server = await harness.server(tls=harness.ca.server_context("127.0.0.1"))
    proxy = await harness.proxy(server.address, server_tls=True, **announcing("v2"))
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    line = await harness.session()
    await before.wait_until_restored()
    assert (line["end"], line["state"]) == ("server-handshake-failed", "SC")
    assert line["detail"]


@pytest.mark.parametrize("tls", [False, True])
async def test_cancelled_at_every_step(harness: ProxyHarness, tls: bool) -> None:
    server = await introduced(
        harness,
        (Send(GREETING), Collect()),
        tls_after_header=harness.ca.server_context("127.0.0.1") if tls else None,
    )
    mapping = harness.mapping(server.address, tls=tls, server_tls=tls, **announcing("v2-ssl"))
    context = harness.ca.client_context() if tls else None

    async def visit(address: str) -> None:
        async with await dial(address, tls=context) as client:
            await client.send(COMMAND)
            await client.receive_until_end()

    await cancel_at_every_step(mapping, visit, stride=3)
    assert server.headers, "some got as far as the server"
    ended = {line["end"] for line in harness.lines() if line["event"] == "session"}
    assert ended <= {"handshake-stopped", "stopped-connecting", "stopped", "client-closed"}
