"""The JSON Schema: valid itself, the one in ``config/``, and of one mind with what reads the configuration."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli
from click.testing import CliRunner
from hypothesis import given, settings
from jsonschema import Draft202012Validator

import mailproxy
from mailproxy.cli import main
from mailproxy.config import json_schema
from mailproxy.errors import ConfigError
from tests.support.config_noise import FULL_CONFIG, mutated_mappings
from tests.support.smallest_config import smallest_toml

FOLDER = Path(__file__).parents[2] / "config"
DOCUMENTS = sorted(FOLDER.glob("*.toml"))

schema = Draft202012Validator(json_schema())


def refused(whole: str) -> list[str]:
    """Where the schema finds fault, as paths."""
    return [error.json_path for error in schema.iter_errors(tomli.loads(whole))]


def test_it_is_a_valid_schema() -> None:
    assert json_schema()["$schema"] == Draft202012Validator.META_SCHEMA["$schema"]
    Draft202012Validator.check_schema(json_schema())


def test_the_program_prints_it() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()


def test_the_file_in_config_is_what_the_program_prints() -> None:
    # python -m mailproxy schema > config/mailproxy.schema.json
    file = FOLDER / "mailproxy.schema.json"
    assert file.read_text(encoding="utf-8") == CliRunner().invoke(main, ["schema"]).output


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_it_accepts_the_documents(document: Path) -> None:
    assert refused(document.read_text(encoding="utf-8")) == []


def test_both_accept_every_key() -> None:
    assert refused(FULL_CONFIG) == []
    assert isinstance(mailproxy.from_mapping(tomli.loads(FULL_CONFIG)), mailproxy.Config)


def test_the_sample_has_every_key_that_there_is() -> None:
    """A key that comes to the model must come to the sample, or to these that only a later version can use."""
    later = {"socket", "http"}
    sample, definitions = tomllib.loads(FULL_CONFIG), json_schema()["$defs"]
    tables = {
        "Process": sample["process"],
        "Log": sample["log"] | sample["log"]["targets"][1],  # one of several has what a single one has
        "Admin": sample["admin"],
        "FrontendBody": sample["frontends"]["imap"],
        "BackendBody": sample["backends"]["dovecot"],
        "FrontendTls": sample["frontends"]["imap"]["tls"] | sample["frontends"]["imap"]["bind"][0]["tls"],
        "FrontendTimeouts": sample["frontends"]["imap"]["timeouts"],
        "SessionRate": sample["frontends"]["imap"]["max_session_rate_per_client"],
        "BackendTimeouts": sample["backends"]["dovecot"]["timeouts"],
        "ServerTls": sample["backends"]["dovecot"]["tls"],
        "Stick": sample["backends"]["dovecot"]["stick"],
    }
    for name, table in tables.items():
        known = set(definitions[name]["properties"])
        assert known - set(table) <= later, name
        assert set(table) <= known
    servers = [server for server in tables["BackendBody"]["servers"] if isinstance(server, dict)]
    checks = [sample["backends"]["dovecot"]["check"], *(server.get("check") or {} for server in servers)]
    steps = [step for check in checks for step in check.get("steps", ())]
    lists = {
        "LogOutput": sample["log"]["targets"],
        "Bind": tables["FrontendBody"]["bind"],
        "Route": tables["FrontendBody"]["routes"],
        "Server": servers,
        "Check": checks,
        "Step": steps,
        "Connect": [step["connect"] for step in steps if "connect" in step],
    }
    for name, items in lists.items():
        given = set().union(*items)
        assert given == set(definitions[name]["properties"]), name


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ("logs.level = 'info'", "$"),
        ("log.colour = true", "$.log"),
        ("process.max_session = 3", "$.process"),
        ("defaults.servers = {}", "$.defaults"),
        ("defaults.server = '192.0.2.1'", "$.defaults.server"),
        ("profiles.x.bind.adress = '*:1'", "$.profiles.x.bind"),
        ("frontends.imap.name = 'imap'", "$.frontends.imap"),
        ("frontends.imap.bind = [{ adress = '*:143' }]", "$.frontends.imap.bind[0]"),
        ("frontends.imap.timeouts.clients = 3", "$.frontends.imap.timeouts"),
        ("frontends.imap.protocol = 'imaps'", "$.frontends.imap.protocol"),
        ("frontends.imap.timeouts.client = 'soon'", "$.frontends.imap.timeouts.client"),
        ("frontends.imap.bind = { address = '*:143' }", "$.frontends.imap.bind"),
        ("frontends.imap.tls = true", "$.frontends.imap.tls"),
        ("process.max_sessions = '100'", "$.process.max_sessions"),
        ("process.max_sessions = 0", "$.process.max_sessions"),
        ("backends.dovecot.port = 65536", "$.backends.dovecot.port"),
        ("backends.dovecot.servers = [3]", "$.backends.dovecot.servers[0]"),
        ("backends.dovecot.check = 'sometimes'", "$.backends.dovecot.check"),
        ("backends.dovecot.check.steps = [{ expects = 'a' }]", "$.backends.dovecot.check"),
        ("backends.dovecot.stick.prefix_v4 = 33", "$.backends.dovecot.stick"),
        ("admin.mode = 660", "$.admin.mode"),
        (
            "frontends.imap.bind = [{ address = '*:143', accept_proxy = '10.0.0.0/8' }]",
            "$.frontends.imap.bind[0]",
        ),
        ("frontends.imap.bind = [{ address = '*:143', accept_proxy = [10] }]", "$.frontends.imap.bind[0]"),
        ("frontends.imap.routes = [{ sni = true, reject = true }]", "$.frontends.imap.routes[0].sni"),
        ("frontends.imap.routes = [{ sni = [], reject = true }]", "$.frontends.imap.routes[0].sni"),
        ("frontends.imap.routes = [{ mode = 'forward', reject = true }]", "$.frontends.imap.routes[0].mode"),
        ("frontends.imap.routes = [{ port = [0], reject = true }]", "$.frontends.imap.routes[0].port[0]"),
        ("frontends.imap.tls.client_verify = true", "$.frontends.imap.tls"),
        ("backends.dovecot.send_proxy = 'v3'", "$.backends.dovecot.send_proxy"),
        ("backends.dovecot.send_proxy_tlvs = ['ssl']", "$.backends.dovecot.send_proxy_tlvs[0]"),
    ],
)
def test_it_refuses_in_the_right_place(lines: str, path: str) -> None:
    assert refused(smallest_toml(lines)) == [path]


def test_a_file_without_frontends_is_refused() -> None:
    assert refused("[log]\nlevel = 'info'") == ["$"]


@pytest.mark.parametrize(
    "lines",
    [
        "process.max_sessions = '${SESSIONS}'",
        "frontends.imap.log_null = '${LOG_NULL:-false}'",
        "frontends.imap.protocol = '${PROTOCOL:-imap}'",
        "frontends.imap.bind = [{ address = '*:${PORT}', name = 'imap-${NODE}' }]",
        "frontends.imap.timeouts.client = '${MINUTES}m'",
        "backends.dovecot.servers = ['${HOST}']",
        "admin.mode = '0${BITS}'",
    ],
)
def test_variables_of_the_environment_may_stand_anywhere(lines: str) -> None:
    assert refused(smallest_toml(lines)) == []


@pytest.mark.parametrize(
    "lines",
    [
        "admin = { socket = '/run/mailproxy/admin.sock', http = '127.0.0.1:8405' }",
        "frontends.imap.bind = [{ address = '*:143', mode = 'starttls' }]",
        "backends.dovecot.tls.mode = 'starttls'",
    ],
)
def test_it_knows_what_a_later_version_does(lines: str) -> None:
    assert refused(smallest_toml(lines)) == []


@pytest.mark.parametrize(
    "line",
    [
        "defaults.backend.check = {}",
        "defaults.server.check = {}",
        "profiles.x.backend.check = {}",
        "profiles.x.server.check = {}",
        "backends.dovecot.check = {}",
        "backends.dovecot.servers = [{{ address = '192.0.2.1', check = {} }}]",
    ],
)
@pytest.mark.parametrize("check", ["'tcp'", "'${CHECK}'", "false", "{ type = 'tcp' }", "{ tls = false }"])
def test_a_check_is_a_word_a_table_or_false_wherever_it_stands(line: str, check: str) -> None:
    assert refused(smallest_toml(line.format(check))) == []


def test_every_key_has_a_meaning() -> None:
    tables = json_schema()["$defs"].values()
    found = [key.get("description") for table in tables for key in table["properties"].values()]
    assert len(found) > 100
    assert all(found)


def test_every_table_is_there_once_and_referred_to() -> None:
    def references(part: Any) -> set[str]:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        own = {part["$ref"]} if isinstance(part, dict) and "$ref" in part else set()
        return own.union(*map(references, inner))

    assert references(json_schema()) == {f"#/$defs/{name}" for name in json_schema()["$defs"]}


@settings(max_examples=60, deadline=None)
@given(mutated_mappings)
def test_it_refuses_nothing_that_the_program_takes(mapping: dict[str, Any]) -> None:
    try:
        mailproxy.from_mapping(mapping)
    except ConfigError:
        return
    assert [error.json_path for error in schema.iter_errors(mapping)] == []
