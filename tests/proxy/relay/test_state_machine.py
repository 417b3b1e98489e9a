"""Whatever two peers do, in any order: the relay loses nothing, mixes nothing up, and names the end as it was.

In passing this plays a few dozen plays; ``pytest --hypothesis-profile=deep tests/proxy/test_relay_machine.py`` plays thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mailproxy.log.end_reasons import CLIENT_ABORTED, CLIENT_CLOSED, SERVER_CLOSED
from mailproxy.net.relay import KINDS
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
from tests.support.proxy.relays import ON_BOTH, Kind

# Records of TLS, the relay's buffer, pipes, and what no socket holds; and one byte to either side.
EDGES = [edge + more for edge in (16384, 65536, 131072, 262144, 1 << 20) for more in (-1, 0, 1)]
SIZES = st.one_of(st.integers(1, 3000), st.sampled_from(EDGES), st.integers(1, 3_000_000))
WHO: st.SearchStrategy[Name] = st.sampled_from(NAMES)

Acts = list[Action]


def one(act: Callable[..., Action], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Acts]:
    return st.builds(lambda *chosen: [act(*chosen)], WHO, *arguments)


def held_back(who: Name, size: int, resumed: int) -> Acts:
    """More is said to one that does not hear than fits on the way; then it hears some of it."""
    other = NAMES[1 - NAMES.index(who)]
    return [StopReading(who), Send(other, size), Pause(), Read(who, resumed), Pause()]


SPEECH = (
    one(Send, SIZES),
    one(Send, st.integers(1, 3000), st.integers(1, 100)),
    one(Send, SIZES, st.integers(500, 20000)),
)
PACE: tuple[st.SearchStrategy[Acts], ...] = (
    st.builds(held_back, WHO, st.integers(300_000, 3_000_000), SIZES),
    one(StopReading),
    one(Read, SIZES),
    one(Read),
    one(ReceiveAll),
    st.builds(lambda: [Pause()]),
)
ENDS = (one(HalfClose), one(Close), one(Drop), one(Reset))


WIRES: st.SearchStrategy[tuple[Transport, int | None]] = st.tuples(
    st.sampled_from(TRANSPORTS), st.sampled_from([8192, 32768, None])
)


def plays(
    *scenes: st.SearchStrategy[Acts], most: int = 8, is_in_step: bool = False
) -> st.SearchStrategy[Scenario]:
    acts = st.lists(st.one_of(*scenes), min_size=min(3, most), max_size=most).map(
        lambda parts: [act for part in parts for act in part]
    )
    late = st.just(value=False) if is_in_step else st.booleans()
    return st.tuples(acts, WIRES, WIRES, WHO, late).map(
        lambda drawn: Scenario(
            drawn[0],
            client=drawn[1][0],
            client_buffer=drawn[1][1],
            server=drawn[2][0],
            server_buffer=drawn[2][1],
            last=drawn[3],
            is_late=drawn[4],
            is_in_step=is_in_step,
        )
    )


# The shapes that are hardest, whether chance finds them or not.
HARD: dict[str, Acts] = {
    "held back": held_back("client", 1_000_000, 100_000),
    "held back both ways": held_back("client", 600_000, 65536) + held_back("server", 600_000, 65536),
    "ended while it was held back": [
        StopReading("client"),
        Send("server", 600_000),
        HalfClose("server"),
        Pause(),
    ],
    "both ended while they were held back": [
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

# Where a side ends before the other has heard it all: under TLS, close_notify finds the socket full then.
ENDS_WHILE_FULL = (
    "ended while it was held back",
    "both ended while they were held back",
    "an answer after half-closing",
)


@ON_BOTH
@pytest.mark.parametrize("server", ["clear", "TLS 1.3"])
@pytest.mark.parametrize("client", ["clear", "TLS 1.3"])
@pytest.mark.parametrize("name", HARD)
def test_hard_play(
    relay_kind: Kind, contexts: Contexts, name: str, client: Transport, server: Transport
) -> None:
    """With buffers so small that hardly anything is taken whole, in the direction that matters."""
    for client_buffer, server_buffer in ((8192, None), (None, 8192)):
        play = Scenario(HARD[name], client, server, client_buffer=client_buffer, server_buffer=server_buffer)
        play.run(relay_kind, contexts)


@ON_BOTH
@pytest.mark.parametrize("name", ENDS_WHILE_FULL)
def test_close_notify_waits_for_room(relay_kind: Kind, contexts: Contexts, name: str) -> None:
    """It comes behind the last byte, however full the socket is: without it a peer takes the end for a truncation."""
    for _ in range(5):
        Scenario(HARD[name], client="TLS 1.3", client_buffer=8192).run(relay_kind, contexts)
        Scenario(HARD[name], server="TLS 1.3", server_buffer=8192).run(relay_kind, contexts)


# a fourth of what tests have that open no sockets
SOMETIMES = settings(
    max_examples=settings().max_examples // 4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def contexts(throw_away_ca: ThrowAwayCA) -> Contexts:
    return Contexts.of(throw_away_ca)


@ON_BOTH
@SOMETIMES
@given(play=plays(*SPEECH, *PACE, *ENDS))
def test_any_play(relay_kind: Kind, contexts: Contexts, play: Scenario) -> None:
    play.run(relay_kind, contexts)


@ON_BOTH
@SOMETIMES
@given(play=plays(*SPEECH, *PACE, one(HalfClose)))
def test_any_play_in_order(relay_kind: Kind, contexts: Contexts, play: Scenario) -> None:
    """Nobody resets, so every byte must arrive."""
    play.run(relay_kind, contexts)


@ON_BOTH
@pytest.mark.parametrize("client", TRANSPORTS)
def test_a_client_that_resets_as_the_server_leaves(
    relay_kind: Kind, contexts: Contexts, client: Transport
) -> None:
    """Its reset is news once: it must not be lost while the server's end is passed on."""
    harness = Scenario([Drop("server"), Reset("client")], client, is_late=True).run(relay_kind, contexts)
    assert harness.end is CLIENT_ABORTED


@ON_BOTH
@pytest.mark.parametrize("client", TRANSPORTS)
def test_a_client_that_leaves_before_the_answer(
    relay_kind: Kind, contexts: Contexts, client: Transport
) -> None:
    """It has said its last word in order: the kernel's reset to what it is told after that is no abort."""
    acts: Acts = [Close("client"), Send("server", 10), HalfClose("server")]
    harness = Scenario(acts, client, is_in_step=True).run(relay_kind, contexts)
    assert (harness.end, harness.tunnel.to_client.received) == (CLIENT_CLOSED, 10)


@ON_BOTH
@pytest.mark.parametrize("who", NAMES)
@pytest.mark.parametrize("channel", TRANSPORTS)
def test_close_notify(relay_kind: Kind, contexts: Contexts, who: Name, channel: Transport) -> None:
    """Whether it came is told apart; both ends are orderly."""
    for act, came in ((Drop(who), False), (HalfClose(who), True)):
        harness = Scenario([act], channel, channel, is_in_step=True).run(relay_kind, contexts)
        assert harness.end is (CLIENT_CLOSED if who == "client" else SERVER_CLOSED)
        side = harness.tunnel.client if who == "client" else harness.tunnel.server
        assert side.close_notify is (came if side.is_tls else None)


@pytest.mark.skipif(len(KINDS) < 2, reason="there is no other relay to compare with")
@SOMETIMES
@example(
    # One write or two, to a server that has closed: the engine sends both records at once.
    play=Scenario(
        [Close("server"), Send("client", 16385), HalfClose("client")], client="TLS 1.2", is_in_step=True
    )
)
@given(play=plays(*SPEECH, *ENDS, most=5, is_in_step=True))
def test_both_alike(contexts: Contexts, play: Scenario) -> None:
    """Played in step, a play has one outcome."""
    one, *others = [play.run(relay_kind, contexts).outcome() for relay_kind in KINDS]
    for other in others:
        assert one == other


@ON_BOTH
@SOMETIMES
@given(play=plays(*SPEECH, *ENDS, most=5, is_in_step=True))
def test_in_step(relay_kind: Kind, contexts: Contexts, play: Scenario) -> None:
    first, second = (play.run(relay_kind, contexts).outcome() for _ in range(2))
    assert first == second
