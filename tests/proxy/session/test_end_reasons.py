"""Whatever peers do, a session ends with the documented reason, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from attrs import field, frozen

from mailproxy.testing import (
    Collect,
    Connection,
    Expect,
    ExpectLine,
    Flood,
    HalfClose,
    Reset,
    Send,
    SendSlowly,
    Stall,
    Step,
    pattern,
)
from tests.support.proxy.proxy_harness import ProxyHarness, ResourceSnapshot
from tests.support.proxy.relays import ON_BOTH

pytestmark = ON_BOTH

GREETING = b"* OK ready\r\n"


@frozen
class Case:
    """What both peers do on a connection, and how that ends."""

    name: str
    server: tuple[Step, ...]
    client: tuple[Step, ...]
    end: str
    state: str
    options: Mapping[str, Any] = field(factory=dict)


SHORT = {
    "frontends": {"f": {"timeouts": {"client": "300ms"}}},
    "backends": {"b": {"timeouts": {"server": "5s"}}},
}
SHORT_SERVER = {
    "frontends": {"f": {"timeouts": {"client": "5s"}}},
    "backends": {"b": {"timeouts": {"server": "300ms"}}},
}
SHORT_BOTH = {
    "frontends": {"f": {"timeouts": {"client": "300ms"}}},
    "backends": {"b": {"timeouts": {"server": "300ms"}}},
}
SHORT_HALF = {"frontends": {"f": {"timeouts": {"half_closed": "300ms"}}}}

GREET = Send(GREETING)
HEAR = Expect(GREETING)

CASES = [
    Case("server closes first", (GREET, ExpectLine()), (HEAR, Send(b"x\r\n"), Collect()), "server-closed", "--"),
    Case("client closes first", (GREET, Collect()), (HEAR, Send(b"x\r\n"), HalfClose(), Collect()), "client-closed", "--"),
    Case("client says nothing", (GREET, Collect()), (HEAR,), "client-closed", "--"),
    Case("server says nothing and closes", (), (Collect(),), "server-closed", "--"),
    Case("byte by byte both ways", (SendSlowly(GREETING * 20), Expect(b"quit\r\n" * 20)),
         (Expect(GREETING * 20), SendSlowly(b"quit\r\n" * 20), Collect()), "server-closed", "--"),
    Case("client resets", (GREET, Collect()), (HEAR, Reset()), "client-aborted", "CD"),
    Case("client resets while it is sent to", (Flood(),), (Expect(pattern(1000)), Reset()), "client-aborted", "CD"),
    Case("server resets", (GREET, ExpectLine(), Reset()), (HEAR, Send(b"x\r\n"), Collect()), "server-aborted", "SD"),
    Case("server resets at once", (Reset(),), (Collect(),), "server-aborted", "SD"),
    Case("server resets while it is sent to", (GREET, Expect(pattern(1000)), Reset()), (HEAR, Flood()), "server-aborted", "SD"),
    Case("client half-closes, server answers", (GREET, Collect(), Send(b"bye\r\n")),
         (HEAR, HalfClose(), Expect(b"bye\r\n"), Collect()), "client-closed", "--"),
    Case("server half-closes, client answers", (GREET, HalfClose(), Expect(b"bye\r\n"), Collect()),
         (HEAR, Collect(), Send(b"bye\r\n")), "server-closed", "--"),
    Case("client half-closes, server resets", (GREET, Collect(), Reset()), (HEAR, HalfClose(), Collect()), "server-aborted", "SD"),
    Case("client silent", (GREET, Collect()), (HEAR, Collect()), "client-timeout", "cD", SHORT),
    Case("server silent", (GREET, Collect()), (HEAR, Collect()), "server-timeout", "sD", SHORT_SERVER),
    Case("both silent", (GREET, Collect()), (HEAR, Collect()), "client-timeout", "cD", SHORT_BOTH),
    Case("neither ever speaks", (Collect(),), (Collect(),), "client-timeout", "cD", SHORT_BOTH),
    Case("client does not read", (Flood(),), (Stall(),), "client-timeout", "cD", SHORT_BOTH),
    Case("server does not read", (GREET, Stall()), (HEAR, Flood()), "server-timeout", "sD", SHORT_BOTH),
    Case("client half-closed, server never ends", (GREET, Stall()), (HEAR, HalfClose(), Collect()), "server-timeout", "sD", SHORT_HALF),
    Case("server half-closed, client never ends", (GREET, HalfClose(), Collect()), (HEAR, Stall()), "client-timeout", "cD", SHORT_HALF),
]  # fmt: skip


async def play(steps: tuple[Step, ...], connection: Connection, over: trio.Event) -> None:
    """Play a client's part and leave; one that stalls leaves when the session is over."""
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await over.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        try:
            for step in steps:
                await step.play(connection)
            await connection.close()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the end that the test is about
        nursery.cancel_scope.cancel()
    connection.drop()


@pytest.mark.parametrize(
    ("case", "tls", "server_tls"),
    [
        pytest.param(
            case,
            tls,
            server_tls,
            id=f"{case.name}-{'tls' if tls else 'clear'}-to-{'tls' if server_tls else 'clear'}",
        )
        for case in CASES
        for tls in (False, True)
        for server_tls in (False, True)
        # whose time is up has nothing to do with TLS, and each takes its time
        if tls == server_tls or not case.options
    ],
)
async def test_end(harness: ProxyHarness, case: Case, tls: bool, server_tls: bool) -> None:
    context = harness.ca.server_context("127.0.0.1") if server_tls else None
    server = await harness.server(case.server, tls=context)
    proxy = await harness.proxy(server.address, tls=tls, server_tls=server_tls, **case.options)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy, tls=tls)
    over = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, case.client, client, over)
        line = await harness.session()
        over.set()
    assert (line["end"], line["state"]) == (case.end, case.state), line
    await before.wait_until_restored(more_tasks=sum(isinstance(step, Stall) for step in case.server))
