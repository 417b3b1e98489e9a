"""Stop and drain: which sessions continue, how they are logged, and cancellation at every step."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mailproxy.net.poller import ListenerWatch, Poller
from mailproxy.proxy.session.session import Session
from mailproxy.testing import Collect, Send, UnansweredServer, collect, dial
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import ON_EACH, setting_of
from tests.support.proxy.task_steps import cancel_at_every_step

GREETING = b"* OK ready\r\n"


@ON_EACH
async def test_drain_and_stop(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address)
    address = proxy.frontends["f"].addresses[0]
    early_client, late_client = await harness.dial(proxy), await harness.dial(proxy)
    for client in (early_client, late_client):
        assert await client.receive_line() == GREETING
    is_drained = trio.Event()

    async def drain() -> None:
        await proxy.drain(0.5)
        is_drained.set()

    harness.nursery.start_soon(drain)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(OSError):  # the listener is closed
        await dial(address)
    await early_client.close()  # open sessions may end within the drain timeout
    assert (await harness.session())["end"] == "client-closed"
    assert not is_drained.is_set()
    with trio.fail_after(TIMEOUT_S):  # then the others are stopped
        assert await late_client.receive_until_end() == b""
        await is_drained.wait()
    late_client.drop()
    lines = await harness.sessions(2)
    assert (lines[1]["end"], lines[1]["state"], lines[1]["by"]) == ("stopped", "K-", "admin")
    assert lines[1]["total_ms"] >= 500


async def test_drain_without_sessions_ends_at_once(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address)
    with trio.fail_after(TIMEOUT_S):
        await proxy.drain(1000)


@ON_EACH
async def test_stop_in_each_phase(harness: ProxyHarness) -> None:
    """With a drain timeout of 0 the log names the phase of each session."""
    unanswering: str = await harness.nursery.start(UnansweredServer().serve)
    server = await harness.server(collect(GREETING))
    proxy = await harness.run_proxy(
        {
            "log": {"format": "json", "to": str(harness.log)},
            "process": {"relay": setting_of(harness.relay_kind)},
            "frontends": {
                "f": {"backend": "b", "log_null": True, "bind": [{"address": "127.0.0.1:0"}]},
                "t": {
                    "backend": "b",
                    "log_null": True,
                    "tls": {"certificates": [str(harness.pem)]},
                    "bind": [{"address": "127.0.0.1:0", "mode": "tls"}],
                },
                "n": {"backend": "n", "log_null": True, "bind": [{"address": "127.0.0.1:0"}]},
            },
            "backends": {
                "b": {"servers": [server.address]},
                "n": {"servers": [unanswering], "check": "none"},
            },
        }
    )
    clients = [await dial(proxy.frontends[name].addresses[0]) for name in "ftn"]
    assert await clients[0].receive_line() == GREETING
    with trio.fail_after(TIMEOUT_S):
        while proxy.sessions < 3:  # noqa: ASYNC110 - a count, not an event
            await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked()
        await proxy.drain(0)
    logged = {line["frontend"]: (line["end"], line["state"]) for line in await harness.sessions(3)}
    assert logged == {
        "f": ("stopped", "K-"),
        "t": ("handshake-stopped", None),
        "n": ("stopped-connecting", "KC"),
    }
    for client in clients:
        client.drop()


@ON_EACH
@pytest.mark.parametrize("tls", [False, True])
async def test_cancelled_at_every_step(harness: ProxyHarness, tls: bool) -> None:
    """A cancelled proxy closes everything and logs each session."""
    server = await harness.server(
        (Send(GREETING), Collect()), tls=harness.ca.server_context("127.0.0.1") if tls else None
    )
    bind_tls = {"mode": "tls", "tls": {"certificates": [str(harness.pem)]}} if tls else {}
    mapping = {
        "log": {"format": "json", "to": str(harness.log)},
        "process": {"relay": setting_of(harness.relay_kind)},
        "frontends": {
            "f": {"backend": "b", "log_null": True, "bind": [{"address": "127.0.0.1:0", **bind_tls}]},
        },
        "backends": {
            "b": {"servers": [server.address], **({"tls": {"ca": str(harness.ca.pem)}} if tls else {})}
        },
    }
    context = harness.ca.client_context() if tls else None

    async def run_client(address: str) -> None:
        async with await dial(address, tls=context) as client:
            await client.send(b"x\r\n")
            await client.receive_until_end()

    await cancel_at_every_step(mapping, run_client)
    assert server.accepted > 0, "some runs reach the server"
    lines = harness.lines()
    assert {line["event"] for line in lines} <= {"session", "listening", "ready", "stopped"}
    assert "internal-error" not in {line.get("end") for line in lines}


async def test_fault_when_the_tunnel_opens_leaves_no_socket_with_the_poller(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay has not taken over the sockets then, so the session unregisters them."""
    pollers = []

    def fail(session: Session, *_: object) -> None:
        pollers.append(session.context.poller)
        raise RuntimeError("a fault")

    monkeypatch.setattr(Session, "_open_tunnel", fail)
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, frontends={"f": {"log_start": True}})
    async with await harness.dial(proxy) as client:
        assert await client.receive_until_end() == b""
    assert (await harness.session())["end"] == "internal-error"
    assert isinstance(pollers[0], Poller)
    assert [type(handler) for handler in pollers[0]._handlers if handler is not None] == [ListenerWatch]
    harness.log.write_text("")  # the harness wants no faults of the proxy at its end
