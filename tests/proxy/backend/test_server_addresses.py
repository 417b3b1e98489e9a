"""Servers with several addresses, and the log lines about addresses that fail."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence

import pytest
import trio

from mailproxy.net.dial import Endpoint
from mailproxy.testing import UnansweredServer, collect
from tests.support.ports import free_port
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness, ResourceSnapshot

GREETING = b"* OK ready\r\n"
CONNECT_S = 1.5

Answer = Callable[[], Sequence[str]]


def resolve_to(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    """Give every name these IPv4 addresses."""

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in answer()]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("silent", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]], ids=["one", "two"])
async def test_silent_address_takes_share_of_timeout(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, silent: list[str]
) -> None:
    """The next address is reached within ``timeouts.connect``."""
    port = free_port(("127.0.0.1", *silent))
    server = await harness.server(collect(GREETING), bind=f"127.0.0.1:{port}")
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


async def test_silent_addresses_share_connect_timeout(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they take no longer than ``timeouts.connect``."""
    hosts = ("127.0.0.1", "127.0.0.2")
    port = free_port(hosts)
    for host in hosts:
        await harness.nursery.start(UnansweredServer(f"{host}:{port}").serve)
    resolve_to(monkeypatch, lambda: list(hosts))
    proxy = await harness.proxy(f"mail.internal:{port}", backends={"b": {"timeouts": {"connect": "300ms"}}})
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    assert (line["end"], line["state"]) == ("connect-timeout", "sC")


@pytest.mark.parametrize("all_fail", [False, True])
async def test_unreachable_address_is_skipped(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, all_fail: bool
) -> None:
    """For example when IPv6 is switched off. If all addresses are like that, the server is unreachable."""
    server = await harness.server(collect(GREETING))
    port = server.address.rpartition(":")[2]
    address = Endpoint.address

    def address_unless(endpoint: Endpoint, client_port: int | None) -> object:
        if all_fail or endpoint.host == "127.0.0.2":
            raise OSError(errno.EADDRNOTAVAIL, "as connect(2) would fail")
        return address(endpoint, client_port)

    monkeypatch.setattr(Endpoint, "address", address_unless)
    resolve_to(monkeypatch, lambda: ["127.0.0.2", "127.0.0.1"])
    proxy = await harness.proxy(f"mail.internal:{port}")
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == (b"" if all_fail else GREETING)
    await client.close()
    line = await harness.session()
    if all_fail:
        assert (line["end"], line["state"]) == ("server-refused", "SC")
    else:
        assert (line["end"], line["server_address"]) == ("client-closed", server.address)


async def test_rotated_answers_are_not_logged(harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server rotates its answer. Only a new address and a missing one are logged."""
    look_ups = 0
    hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]

    def answer() -> list[str]:
        nonlocal look_ups
        look_ups += 1
        return hosts[look_ups % len(hosts) :] + hosts[: look_ups % len(hosts)]

    async def wait_for_look_ups(count: int) -> None:
        expected = look_ups + count
        with trio.fail_after(TIMEOUT_S):
            while look_ups < expected:  # noqa: ASYNC110 - a count, not an event
                await trio.sleep(0.005)

    resolve_to(monkeypatch, answer)
    await harness.proxy("mail.internal:143", backends={"b": {"resolve_interval": "20ms"}})
    await harness.events("name-resolved")
    await wait_for_look_ups(7)
    hosts.append("127.0.0.5")
    await harness.events("name-resolved", 2)
    await wait_for_look_ups(7)
    hosts.pop()
    await harness.events("name-resolved", 3)
    await wait_for_look_ups(7)
    events = await harness.events("name-resolved", 3)
    assert [len(line["addresses"]) for line in events] == [3, 4, 3]


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_server_fault_is_logged_although_client_left(harness: ProxyHarness, end: str) -> None:
    """With ``log_null``, clients that give up first must not hide from the log that a server is away."""
    unanswered: str = await harness.nursery.start(UnansweredServer().serve)
    proxy = await harness.proxy(
        unanswered,
        frontends={"f": {"log_null": True}},
        backends={"b": {"timeouts": {"connect": "200ms"}}},
    )
    for _ in range(2):
        client = await harness.dial(proxy)
        if end == "close":
            await client.close()
        else:
            client.reset()
    lines = await harness.sessions(2)
    assert {(line["end"], line["server"]) for line in lines} == {("client-left", unanswered)}
