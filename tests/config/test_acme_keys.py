"""The keys of ``[acme.NAME]`` and of the frontends that use it, and the certificates that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from mailproxy.address import TcpAddress
from mailproxy.config import Config
from mailproxy.config.acme_plan import AcmePlan, challenge_names
from mailproxy.config.difference import compare
from mailproxy.config.model.acme import LETS_ENCRYPT, LETS_ENCRYPT_STAGING
from tests.support.smallest_config import faults_of, smallest_config, smallest_toml

BASE = """
acme.le = { terms_agreed = true, storage = "acme" }
frontends.imap.bind = [{ address = "127.0.0.1:1993", mode = "tls" }]
frontends.imap.tls = { acme = "le", names = ["imap.example.com"] }
"""


def config_with(lines: str = "") -> Config:
    return smallest_config(BASE + lines)


def test_defaults_are_lets_encrypt_and_one_ecdsa_key() -> None:
    acme = config_with().acme["le"]
    assert (acme.directory, acme.keys, acme.challenge) == (LETS_ENCRYPT, ("ecdsa-p256",), "tls-alpn-01")
    assert (acme.until_ready, acme.renew_before) == ("self-signed", "auto")
    assert acme.test_directory == LETS_ENCRYPT_STAGING
    assert acme.http_address is None


def test_http_challenge_listens_on_port_80_unless_there_is_a_webroot() -> None:
    acme = config_with().acme["le"]
    assert evolve(acme, challenge="http-01").http_address == TcpAddress("*", 80)
    assert evolve(acme, challenge="http-01", webroot=Path("/var/www")).http_address is None


DNS = 'dns = { rfc2136 = { server = "192.0.2.53", zone = "example.com", key_name = "k", key_file = "k" } }'


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ('acme.le = { storage = "acme" }', "acme.le.terms_agreed: must be true: read the authority's terms"),
        ("acme.le = { terms_agreed = true }", "acme.le: storage is missing: folder for account"),
        (
            'acme.le = { terms_agreed = true, storage = "acme", challenge = "dns-01" }',
            "acme.le.dns: is missing: dns-01 needs dns",
        ),
        (
            'acme.le = { terms_agreed = true, storage = "acme", challenge = "dns-01", dns = { resolvers = ["x.example"] } }',
            "acme.le.dns: is missing",
        ),
        (
            'acme.le = { terms_agreed = true, storage = "acme", challenge = "dns-01", dns = { hook = "a", resolvers = ["x.example"] } }',
            "acme.le.dns.resolvers[0]: x.example is no IP address",
        ),
        (
            f'acme.le = {{ terms_agreed = true, storage = "acme", {DNS} }}',
            'acme.le.dns: has no meaning with challenge = "tls-alpn-01"',
        ),
        (
            'acme.le = { terms_agreed = true, storage = "acme", challenge = "dns-01", dns = { rfc2136 = { zone = "a.example" } } }',
            "acme.le.dns.rfc2136: server is missing",
        ),
        (
            'acme.le = { terms_agreed = true, storage = "acme", http = "*:80" }',
            'acme.le.http: has no meaning with challenge = "tls-alpn-01"',
        ),
        (
            'acme.le = { terms_agreed = true, storage = "acme", challenge = "http-01", http = "*:80", webroot = "/w" }',
            "acme.le.http: is given beside webroot",
        ),
        ('acme.le = { terms_agreed = true, storage = "acme", keys = [] }', "acme.le.keys: is empty"),
        ('acme.le = { terms_agreed = true, storage = "acme", keys = ["dsa"] }', 'acme.le.keys[0]: "dsa" is not allowed'),
        (
            'acme.le = { terms_agreed = true, storage = "acme", reuse_key = true, next_key = true }',
            "acme.le.next_key: has no meaning with reuse_key",
        ),
        (
            'acme.le = { terms_agreed = true, storage = "acme", contact = ["me@example.com"] }',
            'acme.le.contact[0]: "me@example.com" is no URL: write "mailto:me@example.com"',
        ),
        (
            'acme.le = { terms_agreed = true, storage = "acme", directory = "ftp://a" }',
            'acme.le.directory: "ftp://a" is not allowed: a URL',
        ),
        (
            'acme.le = { terms_agreed = true, storage = "acme", ocsp = true }',
            "acme.le.ocsp: unknown key: not here, because Python's ssl cannot staple OCSP responses",
        ),
        (
            'frontends.imap.tls = { acme = "el", names = ["imap.example.com"] }',
            'frontends.imap.tls.acme: there is no acme "el"; known are le',
        ),
        ('frontends.imap.tls = { acme = "le" }', "frontends.imap.tls.acme: needs names"),
        (
            'frontends.imap.tls = { acme = "le", names = "routes" }',
            "frontends.imap.tls.names: no route of this frontend has a name in sni",
        ),
        (
            'frontends.imap.tls = { acme = "le", names = ["*.example.com"] }',
            'frontends.imap.tls.names: "*.example.com" is a wildcard, which needs challenge = "dns-01"',
        ),
        (
            'frontends.imap.tls = { acme = "le", names = ["localhost"] }',
            'frontends.imap.tls.names: ["localhost"] is not allowed: "localhost" is no DNS name',
        ),
        (
            'frontends.imap.tls = { certificates = ["a"], names = ["imap.example.com"] }',
            "frontends.imap.tls.names: has no meaning without acme",
        ),
        (
            'frontends.imap.tls = { certificates = ["a"], ocsp = true }',
            "frontends.imap.tls.ocsp: unknown key: not here, because Python's ssl cannot staple OCSP responses (it has no status callback), and Let's Encrypt has ended OCSP",
        ),
        (
            'acme.other = { terms_agreed = true, storage = "acme" }',
            "is the storage of acme.le already",
        ),
    ],
)  # fmt: skip
def test_fault_names_the_key(lines: str, fault: str) -> None:
    assert any(fault in line for line in faults_of(smallest_toml(BASE + lines))), faults_of(
        smallest_toml(BASE + lines)
    )


def test_frontends_with_equal_names_share_certificates() -> None:
    config = config_with(
        'frontends.pop = { protocol = "tcp", backend = "dovecot", bind = [{ address = "127.0.0.1:1995", mode = "tls" }], '
        'tls = { acme = "le", names = ["imap.example.com"] } }'
    )
    assert [each.stem for each in AcmePlan(config).certificates] == ["imap.example.com.ecdsa-p256"]


def test_each_key_type_has_its_certificate() -> None:
    config = config_with(
        'acme.le = { terms_agreed = true, storage = "/s", keys = ["ecdsa-p256", "rsa-2048"] }'
    )
    plan = AcmePlan(config)
    assert [str(each.file) for each in plan.certificates] == [
        "/s/certificates/imap.example.com.ecdsa-p256.pem",
        "/s/certificates/imap.example.com.rsa-2048.pem",
    ]


def test_other_names_get_other_files() -> None:
    config = config_with(
        'frontends.pop = { protocol = "tcp", backend = "dovecot", bind = [{ address = "127.0.0.1:1995", mode = "tls" }], '
        'tls = { acme = "le", names = ["imap.example.com", "pop.example.com"] } }'
    )
    stems = [each.stem for each in AcmePlan(config).certificates]
    assert stems == ["imap.example.com.ecdsa-p256", "imap.example.com-2.ecdsa-p256"]


def test_names_can_have_a_certificate_each() -> None:
    config = config_with(
        'acme.le = { terms_agreed = true, storage = "/s", certificate_per_name = true }\n'
        'frontends.imap.tls = { acme = "le", names = ["A.example.com", "b.example.com"] }'
    )
    assert [each.names for each in AcmePlan(config).certificates] == [("a.example.com",), ("b.example.com",)]
    assert set(challenge_names(config)) == {"a.example.com", "b.example.com"}


def test_names_of_routes_leave_out_what_is_passed_through() -> None:
    config = config_with(
        'frontends.imap.tls = { acme = "le", names = "routes" }\n'
        'frontends.imap.routes = [{ sni = ["a.example.com"], backend = "dovecot" }, '
        '{ sni = ["b.example.com"], mode = "passthrough", backend = "dovecot" }, { sni = ["c.example.com"], reject = true }]'
    )
    assert [each.names for each in AcmePlan(config).certificates] == [("a.example.com",)]


def test_selection_is_by_name() -> None:
    plan = AcmePlan(config_with())
    assert plan.select(()) == plan.select(("IMAP.example.com",)) == plan.certificates
    with pytest.raises(LookupError, match="pop"):
        plan.select(("pop.example.com",))


def test_difference_names_the_keys() -> None:
    before, after = (
        config_with(),
        config_with('acme.le = { terms_agreed = true, storage = "acme", renew_before = "30d" }'),
    )
    (line,) = compare(before, after).changes
    assert line.startswith("~ acme.le.renew_before: auto -> ")
    assert "+ acme le" in compare(smallest_config(""), after).changes
