"""Advice: each mail trap has its line with what to write instead, and what is in order has none."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import mailproxy
from mailproxy.app import advise, load_material
from mailproxy.cli import main
from mailproxy.testing import ThrowAwayCA

from .settings import settings

REQUIRED = 'use "required", with ca and server_name if needed'
SPEAKING_TLS: dict[str, Any] = {"backends__dovecot__servers": ["192.0.2.1:993"], "backends__dovecot__tls": {}}
IDLE = "cuts IMAP clients off that wait in IDLE: use 31m (they speak every 29 minutes, RFC 2177)"


def advice_for(config: mailproxy.Config) -> list[str]:
    return [str(line) for line in advise(config, load_material(config).certificates.values())]


def test_none_for_a_configuration_in_order() -> None:
    assert advice_for(settings(frontends__imap__protocol="imap")) == []


# Silence.


@pytest.mark.parametrize("limit", ["28m", "28.99m", 600])
def test_imap_clients_wait_long_in_idle(limit: object) -> None:
    config = settings(frontends__imap__protocol="imap", frontends__imap__timeouts={"client": limit})
    (line,) = advice_for(config)
    assert line.startswith("frontends.imap.timeouts.client: ")
    assert line.endswith(f"s {IDLE}")


def test_imap_servers_wait_with_them() -> None:
    config = settings(frontends__imap__protocol="imap", backends__dovecot__timeouts={"server": "10m"})
    assert advice_for(config) == [f"backends.dovecot.timeouts.server: 600s {IDLE}"]


@pytest.mark.parametrize(
    ("protocol", "limit"), [("imap", "29m"), ("imap", "2h"), ("pop3", "10m"), ("tcp", "1m")]
)
def test_limits_that_are_long_enough_or_not_imaps(protocol: str, limit: str) -> None:
    config = settings(
        frontends__imap__protocol=protocol,
        frontends__imap__timeouts={"client": limit},
        backends__dovecot__timeouts={"server": limit},
    )
    assert advice_for(config) == []


# Clear text.


@pytest.mark.parametrize("address", ["*:0", "[::]:0", "192.0.2.1:143"])
def test_clear_text_in_front_of_tls_is_exposed(address: str) -> None:
    config = settings(frontends__imap__bind=[{"address": address}], **SPEAKING_TLS)
    (line,) = advice_for(config)
    assert line == (
        f"frontends.imap.bind[0].mode: clear text is exposed at {address} without STARTTLS, since the servers speak TLS: "
        'use mode = "tls", or "passthrough" without the backend\'s tls'
    )


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0", "unix:imap.sock", "fd:3"])
def test_clear_text_on_this_machine_alone_is_nobodys_business(address: str) -> None:
    assert advice_for(settings(frontends__imap__bind=[{"address": address}], **SPEAKING_TLS)) == []


def test_clear_text_in_front_of_clear_text_may_be_upgraded_by_the_server() -> None:
    assert advice_for(settings(frontends__imap__bind=[{"address": "*:143"}])) == []


def test_ended_tls_is_not_spoken_on_in_clear_to_a_tls_port(throw_away_ca: ThrowAwayCA) -> None:
    config = settings(
        frontends__imap__bind=[{"address": "127.0.0.1:993"}, {"address": "127.0.0.1:994", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("imap.example.com"))]},
        backends__dovecot__servers=[{"name": "d1", "address": "192.0.2.1"}],
    )
    (line,) = advice_for(config)
    assert line == (
        "backends.dovecot.servers: d1 has no port and no tls: sessions of frontends.imap.bind[1] would speak clear text to "
        "the port that the client connected to; give port, or tls"
    )


@pytest.mark.parametrize("change", [{"backends__dovecot__port": 143}, {"backends__dovecot__tls": {}}])
def test_with_a_port_or_tls_it_is_in_order(throw_away_ca: ThrowAwayCA, change: dict[str, Any]) -> None:
    config = settings(
        frontends__imap__bind=[{"address": "127.0.0.1:993", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("imap.example.com"))]},
        backends__dovecot__servers=["192.0.2.1"],
        **change,
    )
    assert advice_for(config) == []


def test_ended_tls_goes_on_as_tls_to_a_tls_port(throw_away_ca: ThrowAwayCA) -> None:
    config = settings(
        frontends__imap__bind=[{"address": "127.0.0.1:993", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("imap.example.com"))]},
        backends__dovecot__servers=["192.0.2.1:993"],
    )
    place, bind = "backends.dovecot.tls", "frontends.imap.bind[0]"
    assert advice_for(config) == [
        f"{place}: port 993 of 192.0.2.1:993 speaks TLS, and sessions of {bind} would come in clear text: give tls"
    ]


def test_tls_to_a_port_that_begins_in_clear_text() -> None:
    assert advice_for(settings(backends__dovecot__tls={})) == [
        "backends.dovecot.servers[0]: port 143 speaks clear text first, and tls is given: take away tls, or give the port that speaks TLS"
    ]


# Servers.


def test_servers_that_take_no_session() -> None:
    servers = [{"address": "192.0.2.1:143", "weight": 0}, {"address": "192.0.2.2:143", "weight": 0}]
    assert advice_for(settings(backends__dovecot__servers=servers)) == [
        "backends.dovecot: every server has weight 0: none takes a session"
    ]


@pytest.mark.parametrize(
    ("verify", "what"),
    [("none", '"none" verifies nothing'), ("chain", '"chain" verifies the chain but not the name')],
)
def test_verifying_less_is_said_once_where_it_stands(verify: str, what: str) -> None:
    servers = ["192.0.2.1:993", "192.0.2.2:993", "192.0.2.3:993"]
    config = settings(backends__dovecot__tls={"verify": verify}, backends__dovecot__servers=servers)
    assert advice_for(config) == [f"backends.dovecot.tls.verify: {what}: {REQUIRED}"]


def test_one_server_that_is_verified_less() -> None:
    servers = ["192.0.2.1:993", {"address": "192.0.2.2:993", "tls": {"verify": "none"}}]
    config = settings(backends__dovecot__tls={}, backends__dovecot__servers=servers)
    assert advice_for(config) == [
        f'backends.dovecot.servers[1].tls.verify: "none" verifies nothing: {REQUIRED}'
    ]


@pytest.mark.parametrize("other", ["192.0.2.1:143", {"name": "d2", "address": "192.0.2.1:143", "weight": 5}])
def test_two_servers_with_one_address(other: object) -> None:
    servers = [{"name": "d1", "address": "192.0.2.1:143"}, other]
    assert advice_for(settings(backends__dovecot__servers=servers)) == [
        "backends.dovecot.servers[1]: has the address 192.0.2.1:143 of d1: one of them is superfluous"
    ]


def test_one_address_written_in_two_ways() -> None:
    servers = [{"name": "d1", "address": "2001:DB8::0:1"}, {"name": "d2", "address": "[2001:db8::1]:143"}]
    config = settings(backends__dovecot__servers=servers, backends__dovecot__port=143)
    assert advice_for(config) == [
        "backends.dovecot.servers[1]: has the address [2001:db8::1]:143 of d1: one of them is superfluous"
    ]


def test_two_ports_of_one_host_are_two_servers() -> None:
    assert advice_for(settings(backends__dovecot__servers=["192.0.2.1:143", "192.0.2.1:144"])) == []


# Certificates.


@pytest.mark.parametrize(("days", "is_said"), [(1, True), (13, True), (15, False)])
def test_certificates_that_will_soon_be_out_of_date(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, days: int, is_said: bool
) -> None:
    end = datetime.now(UTC) + timedelta(days=days, hours=1)
    file = throw_away_ca.issue("imap.example.com", folder=tmp_path, not_after=end)
    config = settings(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(tmp_path)]},
    )
    line = f"frontends.imap.tls.certificates[0]: {file}: expires in {days} days, on {end:%Y-%m-%d}: renew it"
    assert advice_for(config) == ([line] if is_said else [])


def test_a_certificate_without_a_name_for_clients(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = throw_away_ca.issue("192.0.2.1", folder=tmp_path)
    config = settings(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(file)]},
    )
    assert advice_for(config) == [
        f"frontends.imap.tls.certificates[0]: {file}: has no DNS name, so clients cannot verify it"
    ]


def test_a_key_that_everybody_can_read_is_said_once(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = throw_away_ca.issue("imap.example.com", folder=tmp_path)
    file.chmod(0o604)
    config = settings(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(file)]},
    )
    certificates = [*load_material(config).certificates.values()] * 2
    assert list(map(str, advise(config, certificates))) == [
        f"frontends.imap.tls.certificates[0]: {file}: everybody can read this private key: chmod o-r"
    ]


# What leads nowhere.


def test_a_frontend_without_a_backend() -> None:
    config = mailproxy.from_mapping(
        {"process": {"user": "nobody"}, "frontends": {"closed": {"bind": ["127.0.0.1:0"]}}}
    )
    assert advice_for(config) == [
        "frontends.closed: has no backend: every session is refused; give backend unless that is meant"
    ]


def test_a_backend_that_nobody_leads_to() -> None:
    assert advice_for(settings(backends__spare={"servers": ["192.0.2.9:143"]})) == [
        "backends.spare: no frontend leads here"
    ]


def test_syslog_that_is_not_there(tmp_path: Path) -> None:
    assert advice_for(settings(log__to=f"syslog:{tmp_path}/log")) == [
        f"log.to: {tmp_path}/log: there is no such socket, so every line would be lost"
    ]


# The process.


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told")
def test_root_is_told_to_become_somebody_else() -> None:
    assert advice_for(settings(process={})) == [
        'process.user: sessions would be served as root: give a user, such as "mailproxy"'
    ]


@pytest.fixture
def descriptor_limit() -> Iterator[int]:
    """A soft limit of 1000 for this test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
    yield 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("sessions", "is_said"), [(400, False), (401, True), (9000, True)])
def test_more_sessions_than_descriptors(descriptor_limit: int, sessions: int, is_said: bool) -> None:
    line = (
        f"process.max_sessions: {sessions} sessions need {2 * sessions + 200} descriptors, and the limit here is "
        f"{descriptor_limit}: raise it (ulimit -n, LimitNOFILE=) or lower max_sessions"
    )
    assert advice_for(settings(process__max_sessions=sessions)) == ([line] if is_said else [])


def test_descriptors_for_few_sessions(descriptor_limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert advice_for(settings()) == [
        "process.max_sessions: the limit of 300 descriptors holds 50 sessions: raise it (ulimit -n, LimitNOFILE=)"
    ]


# The command line.


@pytest.fixture
def advised_file(tmp_path: Path) -> Path:
    file = tmp_path / "mailproxy.toml"
    file.write_text("""
        process.user = "nobody"
        [frontends.imap]
        protocol = "imap"
        timeouts = { client = "10m" }
        bind = [{ address = "127.0.0.1:0" }]
    """)
    return file


def test_check_prints_a_line_each_and_is_content(advised_file: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(advised_file)])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"{advised_file}: advice: frontends.imap: has no backend: every session is refused; give backend unless that is meant",
        f"{advised_file}: advice: frontends.imap.timeouts.client: 600s {IDLE}",
        f"{advised_file}: fine: 1 bind, 0 servers, 2 pieces of advice",
    ]


def test_check_strictly_is_not_content_with_advice(advised_file: Path) -> None:
    assert CliRunner().invoke(main, ["check", "--strict", str(advised_file)]).exit_code == 1
