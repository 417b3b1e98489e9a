"""The sentences of ``explain``: which rule decided, and why the others did not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli

import mailproxy
from mailproxy.certificates.loader import load_certificates
from mailproxy.proxy.explain import (
    Explanation,
    NoBindError,
    Question,
    ServerStateError,
    explain,
    offline_view,
)
from mailproxy.testing import ThrowAwayCA

CLEAR = """
[frontends.imap]
protocol = "imap"
backend = "d"
bind = [{ address = "127.0.0.1:143" }]
[backends.d]
servers = [{ name = "d1", address = "10.0.0.1:143" }, { name = "d2", address = "10.0.0.2:143" }]
"""


def ask(
    text: str, client: str = "192.0.2.7", at: dict[str, str] | None = None, **question: Any
) -> Explanation:
    config = mailproxy.from_mapping(tomli.loads(text))
    view = offline_view(config, load_certificates(config), at or {})
    return explain(view, Question(**{"client": client, "port": 143, **question}))


def step(explanation: Explanation, words: str) -> str:
    """The only step with these words."""
    (found,) = [each for each in explanation.steps if words in each]
    return found


def test_balance_that_depends_on_sessions_lists_candidates() -> None:
    answer = ask(CLEAR)
    assert (answer.frontend, answer.bind, answer.backend) == ("imap", "127.0.0.1:143", "d")
    assert (answer.server, answer.candidates) == (None, ("d1", "d2"))
    assert "leastconn" in step(answer, "has balance")
    assert answer.to_text().endswith("=> imap 127.0.0.1:143 -> d/ one of d1, d2\n")


@pytest.mark.parametrize(
    ("at", "server", "reason"),
    [
        ({"d1": "down"}, "d2", "d1: DOWN"),
        ({"d/d1": "drain"}, "d2", "d1: DRAIN"),
        ({"d2": "maint", "d1": "ready"}, "d1", "d2: MAINT"),
    ],
)
def test_states_that_are_supposed_exclude_servers(at: dict[str, str], server: str, reason: str) -> None:
    answer = ask(CLEAR, at=at)
    assert (answer.server, answer.candidates) == (server, (server,))
    assert reason in step(answer, "get no new clients")
    assert "the only one that can be used" in step(answer, "has balance")


def test_all_servers_down_is_no_server() -> None:
    answer = ask(CLEAR, at={"d1": "down", "d2": "maint"})
    assert (answer.backend, answer.server, answer.end and answer.end.name) == ("d", None, "no-server")
    assert answer.to_text().endswith("=> imap 127.0.0.1:143 -> d: no-server\n")


def test_backup_is_used_without_active_servers() -> None:
    text = CLEAR.replace('address = "10.0.0.2:143"', 'address = "10.0.0.2:143", backup = true')
    assert ask(text).server == "d1"
    answer = ask(text, at={"d1": "down"})
    assert answer.server == "d2"
    assert step(answer, "first usable backup")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"d9": "down"}, "d9: there is no such server"),
        ({"d1": "dead"}, "dead: states are"),
    ],
)
def test_unknown_server_or_state_is_refused(at: dict[str, str], message: str) -> None:
    with pytest.raises(ServerStateError, match=message):
        ask(CLEAR, at=at)


def test_server_without_checks_is_never_down() -> None:
    with pytest.raises(ServerStateError, match="d/d1 has no checks"):
        ask(CLEAR.replace("servers =", "check = false\nservers ="), at={"d1": "down"})


def test_server_name_in_two_backends_needs_the_backend() -> None:
    more = '\n[backends.e]\nservers = [{ name = "d1", address = "10.0.0.3:143" }]\n'
    with pytest.raises(ServerStateError, match="several servers have this name: d/d1, e/d1"):
        ask(CLEAR + more, at={"d1": "down"})


def test_unmatched_routes_name_the_conditions_that_fail() -> None:
    routes = """
[[frontends.imap.routes]]
client = ["10.0.0.0/8"]
port = [143]
reject = true
[[frontends.imap.routes]]
client = ["192.0.2.0/24"]
reject = true
"""
    answer = ask(CLEAR.replace("[backends.d]", f"{routes}[backends.d]"))
    assert step(answer, "Route 0") == "Route 0 does not match: client (frontends.imap.routes[0])."
    assert (answer.route, answer.end and answer.end.name) == (1, "rejected")
    assert (answer.backend, answer.server) == (None, None)


def test_clear_bind_reads_no_server_name() -> None:
    assert step(ask(CLEAR, sni="imap.example.com"), "so SNI and ALPN do not count")


def test_unknown_port_lists_the_binds() -> None:
    with pytest.raises(
        NoBindError, match=r"no bind with port 993; the binds are 127.0.0.1:143 \(imap, port 143\)"
    ):
        ask(CLEAR, port=993)


def test_two_binds_with_one_port_need_the_name() -> None:
    text = CLEAR.replace("bind = [", 'bind = [{ address = "127.0.0.2:143", name = "other" }, ')
    with pytest.raises(
        NoBindError,
        match=r"several binds fit, .*: other \(imap, port 143\), 127.0.0.1:143 \(imap, port 143\)",
    ):
        ask(text)
    assert ask(text, bind="other").bind == "other"
    assert ask(text, bind="imap/other").bind == "other"
    with pytest.raises(NoBindError, match=r"no bind named other has port 993: other \(imap, port 143\)"):
        ask(text, bind="other", port=993)
    with pytest.raises(NoBindError, match="there is no bind named third"):
        ask(text, bind="third")


def test_limits_connection_and_timeouts_are_explained() -> None:
    text = CLEAR.replace(
        "[backends.d]",
        '[backends.d]\nsend_proxy = "v2"\nsend_proxy_tlvs = ["crc32c"]\ntls = { verify = "none" }\nretries = 1\n'
        'timeouts = { connect = "3s", server = "40m" }',
    ).replace("bind =", 'max_sessions_per_client = 4\ntimeouts.client = "45m"\nbind =')
    answer = ask(text)
    assert (
        step(answer, "A client may have") == "A client may have 4 sessions at once (max_sessions_per_client)."
    )
    connection = step(answer, "The connection to d1 at 10.0.0.1:143, d2 at 10.0.0.2:143 is over TLS")
    assert (
        "with nothing verified, with a PROXY header of version 2 that names the client 192.0.2.7"
        in connection
    )
    assert "(TLVs: CRC32C)" in connection
    assert "3s for each attempt (timeouts.connect), and 1 more attempt (retries)" in step(answer, "It has 3s")
    assert "45m without a byte from or to the client (timeouts.client), 40m" in step(answer, "Once connected")


@pytest.fixture
def tls(throw_away_ca: ThrowAwayCA) -> tuple[str, Path, Path]:
    """A configuration with two certificates, and their files."""
    first, second = throw_away_ca.issue("imap.example.com"), throw_away_ca.issue("*.example.net")
    text = CLEAR.replace("127.0.0.1:143", "127.0.0.1:993").replace('993"', '993", mode = "tls"')
    more = f'\n[frontends.imap.tls]\ncertificates = ["{first}", "{second}"]\nalpn = ["imap"]\n'
    return text + more, first, second


def test_server_name_selects_the_certificate(tls: tuple[str, Path, Path]) -> None:
    text, first, second = tls
    answer = ask(text, port=993, sni="IMAP.example.com", alpn=("pop3", "imap"))
    assert answer.certificate == str(first)
    assert "because it has the name imap.example.com" in step(answer, "TLS ends here")
    assert step(answer, "The application protocol is imap")
    assert ask(text, port=993, sni="a.example.net").certificate == str(second)


def test_default_certificate_is_named_as_such(tls: tuple[str, Path, Path]) -> None:
    text, first, _ = tls
    answer = ask(text, port=993, sni="a.b.example.net")
    assert answer.certificate == str(first)
    assert "the default, because no certificate has the name" in step(answer, "TLS ends here")
    assert "the client asks for no name" in step(ask(text, port=993), "TLS ends here")


def test_strict_sni_refuses_an_unknown_name(tls: tuple[str, Path, Path]) -> None:
    answer = ask(f"{tls[0]}strict_sni = true\n", port=993, sni="unknown.example.org")
    assert (answer.certificate, answer.end and answer.end.name) == (None, "handshake-failed")
    assert answer.backend is None


def test_certificate_that_cannot_be_loaded_does_not_stop_the_walk(tls: tuple[str, Path, Path]) -> None:
    text, first, second = tls
    answer = ask(
        text.replace(str(first), "/nonexistent.pem").replace(str(second), "/nonexistent2.pem"), port=993
    )
    assert answer.certificate is None
    assert step(answer, "certificates of the bind cannot be loaded")
    assert answer.candidates == ("d1", "d2")


def test_proxy_header_names_the_client_and_its_port() -> None:
    text = CLEAR.replace('"127.0.0.1:143"', '"127.0.0.1:143", name = "lb", accept_proxy = ["10.0.0.0/8"]')
    answer = ask(text, port=993, bind="lb")
    assert "10.0.0.0/8 must begin with a PROXY header within 3s" in step(answer, "PROXY header within")
    assert answer.candidates == ("d1", "d2")


def test_json_has_the_keys_of_the_walk() -> None:
    assert list(ask(CLEAR).to_json()) == [
        "frontend", "bind", "route", "certificate", "backend", "server", "candidates", "end", "steps",
    ]  # fmt: skip


@pytest.mark.parametrize("required", [True, False])
def test_bind_that_upgrades_and_servers_that_are_upgraded(throw_away_ca: ThrowAwayCA, required: bool) -> None:
    """The client of the question upgrades. Its certificate and route are those of the TLS behind STARTTLS."""
    answer = ask(
        f"""
        [frontends.imap]
        protocol = "imap"
        backend = "d"
        tls = {{ certificates = ["{throw_away_ca.issue("imap.example.com")}"] }}
        bind = [{{ address = "127.0.0.1:143", mode = "starttls", starttls_required = {str(required).lower()} }}]
        routes = [{{ sni = ["imap.example.com"], backend = "d" }}]
        [backends.d]
        identity = "id"
        tls = {{ mode = "starttls", verify = "none" }}
        servers = [{{ name = "d1", address = "10.0.0.1:143" }}]
        """,
        sni="imap.example.com",
    )
    assert (answer.route, answer.server) == (0, "d1")
    assert answer.certificate is not None
    words = "cannot log in" if required else "is joined to a server in clear text"
    assert f"3m for STARTTLS (timeouts.negotiation). A client that does not upgrade {words}" in step(
        answer, "greets it in clear text"
    )
    connection = step(answer, "The connection to")
    assert "over TLS after STARTTLS, with nothing verified, with the client's address in ID" in connection
