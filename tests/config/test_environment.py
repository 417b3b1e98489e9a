"""Environment variables in strings of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.smallest_config import faults_of, smallest_config, smallest_toml


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {
        "HOST": "192.0.2.7", "PORT": "993", "EMPTY": "", "FOLDER": "/srv/mail", "YES": "true", "NO": "false",
        "TRICK": "${HOST}", "SHARE": "0.5", "LIMIT": "90",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"MP_{name}", value)
    return monkeypatch


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("${MP_FOLDER}/mail.log", "/srv/mail/mail.log"),
        ("${MP_FOLDER}${MP_FOLDER}", "/srv/mail/srv/mail"),
        ("${MP_NOWHERE:-/var/log}/mail.log", "/var/log/mail.log"),
        ("${MP_EMPTY:-/var/log}/mail.log", "/var/log/mail.log"),
        ("${MP_FOLDER:-/var/log}/mail.log", "/srv/mail/mail.log"),
        ("/srv${MP_EMPTY}/mail.log", "/srv/mail.log"),
        ("/srv${MP_NOWHERE:-}/mail.log", "/srv/mail.log"),
        ("/srv/$$HOME.log", "/srv/$HOME.log"),
        ("/srv/$${MP_FOLDER}", "/srv/${MP_FOLDER}"),
        ("/srv/$HOME.log", "/srv/$HOME.log"),
        ("/srv/$", "/srv/$"),
        ("/srv/${MP_TRICK}", "/srv/${HOST}"),  # a variable's value is not expanded again
        ("/srv/${MP_NOWHERE:-a b:-c}", "/srv/a b:-c"),
    ],
)
def test_variables_in_strings(written: str, path: str) -> None:
    assert smallest_config(f'log.to = "{written}"').log.to.path == Path(path)


def test_variables_in_addresses_names_and_lists() -> None:
    config = smallest_config("""
frontends.imap.bind = [{ address = "*:${MP_PORT}", name = "${MP_HOST}", mode = "tls" }]
frontends.imap.tls.certificates = ["${MP_FOLDER}/a.pem", "/b.pem"]
backends.dovecot.servers = ["${MP_HOST}", "${MP_HOST}:${MP_PORT}"]
""")
    bind = config.frontends["imap"].bind[0]
    assert (str(bind.address), bind.name) == ("*:993", "192.0.2.7")
    assert config.frontends["imap"].tls is not None
    assert [str(pair.certificate) for pair in config.frontends["imap"].tls.certificates] == [
        "/srv/mail/a.pem",
        "/b.pem",
    ]
    assert [str(server.address) for server in config.backends["dovecot"].servers] == [
        "192.0.2.7",
        "192.0.2.7:993",
    ]


def test_single_variable_may_be_number_or_boolean() -> None:
    config = smallest_config("""
process.max_sessions = "${MP_PORT}"
frontends.imap.log_null = "${MP_YES}"
frontends.imap.bind = [{ address = "*:143", v6only = "${MP_NO}", keepalive = "${MP_NOWHERE:-true}" }]
frontends.imap.timeouts.client = "${MP_LIMIT}"
backends.dovecot.port = "${MP_NOWHERE:-993}"
backends.dovecot.redispatch = "${MP_NOWHERE:-2}"
backends.dovecot.check = { type = "none", jitter = "${MP_SHARE}" }
""")
    frontend, backend = config.frontends["imap"], config.backends["dovecot"]
    assert config.process.max_sessions == 993
    assert frontend.log_null is True
    assert (frontend.bind[0].v6only, frontend.bind[0].keepalive) == (False, True)
    assert frontend.timeouts.client == 90.0
    assert (backend.port, backend.redispatch) == (993, 2)
    assert backend.check is not None
    assert backend.check.jitter == 0.5


def test_variable_with_other_text_stays_a_string() -> None:
    assert faults_of(smallest_toml('process.max_sessions = "${MP_PORT}0"')) == [
        'process.max_sessions: "9930" is not allowed: without quotes, 9930'
    ]


def test_invalid_number_shows_the_variable_value() -> None:
    assert faults_of(smallest_toml('backends.dovecot.port = "${MP_HOST}"')) == [
        'backends.dovecot.port: "192.0.2.7" is not allowed: a port from 1 to 65535'
    ]


def test_empty_variable_is_an_empty_string() -> None:
    assert faults_of(smallest_toml('log.to = "${MP_EMPTY}"')) == [
        'log.to: "" is not allowed: stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514'
    ]


def test_missing_variables_are_reported_with_their_keys() -> None:
    lines = """
log.to = "${MP_A}/${MP_B}"
frontends.imap.bind = [{ address = "*:143" }, { address = "*:${MP_C}" }]
frontends.imap.tls.certificates = ["/a.pem", "${MP_D}"]
backends.dovecot.servers = ["${MP_E}"]
backends.dovecot.port = "${MP_F}"
"""
    assert sorted(faults_of(smallest_toml(lines))) == [
        "backends.dovecot.port: the environment has no MP_F",
        "backends.dovecot.servers[0]: the environment has no MP_E",
        "frontends.imap.bind[1].address: the environment has no MP_C",
        "frontends.imap.tls.certificates[1]: the environment has no MP_D",
        "log.to: the environment has no MP_A",
        "log.to: the environment has no MP_B",
    ]


@pytest.mark.parametrize(
    "written", ["${", "${}", "${MP_HOST", "${MP-HOST}", "${1}", "${MP_HOST:+x}", "${ MP_HOST }"]
)
def test_malformed_variable_is_a_fault(written: str) -> None:
    assert faults_of(smallest_toml(f'log.to = "{written}"')) == [
        f'log.to: "{written}" is not allowed: ${{NAME}}, ${{NAME:-default}}, or $$ for a dollar sign'
    ]


def test_variables_in_keys_are_not_expanded() -> None:
    assert faults_of(smallest_toml('log."${MP_HOST}" = 1')) == [
        'log."${MP_HOST}": unknown key; known are level, format, to, facility, tag, targets'
    ]


def test_undecodable_variable_is_a_printable_fault(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MP_BYTES", "\udcff")
    assert faults_of(smallest_toml('frontends.imap.bind = [{ address = "unix:/run/${MP_BYTES}" }]'))[
        0
    ].isprintable()


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        (
            'frontends.imap.bind = ["*:${MP_A}", "*:143", { address = "*:993", proxy_optional = true }]',
            [
                "frontends.imap.bind[0]: the environment has no MP_A",
                "frontends.imap.bind[2].proxy_optional: has no meaning without accept_proxy",
            ],
        ),
        (
            'backends.dovecot.servers = ["${MP_A}"]',
            ["backends.dovecot.servers[0]: the environment has no MP_A"],
        ),
        (
            'log.targets = ["${MP_A}", { to = "stderr" }]',
            ["log.targets[0]: the environment has no MP_A"],
        ),
        (
            'frontends.imap.routes = ["${MP_A}", { port = [143], backend = "none" }]',
            [
                "frontends.imap.routes[0]: the environment has no MP_A",
                'frontends.imap.routes[1].backend: there is no backend "none"; known are dovecot',
            ],
        ),
    ],
)
def test_table_with_missing_variable_leaves_other_tables_of_the_list_as_they_are(
    lines: str, faults: list[str]
) -> None:
    assert faults_of(smallest_toml(lines)) == faults
