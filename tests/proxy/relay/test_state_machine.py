"""Any actions of two peers in any order: no byte is lost or mixed up, and the end reason fits.

A normal run plays a few dozen scenarios. With ``--hypothesis-profile=deep`` it plays thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mailproxy.log.end_reasons import CLIENT_ABORTED, CLIENT_CLOSED, SERVER_CLOSED
from mailproxy.testing import ThrowAwayCA
from tests.support.proxy.relay_harness import (
    NAMES,
    TRANSPORTS,
    Action,
    Close,
    Contexts,
    Drop,
    HalfClose,
    Name,
    Pause,
    Read,
    ReceiveAll,
    Reset,
    Scenario,
    Send,
    StopReading,
    Transport,
)
from tests.support.proxy.relays import KINDS, ON_EACH, Kind

# The sizes of TLS records, of the relay's buffer and of pipes, and one that no socket buffer holds. Each also
# with one byte less and one more.
EDGES = [edge + more for edge in (16384, 65536, 131072, 262144, 1 << 20) for more in (-1, 0, 1)]
SIZES = st.one_of(st.integers(1, 3000), st.sampled_from(EDGES), st.integers(1, 3_000_000))
PEERS: st.SearchStrategy[Name] = st.sampled_from(NAMES)

Actions = list[Action]


def action_of(
    action: Callable[..., Action], *arguments: st.SearchStrategy[Any]
) -> st.SearchStrategy[Actions]:
    return st.builds(lambda *chosen: [action(*chosen)], PEERS, *arguments)


def blocked(peer: Name, size: int, resumed: int) -> Actions:
    """More is sent than fits while a peer does not read. Then it reads some of it."""
    other = NAMES[1 - NAMES.index(peer)]
    return [StopReading(peer), Send(other, size), Pause(), Read(peer, resumed), Pause()]


SENDS = (
    action_of(Send, SIZES),
    action_of(Send, st.integers(1, 3000), st.integers(1, 100)),
    action_of(Send, SIZES, st.integers(500, 20000)),
)
READS: tuple[st.SearchStrategy[Actions], ...] = (
    st.builds(blocked, PEERS, st.integers(300_000, 3_000_000), SIZES),
    action_of(StopReading),
    action_of(Read, SIZES),
    action_of(Read),
    action_of(ReceiveAll),
    st.builds(lambda: [Pause()]),
)
ENDS = (action_of(HalfClose), action_of(Close), action_of(Drop), action_of(Reset))


TRANSPORT_AND_BUFFER: st.SearchStrategy[tuple[Transport, int | None]] = st.tuples(
    st.sampled_from(TRANSPORTS), st.sampled_from([8192, 32768, None])
)


def scenarios(
    *parts: st.SearchStrategy[Actions], max_parts: int = 8, is_stepwise: bool = False
) -> st.SearchStrategy[Scenario]:
    actions = st.lists(st.one_of(*parts), min_size=min(3, max_parts), max_size=max_parts).map(
        lambda chosen: [action for part in chosen for action in part]
    )
    starts_late = st.just(value=False) if is_stepwise else st.booleans()
    return st.tuples(actions, TRANSPORT_AND_BUFFER, TRANSPORT_AND_BUFFER, PEERS, starts_late).map(
        lambda drawn: Scenario(
            drawn[0],
            client=drawn[1][0],
            client_buffer=drawn[1][1],
            server=drawn[2][0],
            server_buffer=drawn[2][1],
            last=drawn[3],
            starts_late=drawn[4],
            is_stepwise=is_stepwise,
        )
    )


# The hardest shapes, which must not depend on chance.
HARD_ACTIONS: dict[str, Actions] = {
    "blocked": blocked("client", 1_000_000, 100_000),
    "blocked in both directions": blocked("client", 600_000, 65536) + blocked("server", 600_000, 65536),
    "ended while blocked": [
        StopReading("client"),
        Send("server", 600_000),
        HalfClose("server"),
        Pause(),
    ],
    "both ended while blocked": [
        *(StopReading("client"), StopReading("server"), Send("server", 600_000), Send("client", 600_000)),
        *(HalfClose("server"), HalfClose("client"), Pause()),
    ],
    "bulk, then lines, then bulk": [
        *(
            Send("server", 600_000),
            ReceiveAll("client"),
            Send("client", 20, 10),
            Send("server", 20, 10),
            Pause(),
        ),
        *(Send("server", 600_000), Send("client", 600_000, 1000)),
    ],
    "an answer after half-closing": [
        *(
            Send("client", 600_000),
            HalfClose("client"),
            ReceiveAll("server"),
            Pause(),
            Send("server", 600_000),
        ),
    ],
}

# A side ends before the other has received everything: with TLS, close_notify finds a full socket.
ENDS_WHILE_FULL = (
    "ended while blocked",
    "both ended while blocked",
    "an answer after half-closing",
)


@ON_EACH
@pytest.mark.parametrize("server", ["clear", "TLS 1.3"])
@pytest.mark.parametrize("client", ["clear", "TLS 1.3"])
@pytest.mark.parametrize("name", HARD_ACTIONS)
def test_hard_scenario(
    relay_kind: Kind, contexts: Contexts, name: str, client: Transport, server: Transport
) -> None:
    """Small buffers, in the direction that matters, so that hardly any send fits."""
    for client_buffer, server_buffer in ((8192, None), (None, 8192)):
        scenario = Scenario(
            HARD_ACTIONS[name], client, server, client_buffer=client_buffer, server_buffer=server_buffer
        )
        scenario.run(relay_kind, contexts)


@ON_EACH
@pytest.mark.parametrize("name", ENDS_WHILE_FULL)
def test_close_notify_waits_for_room(relay_kind: Kind, contexts: Contexts, name: str) -> None:
    """It arrives after the last byte, however full the socket is. Without it a peer assumes a truncation."""
    for _ in range(5):
        Scenario(HARD_ACTIONS[name], client="TLS 1.3", client_buffer=8192).run(relay_kind, contexts)
        Scenario(HARD_ACTIONS[name], server="TLS 1.3", server_buffer=8192).run(relay_kind, contexts)


# A quarter of the examples of tests that open no sockets.
FEWER_EXAMPLES = settings(
    max_examples=settings().max_examples // 4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def contexts(throw_away_ca: ThrowAwayCA) -> Contexts:
    return Contexts.of(throw_away_ca)


@ON_EACH
@FEWER_EXAMPLES
@given(scenario=scenarios(*SENDS, *READS, *ENDS))
def test_any_scenario(relay_kind: Kind, contexts: Contexts, scenario: Scenario) -> None:
    scenario.run(relay_kind, contexts)


@ON_EACH
@FEWER_EXAMPLES
@given(scenario=scenarios(*SENDS, *READS, action_of(HalfClose)))
def test_any_orderly_scenario(relay_kind: Kind, contexts: Contexts, scenario: Scenario) -> None:
    """No peer resets, so every byte must arrive."""
    scenario.run(relay_kind, contexts)


@ON_EACH
@pytest.mark.parametrize("client", TRANSPORTS)
def test_client_reset_after_server_close_is_detected(
    relay_kind: Kind, contexts: Contexts, client: Transport
) -> None:
    """The reset is reported once. It must not be lost while the server's end is passed on."""
    harness = Scenario([Drop("server"), Reset("client")], client, starts_late=True).run(relay_kind, contexts)
    assert harness.end is CLIENT_ABORTED


@ON_EACH
@pytest.mark.parametrize("client", TRANSPORTS)
def test_client_closing_before_answer_is_orderly(
    relay_kind: Kind, contexts: Contexts, client: Transport
) -> None:
    """The client has ended in order. The kernel's reset in reply to later data is not an abort."""
    actions: Actions = [Close("client"), Send("server", 10), HalfClose("server")]
    harness = Scenario(actions, client, is_stepwise=True).run(relay_kind, contexts)
    assert (harness.end, harness.tunnel.to_client.received) == (CLIENT_CLOSED, 10)


@ON_EACH
@pytest.mark.parametrize("peer", NAMES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_close_notify_is_recorded(
    relay_kind: Kind, contexts: Contexts, peer: Name, transport: Transport
) -> None:
    """The log tells whether close_notify came. Both ends are orderly."""
    for action, has_close_notify in ((Drop(peer), False), (HalfClose(peer), True)):
        harness = Scenario([action], transport, transport, is_stepwise=True).run(relay_kind, contexts)
        assert harness.end is (CLIENT_CLOSED if peer == "client" else SERVER_CLOSED)
        side = harness.tunnel.client if peer == "client" else harness.tunnel.server
        assert side.close_notify is (has_close_notify if side.is_tls else None)


@pytest.mark.skipif(len(KINDS) < 2, reason="there is no other relay to compare with")
@FEWER_EXAMPLES
# Two records to a server that has closed: the engine sends both at once, the portable relay one by one.
@example(
    scenario=Scenario(
        [Close("server"), Send("client", 16385), HalfClose("client")], client="TLS 1.2", is_stepwise=True
    )
)
@given(scenario=scenarios(*SENDS, *ENDS, max_parts=5, is_stepwise=True))
def test_relays_have_same_outcome(contexts: Contexts, scenario: Scenario) -> None:
    """A stepwise scenario has the same outcome with each relay."""
    first, *others = [scenario.run(relay_kind, contexts).outcome() for relay_kind in KINDS]
    for other in others:
        assert first == other


@ON_EACH
@FEWER_EXAMPLES
@given(scenario=scenarios(*SENDS, *ENDS, max_parts=5, is_stepwise=True))
def test_stepwise_scenario_is_repeatable(relay_kind: Kind, contexts: Contexts, scenario: Scenario) -> None:
    first, second = (scenario.run(relay_kind, contexts).outcome() for _ in range(2))
    assert first == second
