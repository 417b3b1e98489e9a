"""Servers with several addresses, and what is said about those that fail."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence

import pytest
import trio

from mailproxy.net.dial import Endpoint
from mailproxy.testing import UnansweredServer, collect
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness, ResourceSnapshot

GREETING = b"* OK ready\r\n"
CONNECT_S = 1.5

Answer = Callable[[], Sequence[str]]


def resolve_to(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    """Every name has these IPv4 addresses."""

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in answer()]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("silent", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]], ids=["one", "two"])
async def test_an_address_that_never_answers(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, silent: list[str]
) -> None:
    """It has its share of the limit, not all of it: the next address is reached in time."""
    server = await harness.server(collect(GREETING))
    port = server.address.rpartition(":")[2]
    for host in silent:
        await harness.nursery.start(UnansweredServer(f"{host}:{port}").serve)
    resolve_to(monkeypatch, lambda: [*silent, "127.0.0.1"])
    proxy = await harness.proxy(
        f"mail.internal:{port}", backends={"b": {"timeouts": {"connect": f"{CONNECT_S}s"}}}
    )
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    await client.close()
    line = await harness.session()
    assert (line["end"], line["server_address"]) == ("client-closed", server.address)
    assert line["connect_ms"] < CONNECT_S * 1000
    await before.wait_until_restored()


async def test_addresses_that_all_never_answer(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they have no longer than the limit."""
    nowhere: str = await harness.nursery.start(UnansweredServer().serve)
    port = nowhere.rpartition(":")[2]
    await harness.nursery.start(UnansweredServer(f"127.0.0.2:{port}").serve)
    resolve_to(monkeypatch, lambda: ["127.0.0.1", "127.0.0.2"])
    proxy = await harness.proxy(f"mail.internal:{port}", backends={"b": {"timeouts": {"connect": "300ms"}}})
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    assert (line["end"], line["state"]) == ("connect-timeout", "sC")


@pytest.mark.parametrize("all_of_them", [False, True])
async def test_an_address_that_this_machine_cannot_reach_from_any_of_its_own(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, all_of_them: bool
) -> None:
    """Where IPv6 is switched off, for example. The next address is tried; if all are like that, the server is unreachable."""
    server = await harness.server(collect(GREETING))
    port = server.address.rpartition(":")[2]
    address = Endpoint.address

    def address_unless(endpoint: Endpoint, client_port: int | None) -> object:
        if all_of_them or endpoint.host == "127.0.0.2":
            raise OSError(errno.EADDRNOTAVAIL, "as the kernel would say when it is asked to connect")
        return address(endpoint, client_port)

    monkeypatch.setattr(Endpoint, "address", address_unless)
    resolve_to(monkeypatch, lambda: ["127.0.0.2", "127.0.0.1"])
    proxy = await harness.proxy(f"mail.internal:{port}")
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == (b"" if all_of_them else GREETING)
    await client.close()
    line = await harness.session()
    if all_of_them:
        assert (line["end"], line["state"]) == ("server-refused", "SC")
    else:
        assert (line["end"], line["server_address"]) == ("client-closed", server.address)


async def test_answers_that_rotate_are_no_news(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server turns its answer round each time. A new address is said, and so is one that is gone."""
    looks = 0
    hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]

    def answer() -> list[str]:
        nonlocal looks
        looks += 1
        return hosts[looks % len(hosts) :] + hosts[: looks % len(hosts)]

    async def look(times: int) -> None:
        enough = looks + times
        with trio.fail_after(TIMEOUT_S):
            while looks < enough:  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.005)

    resolve_to(monkeypatch, answer)
    await harness.proxy("mail.internal:143", backends={"b": {"resolve_interval": "20ms"}})
    await harness.events("name-resolved")
    await look(7)
    hosts.append("127.0.0.5")
    await harness.events("name-resolved", 2)
    await look(7)
    hosts.pop()
    await harness.events("name-resolved", 3)
    await look(7)
    news = await harness.events("name-resolved", 3)
    assert [len(line["addresses"]) for line in news] == [3, 4, 3]


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_servers_fault_has_its_line_although_the_client_has_left(
    harness: ProxyHarness, leave: str
) -> None:
    """With `log_null`, clients that give up first must not hide from the log that a server is away."""
    nowhere: str = await harness.nursery.start(UnansweredServer().serve)
    proxy = await harness.proxy(
        nowhere,
        frontends={"f": {"log_null": True}},
        backends={"b": {"timeouts": {"connect": "200ms"}}},
    )
    for _ in range(2):
        client = await harness.dial(proxy)
        if leave == "close":
            await client.close()
        else:
            client.reset()
    lines = await harness.sessions(2)
    assert {(line["end"], line["server"]) for line in lines} == {("client-left", nowhere)}
