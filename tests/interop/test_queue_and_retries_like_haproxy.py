"""HAProxy beside mailproxy, with the same backend and the same failures: retries, queues and where clients stick.

What differs, and is meant to:

- Servers that a session has been to are tried again only behind a pause; HAProxy goes round them at once.
- A client that resets its connection while it waits or is being connected has left (`CQ`, `CC`); HAProxy: `CD`.
- `max_queue` is the backend's, HAProxy's `maxqueue` a server's.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import Authority
from tests.support.interop.pool_comparison import PORTS, Both, Scene, down, queues, server
from tests.support.interop.pool_config import Member, Plan
from tests.support.interop.scripted_session import GREETING, HOST, Blackhole
from tests.support.ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.interop.controlled_server import Conduct

pytestmark = [pytest.mark.peers, pytest.mark.slow]

OTHER, THIRD = "127.0.0.2", "127.0.0.3"  # clients
S1, S2 = Member(name="s1"), Member(name="s2")
REFUSING = Member(name="s1", refuses=True)
NARROW, NARROW_TOO = Member(name="s1", max_sessions=1), Member(name="s2", max_sessions=1)


@pytest.fixture(scope="module")
def ports() -> list[int]:
    return free_ports(PORTS, [HOST])


@pytest.fixture
def both(folder: Path, ports: list[int]) -> Both:
    return Both(folder, ports)


def turned_away(scene: Scene) -> None:
    scene.be_turned_away()


class TestRetries:
    def test_another_one_is_tried_at_once(self, both: Both) -> None:
        plan = Plan(members=(REFUSING, S2))
        assert both.agree(plan, Scene.come_and_go) == ["127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"]

    def test_and_another_one(self, both: Both) -> None:
        plan = Plan(
            members=(REFUSING, Member(name="s2", refuses=True), Member(name="s3")), balance="leastconn"
        )
        assert both.agree(plan, Scene.come_and_go) == ["127.0.0.1 mail/s3 #/#/# 12 -- 1/1/0/0/+2 0/0"]

    def test_until_there_are_no_more_retries(self, both: Both) -> None:
        plan = Plan(members=(REFUSING, Member(name="s2", refuses=True)))
        assert both.agree(plan, turned_away) == ["127.0.0.1 mail/s2 #/-1/# 0 SC 1/1/0/0/+3 0/0"]

    def test_without_redispatch_it_is_always_the_same(self, both: Both) -> None:
        plan = Plan(members=(REFUSING, S2), redispatch=False)
        assert both.agree(plan, turned_away) == ["127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/3 0/0"]

    def test_without_retries_it_is_over(self, both: Both) -> None:
        plan = Plan(members=(REFUSING, S2), retries=0)
        assert both.agree(plan, turned_away) == ["127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/0 0/0"]

    @pytest.mark.parametrize("others", [(), (Member(name="s2", backup=True),)], ids=["none", "a-backup"])
    def test_there_is_nobody_else(self, both: Both, others: tuple[Member, ...]) -> None:
        plan = Plan(members=(REFUSING, *others))
        assert both.agree(plan, turned_away) == ["127.0.0.1 mail/s1 #/-1/# 0 SC 1/1/0/0/3 0/0"]

    def test_one_does_not_answer(self, both: Both) -> None:
        with Blackhole() as nowhere:
            plan = Plan(members=(Member(name="s1", address=nowhere.address), S2))
            assert both.agree(plan, Scene.come_and_go) == ["127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"]

    def test_nobody_answers(self, both: Both) -> None:
        with Blackhole() as nowhere:
            plan = Plan(members=(Member(name="s1", address=nowhere.address),), redispatch=False)
            assert both.agree(plan, turned_away) == ["127.0.0.1 mail/s1 #/-1/# 0 sC 1/1/0/0/3 0/0"]

    def test_one_fails_at_tls(self, both: Both, folder: Path) -> None:
        authority, context = Authority.new(folder), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.certificate.configure_cert(context)
        plan = Plan(members=(S1, Member(name="s2", tls=context)), ca=authority.ca, connect_ms=2_000)
        assert both.agree(plan, Scene.come_and_go) == ["127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+1 0/0"]

    @pytest.mark.parametrize(("conduct", "state"), [("close", "--"), ("reset", "SD")])
    def test_whoever_was_connected_is_not_taken_elsewhere(
        self, both: Both, conduct: Conduct, state: str
    ) -> None:
        plan = Plan(members=(Member(name="s1", conducts=(conduct,)), S2))
        assert both.agree(plan, turned_away) == [f"127.0.0.1 mail/s1 #/#/# 0 {state} 1/1/0/0/0 0/0"]


class TestLeaving:
    """While the next attempt is waited for."""

    PLAN = Plan(members=(REFUSING,), connect_ms=1_000, redispatch=False)

    def test_without_a_word(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            client = scene.connect()
            scene.ring()
            client.close()
            scene.wait_for_ends()

        assert both.agree(self.PLAN, story) == ["127.0.0.1 mail/s1 #/-1/# 0 CC 1/1/0/0/1 0/0"]

    def test_who_has_asked_for_something_may_read_on(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            client = scene.connect()
            client.send(b"a1 LOGOUT\r\n")
            client.half_close()
            scene.ring()
            scene.pool["s1"].sessions.listen()
            client.receive(GREETING)
            client.wait_for_end()
            scene.wait_for_ends()

        assert both.agree(self.PLAN, story) == ["127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/1 0/0"]

    def test_with_a_reset(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            client = scene.connect()
            scene.ring()
            client.reset()
            scene.wait_for_ends()

        ours, models = both.play(self.PLAN, story)
        assert ours == ["127.0.0.1 mail/s1 #/-1/# 0 CC 1/1/0/0/1 0/0"]
        assert models == ["127.0.0.1 mail/s1 #/-1/# 0 CD 1/1/0/0/1 0/0"]


class TestQueue:
    @pytest.mark.parametrize("members", [(NARROW,), (NARROW, NARROW_TOO)], ids=["one", "two"])
    def test_first_come_first_served(self, both: Both, members: tuple[Member, ...]) -> None:
        def story(scene: Scene) -> None:
            served = [scene.greeted() for _ in members]
            waiting = scene.line_up(OTHER, THIRD)
            for client in served:
                scene.go(client)
            for client in waiting:
                scene.be_served(client)

        lines = both.agree(Plan(members=members), story)
        assert [queues(line) for line in lines] == ["0/0"] * len(members) + ["0/1", "0/2"]

    def test_the_sessions_of_the_server_are_the_others(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            first, *others = scene.greeted(), *scene.line_up(OTHER)
            scene.go(first)
            scene.be_served(*others)

        assert both.agree(Plan(members=(NARROW,)), story) == [
            "127.0.0.1 mail/s1 #/#/# 12 -- 2/2/1/0/0 0/0",
            "127.0.0.2 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/1",
        ]

    def test_in_vain(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            first = scene.greeted()
            scene.be_turned_away(scene.connect(OTHER))
            scene.go(first)

        assert both.agree(Plan(members=(NARROW,), queue_ms=300), story) == [
            "127.0.0.2 mail/<NOSRV> #/-1/# 0 sQ 2/2/1/0/0 0/1",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_whoever_leaves_it(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            first, other = scene.greeted(), *scene.line_up(OTHER)
            scene.go(other)
            scene.go(first)

        assert both.agree(Plan(members=(NARROW,)), story) == [
            "127.0.0.2 mail/<NOSRV> #/-1/# 0 CQ 2/2/1/0/0 0/1",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_whoever_resets_it(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            first, other = scene.greeted(), *scene.line_up(OTHER)
            other.reset()
            scene.wait_for_ends()
            scene.go(first)

        ours, models = both.play(Plan(members=(NARROW,)), story)
        assert ours[0] == "127.0.0.2 mail/<NOSRV> #/-1/# 0 CQ 2/2/1/0/0 0/1"
        assert models[0] == "127.0.0.2 mail/<NOSRV> #/-1/# 0 CD 2/2/1/0/0 0/1"

    def test_whoever_has_asked_for_something_may_read_on(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            first, other = scene.greeted(), scene.connect(OTHER)
            other.send(b"a1 LOGOUT\r\n")
            other.half_close()
            scene.ring()
            scene.go(first)
            other.receive(GREETING)
            other.wait_for_end()
            scene.wait_for_ends()

        assert [queues(line) for line in both.agree(Plan(members=(NARROW,)), story)] == ["0/0", "0/1"]


class TestSticking:
    def test_clients_come_back_to_their_server(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            for source in (HOST, OTHER, HOST, HOST, OTHER):
                scene.come_and_go(source)

        lines = both.agree(Plan(members=(S1, S2), stick=True), story)
        assert [server(line) for line in lines] == ["s1", "s2", "s1", "s1", "s2"]

    def test_a_server_is_tried_again_before_it_is_left_for_good(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            scene.come_and_go()
            scene.pool["s1"].sessions.refuse()
            scene.come_and_go()
            scene.pool["s1"].sessions.listen()
            scene.come_and_go()

        assert both.agree(Plan(members=(S1, S2), stick=True), story) == [
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/+3 0/0",
            "127.0.0.1 mail/s2 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]

    def test_a_server_that_is_down_is_left_for_good(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            scene.come_and_go()
            scene.goes_down("s1")
            scene.come_and_go()
            scene.comes_up("s1")
            scene.come_and_go()

        lines = both.agree(Plan(members=(S1, S2), stick=True, check="connect"), story)
        assert [server(line) for line in lines if line.startswith(HOST)] == ["s1", "s2", "s2"]

    def test_their_server_is_waited_for(self, both: Both) -> None:
        """Although another one has a place."""

        def story(scene: Scene) -> None:
            first = scene.greeted()
            waiting = scene.line_up(HOST, HOST)
            scene.come_and_go(OTHER)
            scene.go(first)
            for client in waiting:
                scene.be_served(client)

        lines = both.agree(Plan(members=(NARROW, NARROW_TOO), stick=True), story)
        assert [f"{server(line)} {queues(line)}" for line in lines] == [
            "s2 0/0",
            "s1 0/0",
            "s1 1/0",
            "s1 2/0",
        ]

    def test_their_server_is_waited_for_in_vain(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            first = scene.greeted()
            scene.be_turned_away()
            scene.go(first)

        lines = both.agree(Plan(members=(NARROW, NARROW_TOO), stick=True, queue_ms=300), story)
        assert lines[0] == "127.0.0.1 mail/s1 #/-1/# 0 sQ 2/2/1/1/0 1/0"

    def test_their_server_goes_down_while_it_is_waited_for(self, both: Both) -> None:
        def story(scene: Scene) -> None:
            first, waiting = scene.greeted(), *scene.line_up(HOST)
            scene.goes_down("s1")
            scene.be_served(waiting)
            scene.go(first)

        plan = Plan(members=(NARROW, NARROW_TOO), stick=True, check="connect")
        assert both.agree(plan, story) == [
            down("s1", active=1, sessions=1, requeued=1),
            "127.0.0.1 mail/s2 #/#/# 12 -- 2/2/1/0/+0 1/0",
            "127.0.0.1 mail/s1 #/#/# 12 -- 1/1/0/0/0 0/0",
        ]
