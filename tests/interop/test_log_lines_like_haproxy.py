"""HAProxy and mailproxy in front of the same server write the same line for the same end.

Each story is played with both; `Stage` compares field by field and asks mailproxy's time to be near HAProxy's.
Stories that need no fault of a server are played with Dovecot.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.scripted_session import CLEAR_TEXT, Blackhole, refused_address
from tests.support.programs.dovecot import PASSWORD

if TYPE_CHECKING:
    from tests.interop.conftest import Site
    from tests.support.interop.scripted_session import Comparison, ScriptedSession

pytestmark = pytest.mark.peers


def log_in(wire: ScriptedSession, user: str) -> None:
    wire.handshake()
    wire.client.receive_until(b"ready.\r\n")
    wire.client.send(f"a1 LOGIN {user} {PASSWORD}\r\n".encode())
    wire.client.receive_until(b"Logged in\r\n")


class TestNormalEnds:
    def test_logout_the_server_closes_first(self, comparison: Comparison, site: Site, user: str) -> None:
        def story(wire: ScriptedSession) -> None:
            log_in(wire, user)
            wire.client.send(b"a2 LOGOUT\r\n")
            wire.client.wait_for_end()
            wire.client.close()

        assert comparison.run(story, server=site.dovecots[0].address).state == "--"

    def test_the_client_closes_first(self, comparison: Comparison, site: Site, user: str) -> None:
        def story(wire: ScriptedSession) -> None:
            log_in(wire, user)
            wire.client.close()

        assert comparison.run(story, server=site.dovecots[0].address).state == "--"

    def test_the_client_leaves_without_a_byte(self, comparison: Comparison, site: Site) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.handshake()
            wire.client.receive_until(b"ready.\r\n")
            wire.client.close()

        assert comparison.run(story, server=site.dovecots[0].address).state == "--"

    def test_the_client_leaves_without_close_notify(
        self, tls_comparison: Comparison, site: Site, user: str
    ) -> None:
        def story(wire: ScriptedSession) -> None:
            log_in(wire, user)
            wire.client.close_without_notify()

        assert tls_comparison.run(story, server=site.dovecots[0].address).state == "--"

    @pytest.mark.parametrize("first", ["server", "client"])
    def test_both_close_at_once(self, comparison: Comparison, first: str) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            with wire.proxy.locked():
                if first == "server":
                    wire.server.close()
                wire.client.close_without_notify()
                wire.server.close()

        assert comparison.run(story).state == "--"

    def test_the_server_closes_without_a_byte(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.handshake()
            wire.server.close()
            wire.client.wait_for_end()
            wire.client.close()

        line = comparison.run(story)
        assert (line.state, line.bytes) == ("--", 0)

    def test_a_half_closed_client_gets_the_rest(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            wire.client.half_close()
            wire.server.wait_for_end()
            wire.server.send(b"* BYE\r\n")
            wire.server.close()
            wire.client.receive(b"* BYE\r\n")
            wire.client.wait_for_end()

        assert comparison.run(story).state == "--"

    def test_a_half_closed_server_gets_the_rest(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            wire.server.half_close()
            wire.client.wait_for_end()
            wire.client.send(b"a1 LOGOUT\r\n")
            wire.server.receive(b"a1 LOGOUT\r\n")
            wire.client.close()
            wire.server.wait_for_end()

        assert comparison.run(story).state == "--"


class TestAborts:
    def test_the_client_resets(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            wire.client.reset()
            wire.server.wait_for_end()

        assert comparison.run(story).state == "CD"

    def test_the_client_resets_in_front_of_dovecot(
        self, comparison: Comparison, site: Site, user: str
    ) -> None:
        def story(wire: ScriptedSession) -> None:
            log_in(wire, user)
            wire.client.reset()

        assert comparison.run(story, server=site.dovecots[0].address).state == "CD"

    def test_the_server_resets(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            wire.server.reset()
            wire.client.wait_for_end()

        assert comparison.run(story).state == "SD"

    def test_the_server_resets_before_a_byte(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.handshake()
            wire.client.send(b"a1 NOOP\r\n")
            wire.server.receive(b"a1 NOOP\r\n")  # so it is connected: before, it would have been a refusal
            wire.server.reset()
            wire.client.wait_for_end()

        assert comparison.run(story).state == "SD"

    def test_the_server_resets_a_half_closed_client(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            wire.client.half_close()
            wire.server.wait_for_end()
            wire.server.reset()
            wire.client.wait_for_end()

        assert comparison.run(story).state == "SD"

    def test_the_client_resets_after_the_server_has_closed(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            wire.server.close()
            wire.client.wait_for_end()
            wire.client.reset()

        assert comparison.run(story).state == "CD"


class TestTimeLimits:
    @pytest.mark.parametrize(
        ("client_ms", "server_ms", "state"),
        [(300, 8_000, "cD"), (8_000, 300, "sD"), (300, 300, "cD")],
        ids=["client", "server", "both-equal"],
    )
    def test_idle(self, comparison: Comparison, client_ms: int, server_ms: int, state: str) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            # a limit is HAProxy's cue for a FIN to the other side; what peers do at the end of a stream ends it
            first, then = (wire.client, wire.server) if state == "sD" else (wire.server, wire.client)
            first.wait_for_end()
            first.close()
            then.wait_for_end()
            then.close()

        line = comparison.run(story, client_ms=client_ms, server_ms=server_ms)
        assert line.state == state
        assert 300 <= line.total_ms < 1_500

    def test_idle_in_front_of_dovecot(self, comparison: Comparison, site: Site, user: str) -> None:
        def story(wire: ScriptedSession) -> None:
            log_in(wire, user)
            wire.client.wait_for_end()
            wire.client.close()

        assert comparison.run(story, server=site.dovecots[0].address, client_ms=300).state == "cD"

    def test_the_server_never_answers_a_half_closed_client(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            wire.client.half_close()
            wire.client.wait_for_end()

        assert comparison.run(story, half_closed_ms=300).state == "sD"

    def test_the_client_stays_after_the_server_has_closed(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.start()
            wire.server.close()
            wire.client.wait_for_end()  # of what the server says: the client's own half stays open

        assert comparison.run(story, half_closed_ms=300).state == "cD"


class TestConnecting:
    def test_refused(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.handshake()
            wire.client.wait_for_end()

        line = comparison.run(story, server=refused_address())
        assert (line.state, line.was_chosen, line.was_connected) == ("SC", True, False)

    def test_connect_timeout(self, comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.handshake()
            wire.client.wait_for_end()

        with Blackhole() as nowhere:
            line = comparison.run(story, server=nowhere.address, connect_ms=300)
        assert (line.state, line.was_connected) == ("sC", False)

    def test_the_client_gives_up(self, comparison: Comparison) -> None:
        with Blackhole() as nowhere:

            def story(wire: ScriptedSession) -> None:
                wire.handshake()
                nowhere.wait_for_attempt()
                wire.client.half_close()
                wire.client.wait_for_end()

            # HAProxy ends it at once, mailproxy when connecting is over: the limit keeps their times alike
            assert comparison.run(story, server=nowhere.address, connect_ms=300).state == "CC"


class TestStopping:
    def test_an_open_session(self, comparison: Comparison, site: Site, user: str) -> None:
        def story(wire: ScriptedSession) -> None:
            log_in(wire, user)
            wire.proxy.stop_gracefully()
            wire.client.wait_for_end()

        assert comparison.run(story, server=site.dovecots[0].address).state == "K-"

    def test_while_connecting(self, comparison: Comparison) -> None:
        with Blackhole() as nowhere:

            def story(wire: ScriptedSession) -> None:
                wire.handshake()
                nowhere.wait_for_attempt()
                wire.proxy.stop_gracefully()
                wire.client.wait_for_end()

            assert comparison.run(story, server=nowhere.address).state == "KC"

    def test_a_session_that_ends_in_time(self, comparison: Comparison, site: Site, user: str) -> None:
        def story(wire: ScriptedSession) -> None:
            log_in(wire, user)
            wire.proxy.stop_gracefully()
            wire.client.send(b"a2 LOGOUT\r\n")
            wire.client.wait_for_end()
            wire.client.close()

        assert comparison.run(story, server=site.dovecots[0].address, drain_ms=8_000).state == "--"


class TestFailedHandshakes:
    def test_clear_text(self, tls_comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.client.send(CLEAR_TEXT)
            wire.client.wait_for_end()

        assert tls_comparison.run_failure(story).message == "SSL handshake failure"

    def test_the_client_leaves(self, tls_comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.client.close()

        assert tls_comparison.run_failure(story).message == "Connection closed during SSL handshake"

    def test_the_client_resets(self, tls_comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.client.send(CLEAR_TEXT[:2])
            wire.client.reset()

        assert tls_comparison.run_failure(story).message == "SSL handshake failure"

    def test_the_client_never_begins(self, tls_comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.client.wait_for_end()

        assert tls_comparison.run_failure(story, client_ms=300).message == "Timeout during SSL handshake"

    def test_the_client_never_goes_on(self, tls_comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            wire.client.send(b"\x16\x03\x01\x01\x00\x01")  # the beginning of a ClientHello
            wire.client.wait_for_end()

        assert tls_comparison.run_failure(story, client_ms=300).message == "Timeout during SSL handshake"

    def test_the_client_does_not_trust_the_certificate(self, tls_comparison: Comparison) -> None:
        def story(wire: ScriptedSession) -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                ssl.create_default_context().wrap_socket(wire.client.connection, server_hostname="127.0.0.1")

        assert tls_comparison.run_failure(story).message == "SSL handshake failure"
