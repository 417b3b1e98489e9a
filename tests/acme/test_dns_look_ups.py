"""dns-01 and TLSA with a name server in Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.acme.challenges import propagation
from mailproxy.acme.challenges.dns import DnsSolver, record_value
from mailproxy.acme.challenges.propagation import NameServer as Address
from mailproxy.acme.challenges.propagation import canonical, tlsa_records, wait_until_seen
from mailproxy.acme.challenges.solver import Proof
from mailproxy.acme.errors import AcmeError
from mailproxy.acme.tlsa import record_lines
from mailproxy.address import TcpAddress
from mailproxy.app.live_tlsa import check_tlsa
from mailproxy.certificates.loader import load_certificates
from mailproxy.config import AcmeDns, Config
from mailproxy.config.model import Rfc2136
from mailproxy.config.values import HostName, PositiveSeconds
from mailproxy.testing import ThrowAwayCA
from tests.support.acme.name_server import SECRET, NameServer
from tests.support.smallest_config import smallest_config

NAME = "imap.example.com"
OWNER = f"_acme-challenge.{NAME}."
PROOF = Proof(name=NAME, token="t" * 30, key_authorization="t.thumbprint")


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "_POLL_S", 0.05)
    monkeypatch.setattr(propagation, "_QUERY_TIMEOUT_S", 1.0)


def table(server: NameServer, folder: Path, *, secret: str = SECRET, zone: str = "example.com") -> AcmeDns:
    (folder / "key").write_text(secret)
    rfc2136 = Rfc2136(
        server=TcpAddress("127.0.0.1", server.port), zone=HostName(zone), key_name=HostName("update"), key_file=folder / "key"
    )  # fmt: skip
    return AcmeDns(
        rfc2136=rfc2136,
        resolvers=(TcpAddress("127.0.0.1", server.port),),
        propagation_timeout=PositiveSeconds(0.3),
    )


async def test_record_is_there_only_in_the_block(server: NameServer, tmp_path: Path) -> None:
    server.records[OWNER, "TXT"] = {'"other"'}
    async with DnsSolver(table(server, tmp_path)).answering([PROOF]):
        assert server.records[OWNER, "TXT"] == {'"other"', f'"{record_value(PROOF)}"'}
    assert server.records[OWNER, "TXT"] == {'"other"'}
    assert server.updates == 2


async def test_record_goes_where_the_alias_leads(server: NameServer, tmp_path: Path) -> None:
    server.records[OWNER, "CNAME"] = {"imap.acme.example.net."}
    solver = DnsSolver(table(server, tmp_path, zone="acme.example.net"))
    async with solver.answering([PROOF]):
        assert server.records["imap.acme.example.net.", "TXT"] == {f'"{record_value(PROOF)}"'}
    assert server.records["imap.acme.example.net.", "TXT"] == set()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"secret": "d3Jvbmc="}, "the update of example.com at 127.0.0.1:.* failed"),
        ({"secret": "#"}, "has no secret in base64"),
        ({"zone": "example.net"}, "is not in the zone example.net, and no alias leads there"),
    ],
)
async def test_failed_update_is_explained(
    server: NameServer, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    with pytest.raises(AcmeError, match=reason):
        async with DnsSolver(table(server, tmp_path, **change)).answering([PROOF]):
            raise AssertionError


async def test_refused_update_is_explained(server: NameServer, tmp_path: Path) -> None:
    server.refuses = True
    with pytest.raises(AcmeError, match=r"refuses the update of example.com: REFUSED"):
        async with DnsSolver(table(server, tmp_path)).answering([PROOF]):
            raise AssertionError


async def test_hook_that_adds_nothing_is_noticed(server: NameServer, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    dns = AcmeDns(
        hook=hook,
        resolvers=(TcpAddress("127.0.0.1", server.port),),
        propagation_timeout=PositiveSeconds(0.2),
    )
    with pytest.raises(AcmeError, match=f"{OWNER[:-1]} cannot be seen after 0.2 s: .* does not have it"):
        async with DnsSolver(dns).answering([PROOF]):
            raise AssertionError


def test_silent_server_is_named(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "_POLL_S", 0.05)
    with pytest.raises(AcmeError, match=r"127\.0\.0\.1 port 1"):
        wait_until_seen("a.example", ["x"], [Address("127.0.0.1", 1)], timeout=0.2)


def test_zone_without_known_servers_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "_servers_of_zone", lambda _: [])
    with pytest.raises(AcmeError, match="no name server of the zone is known"):
        wait_until_seen("a.example", ["x"], [], timeout=0.1)


def test_aliases_are_followed_to_the_end(server: NameServer) -> None:
    server.records["a.example.", "CNAME"] = {"b.example."}
    server.records["b.example.", "CNAME"] = {"c.example."}
    address = Address("127.0.0.1", server.port)
    assert canonical("a.example", [address]) == "c.example"
    server.records["c.example.", "CNAME"] = {"a.example."}
    assert canonical("a.example", [address])  # a circle ends


@pytest.fixture
def config(server: NameServer, throw_away_ca: ThrowAwayCA, tmp_path: Path) -> Config:
    pem = throw_away_ca.issue(NAME, "*.example.org", folder=tmp_path)
    return smallest_config(f"""
acme.le = {{ terms_agreed = true, storage = "{tmp_path}/acme", dns = {{ resolvers = ["127.0.0.1:{server.port}"] }} }}
frontends.imap.bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}, {{ address = "127.0.0.1:1143" }}]
frontends.imap.tls = {{ certificates = ["{pem}"] }}
""")


def test_records_to_publish_match_the_certificate(server: NameServer, config: Config) -> None:
    store = load_certificates(config)
    (line,) = record_lines(config, store, ())
    owner, _, _, *fields = line.partition(" ; ")[0].split()
    assert owner == f"_1993._tcp.{NAME}."
    assert not list(record_lines(config, store, ("other.example.com",)))
    server.records[owner, "TLSA"] = {" ".join(fields)}
    assert check_tlsa(config, store) == []
    (record,) = tlsa_records(NAME, 1993, [Address("127.0.0.1", server.port)])
    assert (record.usage, record.selector, record.matching) == (3, 1, 1)


def test_record_of_another_key_is_advice(server: NameServer, config: Config) -> None:
    server.records[f"_1993._tcp.{NAME}.", "TLSA"] = {f"3 1 1 {'00' * 32}"}
    (advice,) = check_tlsa(config, load_certificates(config))
    assert str(advice.path) == "frontends.imap.tls"
    assert advice.fact.startswith(f"no TLSA record of _1993._tcp.{NAME} matches the certificate ")


def test_name_without_records_is_fine(config: Config) -> None:
    assert check_tlsa(config, load_certificates(config)) == []
