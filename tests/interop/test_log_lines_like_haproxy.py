"""Log lines of sessions: HAProxy and mailproxy write the same line for the same end.

Each scenario runs with both. `Comparison` compares the fields, and mailproxy's time must be near HAProxy's.
Scenarios without a fault of the server use Dovecot.
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


def log_in(session: ScriptedSession, user: str) -> None:
    session.handshake()
    session.client.receive_until(b"ready.\r\n")
    session.client.send(f"a1 LOGIN {user} {PASSWORD}\r\n".encode())
    session.client.receive_until(b"Logged in\r\n")


class TestNormalEnds:
    def test_logout_closed_by_server(self, comparison: Comparison, site: Site, user: str) -> None:
        def scenario(session: ScriptedSession) -> None:
            log_in(session, user)
            session.client.send(b"a2 LOGOUT\r\n")
            session.client.wait_for_end()
            session.client.close()

        assert comparison.run(scenario, server=site.dovecots[0].address).state == "--"

    def test_client_closes_first(self, comparison: Comparison, site: Site, user: str) -> None:
        def scenario(session: ScriptedSession) -> None:
            log_in(session, user)
            session.client.close()

        assert comparison.run(scenario, server=site.dovecots[0].address).state == "--"

    def test_client_closes_without_a_byte(self, comparison: Comparison, site: Site) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.handshake()
            session.client.receive_until(b"ready.\r\n")
            session.client.close()

        assert comparison.run(scenario, server=site.dovecots[0].address).state == "--"

    def test_client_closes_without_close_notify(
        self, tls_comparison: Comparison, site: Site, user: str
    ) -> None:
        def scenario(session: ScriptedSession) -> None:
            log_in(session, user)
            session.client.close_without_notify()

        assert tls_comparison.run(scenario, server=site.dovecots[0].address).state == "--"

    @pytest.mark.parametrize("first", ["server", "client"])
    def test_client_and_server_close_at_once(self, comparison: Comparison, first: str) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            with session.proxy.paused():
                if first == "server":
                    session.server.close()
                session.client.close_without_notify()
                session.server.close()

        assert comparison.run(scenario).state == "--"

    def test_server_closes_without_a_byte(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.handshake()
            session.server.close()
            session.client.wait_for_end()
            session.client.close()

        line = comparison.run(scenario)
        assert (line.state, line.bytes) == ("--", 0)

    def test_half_closed_client_gets_remaining_data(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            session.client.half_close()
            session.server.wait_for_end()
            session.server.send(b"* BYE\r\n")
            session.server.close()
            session.client.receive(b"* BYE\r\n")
            session.client.wait_for_end()

        assert comparison.run(scenario).state == "--"

    def test_half_closed_server_gets_remaining_data(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            session.server.half_close()
            session.client.wait_for_end()
            session.client.send(b"a1 LOGOUT\r\n")
            session.server.receive(b"a1 LOGOUT\r\n")
            session.client.close()
            session.server.wait_for_end()

        assert comparison.run(scenario).state == "--"


class TestAborts:
    def test_client_resets(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            session.client.reset()
            session.server.wait_for_end()

        assert comparison.run(scenario).state == "CD"

    def test_client_resets_session_with_dovecot(self, comparison: Comparison, site: Site, user: str) -> None:
        def scenario(session: ScriptedSession) -> None:
            log_in(session, user)
            session.client.reset()

        assert comparison.run(scenario, server=site.dovecots[0].address).state == "CD"

    def test_server_resets(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            session.server.reset()
            session.client.wait_for_end()

        assert comparison.run(scenario).state == "SD"

    def test_server_resets_before_a_byte(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.handshake()
            session.client.send(b"a1 NOOP\r\n")
            session.server.receive(b"a1 NOOP\r\n")  # before it is connected, a reset would be a refusal
            session.server.reset()
            session.client.wait_for_end()

        assert comparison.run(scenario).state == "SD"

    def test_server_resets_half_closed_client(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            session.client.half_close()
            session.server.wait_for_end()
            session.server.reset()
            session.client.wait_for_end()

        assert comparison.run(scenario).state == "SD"

    def test_client_resets_after_server_closed(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            session.server.close()
            session.client.wait_for_end()
            session.client.reset()

        assert comparison.run(scenario).state == "CD"


class TestTimeouts:
    @pytest.mark.parametrize(
        ("client_ms", "server_ms", "state"),
        [(2_000, 20_000, "cD"), (20_000, 2_000, "sD"), (2_000, 2_000, "cD")],
        ids=["client", "server", "both-equal"],
    )
    def test_idle_timeout(self, comparison: Comparison, client_ms: int, server_ms: int, state: str) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            # After a timeout HAProxy sends a FIN to the other side. The session ends when the peers close.
            first, second = (
                (session.client, session.server) if state == "sD" else (session.server, session.client)
            )
            first.wait_for_end()
            first.close()
            second.wait_for_end()
            second.close()

        line = comparison.run(scenario, client_ms=client_ms, server_ms=server_ms)
        assert line.state == state
        assert 2_000 <= line.total_ms < 5_400

    def test_idle_timeout_with_dovecot(self, comparison: Comparison, site: Site, user: str) -> None:
        def scenario(session: ScriptedSession) -> None:
            log_in(session, user)
            session.client.wait_for_end()
            session.client.close()

        assert comparison.run(scenario, server=site.dovecots[0].address, client_ms=3_000).state == "cD"

    def test_half_closed_timeout_of_server(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            session.client.half_close()
            session.client.wait_for_end()

        assert comparison.run(scenario, half_closed_ms=300).state == "sD"

    def test_half_closed_timeout_of_client(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.start()
            session.server.close()
            session.client.wait_for_end()  # the server's half is closed, the client's stays open

        assert comparison.run(scenario, half_closed_ms=300).state == "cD"


class TestConnecting:
    def test_server_refuses_connection(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.handshake()
            session.client.wait_for_end()

        line = comparison.run(scenario, server=refused_address())
        assert (line.state, line.was_chosen, line.was_connected) == ("SC", True, False)

    def test_connect_timeout(self, comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.handshake()
            session.client.wait_for_end()

        with Blackhole() as blackhole:
            line = comparison.run(scenario, server=blackhole.address, connect_ms=300)
        assert (line.state, line.was_connected) == ("sC", False)

    def test_client_closes_while_connecting(self, comparison: Comparison) -> None:
        with Blackhole() as blackhole:

            def scenario(session: ScriptedSession) -> None:
                session.handshake()
                blackhole.wait_for_attempt()
                session.client.half_close()
                session.client.wait_for_end()

            # HAProxy ends the session at once, mailproxy after 0.2 s, in which a server may answer.
            assert comparison.run(scenario, server=blackhole.address).state == "CC"


class TestStopping:
    def test_stop_kills_open_session(self, comparison: Comparison, site: Site, user: str) -> None:
        def scenario(session: ScriptedSession) -> None:
            log_in(session, user)
            session.proxy.stop_gracefully()
            session.client.wait_for_end()

        assert comparison.run(scenario, server=site.dovecots[0].address).state == "K-"

    def test_stop_kills_connecting_session(self, comparison: Comparison) -> None:
        with Blackhole() as blackhole:

            def scenario(session: ScriptedSession) -> None:
                session.handshake()
                blackhole.wait_for_attempt()
                session.proxy.stop_gracefully()
                session.client.wait_for_end()

            assert comparison.run(scenario, server=blackhole.address).state == "KC"

    def test_session_ends_within_drain_timeout(self, comparison: Comparison, site: Site, user: str) -> None:
        def scenario(session: ScriptedSession) -> None:
            log_in(session, user)
            session.proxy.stop_gracefully()
            session.client.send(b"a2 LOGOUT\r\n")
            session.client.wait_for_end()
            session.client.close()

        assert comparison.run(scenario, server=site.dovecots[0].address, drain_ms=8_000).state == "--"


class TestFailedHandshakes:
    def test_clear_text_fails_the_handshake(self, tls_comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.client.send(CLEAR_TEXT)
            session.client.wait_for_end()

        assert tls_comparison.run_failure(scenario).message == "SSL handshake failure"

    def test_client_closes_during_handshake(self, tls_comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.client.close()

        assert tls_comparison.run_failure(scenario).message == "Connection closed during SSL handshake"

    def test_client_resets(self, tls_comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.client.send(CLEAR_TEXT[:2])
            session.client.reset()

        assert tls_comparison.run_failure(scenario).message == "SSL handshake failure"

    def test_handshake_timeout_without_a_byte(self, tls_comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.client.wait_for_end()

        assert tls_comparison.run_failure(scenario, client_ms=300).message == "Timeout during SSL handshake"

    def test_handshake_timeout_after_partial_hello(self, tls_comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            session.client.send(b"\x16\x03\x01\x01\x00\x01")  # the beginning of a ClientHello
            session.client.wait_for_end()

        assert tls_comparison.run_failure(scenario, client_ms=300).message == "Timeout during SSL handshake"

    def test_client_rejects_the_certificate(self, tls_comparison: Comparison) -> None:
        def scenario(session: ScriptedSession) -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                ssl.create_default_context().wrap_socket(
                    session.client.connection, server_hostname="127.0.0.1"
                )

        assert tls_comparison.run_failure(scenario).message == "SSL handshake failure"
