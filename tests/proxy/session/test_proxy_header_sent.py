"""PROXY headers sent to servers: first on the connection, in one segment, with the configured TLVs."""

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


def backend_options(kind: str, **keys: Any) -> dict[str, Any]:
    """Return options of a harness's proxy whose backend sends this kind of header."""
    return {"backends": {"b": {"send_proxy": kind, **keys}}}


async def start_recorder(harness: ProxyHarness, *playbooks: Any, **options: Any) -> HeaderRecorder:
    server = HeaderRecorder(*playbooks, **options)
    await harness.nursery.start(server.serve)
    return server


def addresses_of(connection: Connection) -> tuple[Address, Address]:
    """Return a client's address and the address that it connected to."""
    sock = connection.stream.socket
    source, destination = sock.getsockname(), sock.getpeername()
    return (source[0], source[1]), (destination[0], destination[1])


async def receive_greeting_and_echo(client: Connection) -> None:
    """Receive a greeting, send a command and receive its echo."""
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
        await client.send(COMMAND)
        assert await client.receive_line() == COMMAND


async def talk_and_close(harness: ProxyHarness, server: HeaderRecorder, client: Connection) -> Line:
    """Talk to the server and close; return the session's log line."""
    await receive_greeting_and_echo(client)
    await client.close()
    line = await harness.session()
    assert (line["end"], line["detail"]) == ("client-closed", None)
    return line


def default_header(kind: str, source: Address, destination: Address, *, tls: bool) -> Header:
    """Return the header that a server gets by default."""
    is_v6 = ":" in source[0]
    if kind == "v1":
        return HeaderV1(protocol="TCP6" if is_v6 else "TCP4", source=source, destination=destination)
    ssl_tlv = Ssl(
        client=Client.SSL if tls else Client(0),
        verify=0,
        extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.3"),) if tls else (),
    )
    return HeaderV2(
        command=Command.PROXY,
        protocol=Protocol.TCP6 if is_v6 else Protocol.TCP4,
        source=source,
        destination=destination,
        tlvs=(format_ssl(ssl_tlv),) if kind.startswith("v2-ssl") else (),
    )


# Each kind of header


@pytest.mark.parametrize("server_tls", [False, True], ids=["to-clear", "to-tls"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("kind", KINDS)
async def test_header_of_each_kind(harness: ProxyHarness, kind: str, tls: bool, server_tls: bool) -> None:
    """Towards a server with TLS the header comes in clear text before the handshake."""
    tls_context = harness.ca.server_context("127.0.0.1") if server_tls else None
    server = await start_recorder(harness, greet_and_echo(GREETING), tls_after_header=tls_context)
    proxy = await harness.proxy(server.address, tls=tls, server_tls=server_tls, **backend_options(kind))
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy, tls=tls)
    addresses = addresses_of(client)
    line = await talk_and_close(harness, server, client)
    await before.wait_until_restored()
    assert server.headers == [default_header(kind, *addresses, tls=tls)]
    assert server.raw == [format_header(server.headers[0])]
    assert line["bytes_in"] == len(COMMAND), "the header is not proxied"


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("bind_address", ["[::1]:0", "[::]:0"])
async def test_header_over_ipv6(harness: ProxyHarness, kind: str, bind_address: str) -> None:
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind={"address": bind_address}, **backend_options(kind))
    port = proxy.frontends["f"].addresses[0].rpartition(":")[2]
    client = await dial(f"[::1]:{port}")
    addresses = addresses_of(client)
    await talk_and_close(harness, server, client)
    assert server.headers == [default_header(kind, *addresses, tls=False)]


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_ipv4_client_at_dual_stack_bind(harness: ProxyHarness, kind: str) -> None:
    """The kernel gives the address mapped into IPv6. The header has it as IPv4."""
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind={"address": "[::]:0"}, **backend_options(kind))
    port = proxy.frontends["f"].addresses[0].rpartition(":")[2]
    client = await dial(f"127.0.0.1:{port}")
    addresses = addresses_of(client)
    assert addresses[1] == ("127.0.0.1", int(port))
    line = await talk_and_close(harness, server, client)
    assert server.headers == [default_header(kind, *addresses, tls=False)]
    assert line["client"] == f"127.0.0.1:{addresses[0][1]}"


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("kind", ["v1", "v2", "v2-ssl-cn"])
async def test_unix_socket_client_sends_no_address(
    harness: ProxyHarness, tmp_path: Path, kind: str, tls: bool
) -> None:
    """A Unix socket has no address for the header. The server uses the proxy's own address."""
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address, tls=tls, bind={"address": f"unix:{tmp_path / 'p.sock'}"}, **backend_options(kind)
    )
    await talk_and_close(harness, server, await harness.dial(proxy, tls=tls))
    without_addresses: Header = (
        HeaderV1(protocol="UNKNOWN") if kind == "v1" else HeaderV2(command=Command.LOCAL)
    )
    assert server.headers == [without_addresses]


async def test_header_to_unix_socket_server(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await start_recorder(harness, greet_and_echo(GREETING), bind=f"unix:{tmp_path / 's.sock'}")
    proxy = await harness.proxy(server.address, **backend_options("v2"))
    client = await harness.dial(proxy)
    addresses = addresses_of(client)
    await talk_and_close(harness, server, client)
    assert server.headers == [default_header("v2", *addresses, tls=False)]


async def test_no_header_by_configuration(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, **backend_options("none"))
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    await client.send(COMMAND)
    await client.close()
    await harness.session()
    assert bytes(server.connections[0].received) == COMMAND


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_header_to_server_without_port(harness: ProxyHarness, kind: str) -> None:
    """The port of the received header is the one in the sent header and the one connected to."""
    server = await start_recorder(harness, greet_and_echo(GREETING))
    port = int(server.address.rpartition(":")[2])
    proxy = await harness.proxy("127.0.0.1", bind=TRUSTED, **backend_options(kind))
    client = await harness.dial(proxy)
    await client.send(b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 %d\r\n" % port)
    await talk_and_close(harness, server, client)
    assert server.headers == [default_header(kind, SOURCE, ("203.0.113.9", port), tls=False)]


async def test_client_data_follows_header(harness: ProxyHarness) -> None:
    """All of the client's data comes behind the header."""
    server = await start_recorder(harness, collect())
    proxy = await harness.proxy(server.address, **backend_options("v2"))
    client = await harness.dial(proxy)
    data = bytes(range(256)) * 200
    await client.send(data)
    await client.close()
    await harness.session()
    with trio.fail_after(TIMEOUT_S):
        await server.wait_ended()
    assert bytes(server.connections[0].received) == data


async def test_header_with_passthrough(harness: ProxyHarness) -> None:
    """The proxy does not terminate the client's TLS: no facts of it are sent, and the header comes first."""
    server = await start_recorder(
        harness, greet_and_echo(GREETING), tls_after_header=harness.ca.server_context("imap.example.com")
    )
    proxy = await harness.proxy(
        server.address,
        bind={"mode": "passthrough"},
        **backend_options("v2-ssl", send_proxy_tlvs=["authority", "alpn"]),
    )
    client = await harness.dial(proxy, tls=True, server_name="imap.example.com")
    source, destination = addresses_of(client)
    await talk_and_close(harness, server, client)
    assert (server.header.source, server.header.destination) == (source, destination)
    assert server.tlvs == {
        Type.AUTHORITY: b"imap.example.com",
        Type.SSL: format_ssl(Ssl(client=Client(0), verify=0)).value,
    }


async def test_each_server_has_own_kind(harness: ProxyHarness) -> None:
    first = await start_recorder(harness, greet_and_echo(GREETING))
    second = await start_recorder(harness, greet_and_echo(GREETING))
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
        await receive_greeting_and_echo(client)
    for client in clients:
        await client.close()
    await harness.sessions(2)
    assert [type(header) for header in first.headers + second.headers] == [HeaderV1, HeaderV2]


# Configured TLVs


async def send_with_tlvs(harness: ProxyHarness, *tlvs: str, **options: Any) -> tuple[HeaderRecorder, Line]:
    """Connect a client with TLS facts; return the server's recorder and the log line."""
    frontend_tls = {"alpn": ["imap", "other"], "min_version": "1.2"}
    server = await start_recorder(harness, greet_and_echo(GREETING))
    kind = options.pop("kind", "v2")
    alpn: Sequence[str] = options.pop("alpn", ("imap",))
    name: str = options.pop("name", "imap.example.com")
    protocol = options.pop("protocol", "imap")
    proxy = await harness.proxy(
        server.address,
        tls=True,
        frontends={"f": {"tls": frontend_tls}},
        **backend_options(kind, send_proxy_tlvs=list(tlvs), protocol=protocol),
    )
    context = harness.ca.client_context()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    for key, value in options.items():
        setattr(context, key, value)
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, server_name=name)
    line = await talk_and_close(harness, server, client)
    return server, line


async def test_authority_tlv(harness: ProxyHarness) -> None:
    server, _ = await send_with_tlvs(harness, "authority", alpn=())
    assert server.tlvs == {Type.AUTHORITY: b"imap.example.com"}


async def test_authority_tlv_without_server_name(harness: ProxyHarness) -> None:
    """The client connects to an IP address, for which ``ssl`` sends no server name."""
    server, line = await send_with_tlvs(harness, "authority", alpn=(), name="127.0.0.1")
    assert line["sni"] is None
    assert server.tlvs == {}


async def test_unique_id_tlv_matches_log(harness: ProxyHarness) -> None:
    server, line = await send_with_tlvs(harness, "unique-id", alpn=())
    assert server.tlvs == {Type.UNIQUE_ID: line["id"].encode()}


async def test_checksum_tlv(harness: ProxyHarness) -> None:
    server, _ = await send_with_tlvs(harness, "crc32c", "authority")
    assert list(server.tlvs) == [Type.CRC32C, Type.ALPN, Type.AUTHORITY]
    assert server.header == with_checksum(server.header)
    assert server.raw == [format_v2(server.header)]


@pytest.mark.parametrize(
    ("protocol", "offered", "tlvs", "alpn"),
    [
        ("imap", ["imap"], [], b"imap"),
        ("imap", ["nonsense", "other"], [], None),  # Dovecot closes a connection with such an ALPN
        ("pop3", ["imap"], [], None),
        ("imap", ["other"], ["alpn"], b"other"),
        ("imap", ["nonsense"], ["alpn"], None),
        ("imap", [], ["alpn"], None),
        ("tcp", ["imap"], [], None),
        ("tcp", ["imap"], ["alpn"], b"imap"),
    ],
)
async def test_alpn_tlv_matches_protocol(
    harness: ProxyHarness, protocol: str, offered: list[str], tlvs: list[str], alpn: bytes | None
) -> None:
    server, line = await send_with_tlvs(harness, *tlvs, alpn=offered, protocol=protocol)
    assert server.tlvs == ({} if alpn is None else {Type.ALPN: alpn})
    assert line["alpn"] == ("imap" if "imap" in offered else "other" if "other" in offered else None)


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_cipher_and_server_certificate_tlvs(harness: ProxyHarness, kind: str) -> None:
    server, line = await send_with_tlvs(harness, "ssl-cipher", "cert-sig", "cert-key", kind=kind, alpn=())
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


async def test_tls_version_tlv(harness: ProxyHarness) -> None:
    server, _ = await send_with_tlvs(harness, kind="v2-ssl", alpn=(), maximum_version=ssl.TLSVersion.TLSv1_2)
    assert server.ssl.value_of(Type.SSL_VERSION) == b"TLSv1.2"


async def test_missing_client_certificate_sends_no_tlv(harness: ProxyHarness) -> None:
    server, _ = await send_with_tlvs(harness, "client-cert", kind="v2-ssl-cn", alpn=())
    assert (server.ssl.client, server.ssl.verify) == (Client.SSL, 0)
    assert server.ssl.value_of(Type.SSL_CLIENT_CERT) is None
    assert server.ssl.value_of(Type.SSL_CN) is None


async def test_all_tlvs_in_single_header(harness: ProxyHarness) -> None:
    """A header with all TLVs and a client certificate is sent in one segment."""
    certificate = harness.ca.issue_client("alice")
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address,
        tls=True,
        frontends={
            "f": {"tls": {"alpn": ["imap"], "client_verify": "required", "client_ca": str(harness.ca.pem)}}
        },
        **backend_options(
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
    line = await talk_and_close(harness, server, client)
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
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert server.ssl.value_of(Type.SSL_CLIENT_CERT) == loaded.public_bytes(Encoding.DER)
    assert server.tlvs[Type.UNIQUE_ID] == line["id"].encode()


# Received headers


def header_of_other_proxy(*tlvs: Tlv) -> bytes:
    return format_v2(
        HeaderV2(
            command=Command.PROXY,
            protocol=Protocol.TCP4,
            source=SOURCE,
            destination=DESTINATION,
            tlvs=tlvs,
        )
    )


SSL_OF_OTHER_PROXY = format_ssl(
    Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.2"),))
)
RECEIVED_TLVS = (
    Tlv(Type.ALPN, b"imap"),
    Tlv(Type.AUTHORITY, b"imap.example.com"),
    Tlv(Type.UNIQUE_ID, b"0815"),
    SSL_OF_OTHER_PROXY,
    Tlv(0xEA, b"of a cloud"),
)


@pytest.mark.parametrize("is_forwarded", [False, True])
async def test_tlvs_are_forwarded_if_configured(harness: ProxyHarness, is_forwarded: bool) -> None:
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address, bind=TRUSTED, **backend_options("v2", forward_tlvs=is_forwarded, protocol="imap")
    )
    client = await harness.dial(proxy)
    await client.send(header_of_other_proxy(*RECEIVED_TLVS, Tlv(Type.NOOP, b"\0\0\0")))
    await talk_and_close(harness, server, client)
    assert server.header.tlvs == (RECEIVED_TLVS if is_forwarded else ())
    assert (server.header.source, server.header.destination) == (SOURCE, DESTINATION)


@pytest.mark.parametrize("tlv", [Tlv(Type.ALPN, b"h2"), Tlv(Type.ALPN, b""), Tlv(Type.AUTHORITY, b"no name")])
async def test_invalid_tlvs_are_not_forwarded(harness: ProxyHarness, tlv: Tlv) -> None:
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address, bind=TRUSTED, **backend_options("v2", forward_tlvs=True, protocol="imap")
    )
    client = await harness.dial(proxy)
    await client.send(header_of_other_proxy(tlv, Tlv(0xEA, b"of a cloud")))
    await talk_and_close(harness, server, client)
    assert server.tlvs == {0xEA: b"of a cloud"}


async def test_own_tlvs_replace_forwarded_tlvs(harness: ProxyHarness) -> None:
    """The proxy's own id and TLS facts are sent. The checksum is computed for the new header."""
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(
        server.address,
        tls=True,
        bind=TRUSTED,
        **backend_options("v2-ssl", forward_tlvs=True, send_proxy_tlvs=["unique-id", "crc32c"]),
    )
    client = await harness.dial(proxy)
    client._outgoing.write(format_v2(with_checksum(HeaderV2(
        command=Command.PROXY, protocol=Protocol.TCP4, source=SOURCE, destination=DESTINATION, tlvs=RECEIVED_TLVS
    ))))  # fmt: skip
    await client.start_tls(harness.ca.client_context())
    line = await talk_and_close(harness, server, client)
    assert server.header == with_checksum(server.header)
    assert server.tlvs[Type.UNIQUE_ID] == line["id"].encode()
    assert server.ssl.value_of(Type.SSL_VERSION) == b"TLSv1.3"
    assert server.tlvs[0xEA] == b"of a cloud"


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_received_addresses_are_sent(harness: ProxyHarness, kind: str) -> None:
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED, **backend_options(kind))
    client = await harness.dial(proxy)
    await client.send(b"PROXY TCP6 2001:db8::7 2001:db8::9 40000 993\r\n")
    await talk_and_close(harness, server, client)
    assert server.headers == [default_header(kind, ("2001:db8::7", 40000), ("2001:db8::9", 993), tls=False)]


@pytest.mark.parametrize("kind", ["v1", "v2"])
async def test_received_local_header_sends_connection_addresses(harness: ProxyHarness, kind: str) -> None:
    server = await start_recorder(harness, greet_and_echo(GREETING))
    proxy = await harness.proxy(server.address, bind=TRUSTED, **backend_options(kind))
    client = await harness.dial(proxy)
    addresses = addresses_of(client)
    await client.send(format_v2(HeaderV2(command=Command.LOCAL)))
    await talk_and_close(harness, server, client)
    assert server.headers == [default_header(kind, *addresses, tls=False)]


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize(("first", "second"), [("v1", "v2"), ("v2-ssl", "v1"), ("v2-ssl-cn", "v2-ssl")])
async def test_two_proxies_in_a_row(harness: ProxyHarness, first: str, second: str, tls: bool) -> None:
    server = await start_recorder(harness, greet_and_echo(GREETING))
    second_proxy = await harness.proxy(
        server.address,
        bind={**TRUSTED, "name": "BEHIND"},
        **backend_options(second, **({"forward_tlvs": True} if second != "v1" else {})),
    )
    first_proxy = await harness.proxy(
        second_proxy.frontends["f"].addresses[0], tls=tls, bind={"name": "FRONT"}, **backend_options(first)
    )
    client = await harness.dial(first_proxy, tls=tls)
    source, destination = addresses_of(client)
    await receive_greeting_and_echo(client)
    await client.close()
    lines = {line["bind"]: line for line in await harness.sessions(2)}
    name = f"{source[0]}:{source[1]}"
    assert {line["client"] for line in lines.values()} == {name}
    assert lines["FRONT"]["peer"] is None
    assert lines["BEHIND"]["peer"] not in (None, name)
    assert server.headers == [
        default_header(second, source, destination, tls=tls and first != "v1" and second != "v1")
    ]


# Failures


async def test_refusing_server_with_proxy_header(harness: ProxyHarness) -> None:
    refusing: str = await harness.nursery.start(RefusingServer().serve)
    proxy = await harness.proxy(refusing, tls=True, **backend_options("v2"))
    client = await harness.dial(proxy, tls=True)
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    assert (await harness.session())["end"] == "server-refused"


async def test_server_without_proxy_header_support(harness: ProxyHarness) -> None:
    """The server's TLS fails, and the log tells so."""
    server = await harness.server(tls=harness.ca.server_context("127.0.0.1"))
    proxy = await harness.proxy(server.address, server_tls=True, **backend_options("v2"))
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
    server = await start_recorder(
        harness,
        (Send(GREETING), Collect()),
        tls_after_header=harness.ca.server_context("127.0.0.1") if tls else None,
    )
    mapping = harness.mapping(server.address, tls=tls, server_tls=tls, **backend_options("v2-ssl"))
    context = harness.ca.client_context() if tls else None

    async def run_client(address: str) -> None:
        async with await dial(address, tls=context) as client:
            await client.send(COMMAND)
            await client.receive_until_end()

    await cancel_at_every_step(mapping, run_client, stride=3)
    assert server.headers, "some runs reach the server"
    logged = {line["end"] for line in harness.lines() if line["event"] == "session"}
    # The client is cancelled along with the proxy, and may be the first to end.
    assert logged <= {"handshake-stopped", "handshake-left", "stopped-connecting", "stopped", "client-closed"}
