"""Resolving servers: names and literal addresses become endpoints."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.lowlevel

from mailproxy.address import parse_server
from mailproxy.errors import ServerRefusedError
from mailproxy.net.dial import Endpoint
from mailproxy.net.resolve import literal_endpoint, resolve


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("192.0.2.1:993", Endpoint(socket.AF_INET, "192.0.2.1", 993)),
        ("192.0.2.1", Endpoint(socket.AF_INET, "192.0.2.1", None)),
        ("[2001:db8::1]:993", Endpoint(socket.AF_INET6, "2001:db8::1", 993)),
        ("2001:DB8::0:1", Endpoint(socket.AF_INET6, "2001:db8::1", None)),
        ("unix:/run/imap.sock", Endpoint(socket.AF_UNIX, "/run/imap.sock")),
        ("imap.internal:993", None),
        ("localhost", None),
    ],
)
def test_literal_addresses_need_no_resolver(address: str, endpoint: Endpoint | None) -> None:
    assert literal_endpoint(parse_server(address)) == endpoint


@pytest.mark.parametrize(
    ("endpoint", "port", "text"),
    [
        (Endpoint(socket.AF_INET, "192.0.2.1", 993), 143, "192.0.2.1:993"),
        (Endpoint(socket.AF_INET, "192.0.2.1"), 143, "192.0.2.1:143"),
        (Endpoint(socket.AF_INET6, "::1"), 143, "[::1]:143"),
        (Endpoint(socket.AF_UNIX, "/run/imap.sock"), 143, "unix:/run/imap.sock"),
    ],
)
def test_endpoint_text_matches_configured_address(endpoint: Endpoint, port: int, text: str) -> None:
    assert endpoint.text(port) == text


async def test_name_resolves_to_all_its_addresses() -> None:
    endpoints = await resolve("localhost", 993)
    assert Endpoint(socket.AF_INET, "127.0.0.1", 993) in endpoints
    assert len(set(endpoints)) == len(endpoints)
    assert {endpoint.family for endpoint in endpoints} <= {socket.AF_INET, socket.AF_INET6}
    assert all(endpoint.port == 993 for endpoint in endpoints)


async def test_missing_port_stays_missing() -> None:
    assert {endpoint.port for endpoint in await resolve("localhost", None)} == {None}


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("x" * 64 + ".example", "not a host name"),  # a label has at most 63 characters
        ("fe80::1%nowhere0", ""),  # fails in the resolver without asking the network
    ],
)
async def test_unresolvable_name_is_a_server_error(host: str, reason: str) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        await resolve(host, 993)
    assert str(caught.value).startswith(f"{host}: {reason}")
    assert len(str(caught.value)) > len(f"{host}: ")


async def test_lookup_can_be_cancelled() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await resolve("localhost", 993)
    assert scope.cancelled_caught


async def test_event_loop_runs_during_lookup(nursery: trio.Nursery) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(count)
    await resolve("localhost", 993)
    assert turns > 0
