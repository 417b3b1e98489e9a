"""End reasons: what client and server do, the reason in the log, and that no resource is left."""

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
from tests.support.proxy.relays import ON_EACH

pytestmark = ON_EACH

GREETING = b"* OK ready\r\n"


@frozen
class Case:
    """The steps of both peers on a connection, and the expected end."""

    name: str
    server: tuple[Step, ...]
    client: tuple[Step, ...]
    end: str
    state: str
    options: Mapping[str, Any] = field(factory=dict)


SHORT_CLIENT = {
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
SHORT_HALF_CLOSED = {"frontends": {"f": {"timeouts": {"half_closed": "300ms"}}}}

SEND_GREETING = Send(GREETING)
RECEIVE_GREETING = Expect(GREETING)

CASES = [
    Case("server closes first", (SEND_GREETING, ExpectLine()), (RECEIVE_GREETING, Send(b"x\r\n"), Collect()), "server-closed", "--"),
    Case("client closes first", (SEND_GREETING, Collect()), (RECEIVE_GREETING, Send(b"x\r\n"), HalfClose(), Collect()), "client-closed", "--"),
    Case("client sends nothing", (SEND_GREETING, Collect()), (RECEIVE_GREETING,), "client-closed", "--"),
    Case("server sends nothing and closes", (), (Collect(),), "server-closed", "--"),
    Case("byte by byte in both directions", (SendSlowly(GREETING * 20), Expect(b"quit\r\n" * 20)),
         (Expect(GREETING * 20), SendSlowly(b"quit\r\n" * 20), Collect()), "server-closed", "--"),
    Case("client resets", (SEND_GREETING, Collect()), (RECEIVE_GREETING, Reset()), "client-aborted", "CD"),
    Case("client resets while it receives", (Flood(),), (Expect(pattern(1000)), Reset()), "client-aborted", "CD"),
    Case("server resets", (SEND_GREETING, ExpectLine(), Reset()), (RECEIVE_GREETING, Send(b"x\r\n"), Collect()), "server-aborted", "SD"),
    Case("server resets at once", (Reset(),), (Collect(),), "server-aborted", "SD"),
    Case("server resets while it receives", (SEND_GREETING, Expect(pattern(1000)), Reset()), (RECEIVE_GREETING, Flood()), "server-aborted", "SD"),
    Case("client half-closes, server answers", (SEND_GREETING, Collect(), Send(b"bye\r\n")),
         (RECEIVE_GREETING, HalfClose(), Expect(b"bye\r\n"), Collect()), "client-closed", "--"),
    Case("server half-closes, client answers", (SEND_GREETING, HalfClose(), Expect(b"bye\r\n"), Collect()),
         (RECEIVE_GREETING, Collect(), Send(b"bye\r\n")), "server-closed", "--"),
    Case("client half-closes, server resets", (SEND_GREETING, Collect(), Reset()), (RECEIVE_GREETING, HalfClose(), Collect()), "server-aborted", "SD"),
    Case("client silent", (SEND_GREETING, Collect()), (RECEIVE_GREETING, Collect()), "client-timeout", "cD", SHORT_CLIENT),
    Case("server silent", (SEND_GREETING, Collect()), (RECEIVE_GREETING, Collect()), "server-timeout", "sD", SHORT_SERVER),
    Case("both silent", (SEND_GREETING, Collect()), (RECEIVE_GREETING, Collect()), "client-timeout", "cD", SHORT_BOTH),
    Case("both never send", (Collect(),), (Collect(),), "client-timeout", "cD", SHORT_BOTH),
    Case("client does not read", (Flood(),), (Stall(),), "client-timeout", "cD", SHORT_BOTH),
    Case("server does not read", (SEND_GREETING, Stall()), (RECEIVE_GREETING, Flood()), "server-timeout", "sD", SHORT_BOTH),
    Case("client half-closed, server never ends", (SEND_GREETING, Stall()), (RECEIVE_GREETING, HalfClose(), Collect()), "server-timeout", "sD", SHORT_HALF_CLOSED),
    Case("server half-closed, client never ends", (SEND_GREETING, HalfClose(), Collect()), (RECEIVE_GREETING, Stall()), "client-timeout", "cD", SHORT_HALF_CLOSED),
]  # fmt: skip


async def run_client(steps: tuple[Step, ...], connection: Connection, session_ended: trio.Event) -> None:
    """Run a client's steps and close. A client that stalls closes when the session has ended."""
    async with trio.open_nursery() as nursery:

        async def stop_at_session_end() -> None:
            await session_ended.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop_at_session_end)
        try:
            for step in steps:
                await step.play(connection)
            await connection.close()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the log line shows how the session ended
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
        # Timeouts do not depend on TLS, and each case takes its time.
        if tls == server_tls or not case.options
    ],
)
async def test_end(harness: ProxyHarness, case: Case, tls: bool, server_tls: bool) -> None:
    context = harness.ca.server_context("127.0.0.1") if server_tls else None
    server = await harness.server(case.server, tls=context)
    proxy = await harness.proxy(server.address, tls=tls, server_tls=server_tls, **case.options)
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy, tls=tls)
    session_ended = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_client, case.client, client, session_ended)
        line = await harness.session()
        session_ended.set()
    assert (line["end"], line["state"]) == (case.end, case.state), line
    await before.wait_until_restored(more_tasks=sum(isinstance(step, Stall) for step in case.server))
