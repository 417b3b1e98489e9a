"""From the choice of a server to its connection: which one, by which address and port, and how it can fail."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from mailproxy.testing import (
    RefusingServer,
    ThrowAwayCA,
    UnansweredServer,
    collect,
    dial,
    reset,
    stay_silent,
)
from tests.support.proxy.proxy_fixture import PATIENCE_S, Belongings, Line, Scene

GREETING = b"* OK ready\r\n"
QUICK: dict[str, Any] = {"timeouts": {"connect": "300ms"}}


async def failed(scene: Scene, *servers: str, client_tls: bool = False, **backend: Any) -> Line:
    """The line of a session that got no server."""
    proxy = await scene.proxy(*servers, tls=client_tls, backends={"b": backend})
    before = Belongings.now()
    client = await scene.dial(proxy, tls=client_tls)
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await scene.session()
    await before.again()
    assert line["phase"] == "connect"
    assert line["connect_ms"] == -1
    return line


@pytest.mark.parametrize("tls", [False, True])
async def test_refused(scene: Scene, tls: bool) -> None:
    nobody: str = await scene.nursery.start(RefusingServer().serve)
    line = await failed(scene, nobody, client_tls=tls)
    assert (line["end"], line["state"]) == ("server-refused", "SC")
    assert "Connection refused" in line["detail"]


@pytest.mark.parametrize("tls", [False, True])
async def test_connect_timeout(scene: Scene, tls: bool) -> None:
    nowhere: str = await scene.nursery.start(UnansweredServer().serve)
    line = await failed(scene, nowhere, client_tls=tls, **QUICK)
    assert (line["end"], line["state"]) == ("connect-timeout", "sC")
    assert line["total_ms"] >= 300


@pytest.mark.parametrize("leave", ["drop", "reset"])
async def test_client_leaves_meanwhile(scene: Scene, leave: str) -> None:
    """Nobody waits for a server that nobody waits for."""
    nowhere: str = await scene.nursery.start(UnansweredServer().serve)
    proxy = await scene.proxy(nowhere, backends={"b": {"timeouts": {"connect": "1h"}}})
    client = await scene.dial(proxy)
    getattr(client, leave)()
    line = await scene.session()
    assert (line["end"], line["state"]) == ("client-left", "CC")


async def test_no_backend(scene: Scene) -> None:
    proxy = await scene.run_proxy(
        {
            "log": {"format": "json", "to": str(scene.log)},
            "frontends": {"f": {"bind": [{"address": "127.0.0.1:0"}]}},
        }
    )
    client = await dial(proxy.frontends["f"].addresses[0])
    assert await client.receive_until_end() == b""
    client.drop()
    line = await scene.session()
    assert (line["end"], line["state"], line["server"]) == ("no-server", "SC", None)


async def test_name_without_address(scene: Scene) -> None:
    line = await failed(scene, "no-such-host.invalid:143")
    assert (line["end"], line["state"]) == ("no-server", "SC")
    (event,) = await scene.events("name-unresolved")
    assert "no-such-host.invalid" in event["message"]


async def test_server_tls_wrong_name(scene: Scene) -> None:
    server = await scene.server(tls=scene.ca.server_context("elsewhere.example"))
    line = await failed(scene, server.address, tls={"ca": str(scene.ca.pem)})
    assert (line["end"], line["state"]) == ("server-handshake-failed", "SC")
    assert "IP address mismatch" in line["detail"]
    (event,) = await scene.events("connect-failed")
    assert (event["reason"], event["backend"], event["failures"]) == (line["detail"], "b", 1)
    assert line["detail"] in event["message"], "tcplog has no room for it in the session's line"


async def test_why_a_server_cannot_be_connected_is_logged_once_a_minute(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        host, port = gone.getsockname()
    proxy = await scene.proxy(f"{host}:{port}", backends={"b": {"retries": 0, "check": "none"}})
    for _ in range(3):
        client = await scene.dial(proxy)
        assert await client.receive_until_end() == b""
        client.drop()
    await scene.sessions(3)
    (event,) = await scene.events("connect-failed")
    assert event["reason"].endswith("Connection refused")


async def test_server_tls_untrusted(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    server = await scene.server(tls=ThrowAwayCA(tmp_path / "other").server_context("127.0.0.1"))
    line = await failed(scene, server.address, tls={"ca": str(scene.ca.pem)})
    assert (line["end"], line["state"]) == ("server-handshake-failed", "SC")
    assert "certificate" in line["detail"]


@pytest.mark.parametrize("playbook", [collect(GREETING), reset()], ids=["clear text", "reset"])
async def test_server_tls_absent(scene: Scene, playbook: object) -> None:
    server = await scene.server(playbook)
    line = await failed(scene, server.address, tls={"ca": str(scene.ca.pem)})
    assert (line["end"], line["state"]) == ("server-handshake-failed", "SC")


async def test_server_tls_never_answered(scene: Scene) -> None:
    server = await scene.server(stay_silent())
    line = await failed(scene, server.address, tls={"ca": str(scene.ca.pem)}, **QUICK)
    assert (line["end"], line["state"]) == ("connect-timeout", "sC")


@pytest.mark.parametrize(
    ("verify", "name", "passes"),
    [
        ("required", "localhost", True),
        ("required", "127.0.0.1", False),
        ("chain", "elsewhere.example", True),
        ("none", "elsewhere.example", True),
    ],
)
async def test_verification(scene: Scene, verify: str, name: str, passes: bool) -> None:
    server = await scene.server(tls=scene.ca.server_context("localhost"))
    tls = {"verify": verify, "ca": str(scene.ca.pem), "server_name": name}
    proxy = await scene.proxy(server.address, backends={"b": {"tls": tls}})
    client = await scene.dial(proxy)
    assert await client.receive_line() == (GREETING if passes else b"")
    if passes:
        connection = await server.wait_for(1)
        assert connection.server_name == (None if name == "127.0.0.1" else name), (
            "the server is asked by its name"
        )
    client.drop()


async def test_verification_by_the_name_in_the_address(scene: Scene) -> None:
    server = await scene.server(tls=scene.ca.server_context("localhost"))
    port = server.address.rpartition(":")[2]
    proxy = await scene.proxy(f"localhost:{port}", backends={"b": {"tls": {"ca": str(scene.ca.pem)}}})
    client = await scene.dial(proxy)
    assert await client.receive_line() == GREETING
    client.drop()


async def test_name_with_several_addresses(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name's addresses the first that takes the connection: localhost is often ::1 first, with nobody there."""
    server = await scene.server()
    port = int(server.address.rpartition(":")[2])

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    proxy = await scene.proxy(f"mail.internal:{port}")
    client = await scene.dial(proxy)
    assert await client.receive_line() == GREETING
    client.drop()
    assert (await scene.session())["server_address"] == f"127.0.0.1:{port}"


async def test_a_name_that_moves(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """New sessions follow a name to its new address; the one that is open stays."""
    one = await scene.server((*collect(b"one\r\n"),), bind="127.0.0.1:0")
    port = one.address.rpartition(":")[2]
    two = await scene.server((*collect(b"two\r\n"),), bind=f"127.0.0.2:{port}")
    answer = "127.0.0.1"

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    proxy = await scene.proxy(f"mail.internal:{port}", backends={"b": {"resolve_interval": "50ms"}})
    stays = await scene.dial(proxy)
    assert await stays.receive_line() == b"one\r\n"
    answer = "127.0.0.2"
    await scene.events("name-resolved", 2)
    moved = await scene.dial(proxy)
    assert await moved.receive_line() == b"two\r\n"
    await stays.send(b"still here\r\n")
    await one.connections[0].wait_received(b"still here\r\n")
    assert two.accepted == 1
    stays.drop()
    moved.drop()


async def test_a_resolver_that_hangs_keeps_nobody_waiting(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await scene.server()
    monkeypatch.setattr("mailproxy.proxy.backend.resolver._FIRST_LOOK_UP_S", 0.05)

    async def hang(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(trio.socket, "getaddrinfo", hang)
    proxy = await scene.proxy("mail.internal:143", server.address)
    for _ in range(4):
        client = await scene.dial(proxy)
        assert await client.receive_line() == GREETING
        client.drop()
    assert server.accepted == 4


async def test_servers_without_port_get_the_clients(scene: Scene) -> None:
    """Two binds of one frontend, each reaches the server's port of the same number."""
    greetings = (b"clear\r\n", b"other\r\n")
    listening = [await scene.server(collect(greeting), bind="127.0.0.2:0") for greeting in greetings]
    ports = [server.address.rpartition(":")[2] for server in listening]
    binds = [{"address": f"127.0.0.1:{port}"} for port in ports]
    proxy = await scene.proxy("127.0.0.2", frontends={"f": {"bind": binds}})
    for bind, greeting in enumerate(greetings):
        client = await scene.dial(proxy, bind=bind)
        assert await client.receive_line() == greeting
        client.drop()


async def test_backends_port_is_for_servers_without_one(scene: Scene) -> None:
    server = await scene.server(bind="127.0.0.2:0")
    port = int(server.address.rpartition(":")[2])
    proxy = await scene.proxy("127.0.0.2", backends={"b": {"port": port}})
    client = await scene.dial(proxy)
    assert await client.receive_line() == GREETING
    client.drop()


async def test_every_kind_of_bind_and_server(scene: Scene, tmp_path: Path) -> None:
    server = await scene.server(bind=f"unix:{tmp_path}/server.sock")
    inherited = socket.create_server(("127.0.0.1", 0))
    binds = [
        {"address": "127.0.0.1:0"},
        {"address": "[::1]:0"},
        {"address": "[::]:0"},
        {"address": f"unix:{tmp_path}/proxy.sock", "unix_mode": "0600"},
        {"address": f"fd:{inherited.fileno()}"},
    ]
    proxy = await scene.proxy(server.address, frontends={"f": {"bind": binds}})
    both = proxy.frontends["f"].addresses[2].rpartition(":")[2]
    addresses = [*proxy.frontends["f"].addresses, f"127.0.0.1:{both}", f"[::1]:{both}"]
    addresses.remove(f"[::]:{both}")
    for address in addresses:
        client = await dial(address)
        assert await client.receive_line() == GREETING, address
        client.drop()
    clients = [line["client"] for line in await scene.sessions(len(addresses))]
    assert clients.count("unix:4") == 1
    assert sum(client.startswith("[::1]:") for client in clients) == 2
    assert sum(client.startswith("127.0.0.1:") for client in clients) == 3
    inherited.close()


async def test_least_connections(scene: Scene) -> None:
    servers = [await scene.server() for _ in range(3)]
    proxy = await scene.proxy(*(server.address for server in servers))
    clients = []
    for _ in range(6):
        clients.append(await scene.dial(proxy))
        await clients[-1].receive_line()
    assert [server.accepted for server in servers] == [2, 2, 2]
    for number in (0, 3):  # both of one server's, since equals take turns
        await clients[number].close()
    await scene.sessions(2)
    more = []
    for _ in range(2):
        more.append(await scene.dial(proxy))
        await more[-1].receive_line()
    assert [server.accepted for server in servers] == [4, 2, 2]
    for client in (*clients, *more):
        client.drop()


async def test_draining_a_server_keeps_its_sessions(scene: Scene) -> None:
    servers = [await scene.server() for _ in range(2)]
    proxy = await scene.proxy(*(server.address for server in servers))
    first = await scene.dial(proxy)
    await first.receive_line()
    names = [server.address for server in servers]
    drained = proxy.backends["b"].servers[names[0]]
    drained.set_state("drain")
    for _ in range(3):
        client = await scene.dial(proxy)
        assert await client.receive_line() == GREETING
        client.drop()
    assert [server.accepted for server in servers] == [1, 3]
    await first.send(b"still\r\n")
    assert await first.receive_line() == b"still\r\n"
    first.drop()
    drained.set_state("ready")
    with pytest.raises(ValueError):
        drained.set_state("away")  # type: ignore[arg-type]
