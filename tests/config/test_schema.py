"""The JSON Schema: it is valid, equals the file in ``config/``, and agrees with the parser."""

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


def rejected_paths(text: str) -> list[str]:
    """Return the JSON paths that the schema rejects."""
    return [error.json_path for error in schema.iter_errors(tomli.loads(text))]


def test_schema_is_valid() -> None:
    assert json_schema()["$schema"] == Draft202012Validator.META_SCHEMA["$schema"]
    Draft202012Validator.check_schema(json_schema())


def test_schema_command_prints_the_schema() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()


def test_schema_file_is_current() -> None:
    # python -m mailproxy schema > config/mailproxy.schema.json
    file = FOLDER / "mailproxy.schema.json"
    assert file.read_text(encoding="utf-8") == CliRunner().invoke(main, ["schema"]).output


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_schema_accepts_example_files(document: Path) -> None:
    assert rejected_paths(document.read_text(encoding="utf-8")) == []


def test_schema_and_parser_accept_every_key() -> None:
    assert rejected_paths(FULL_CONFIG) == []
    assert isinstance(mailproxy.from_mapping(tomli.loads(FULL_CONFIG)), mailproxy.Config)


def test_sample_has_every_key() -> None:
    """A new key of the model must be added to the sample, or to the keys of later versions."""
    later_keys = {"http"}
    sample, definitions = tomllib.loads(FULL_CONFIG), json_schema()["$defs"]
    tables = {
        "Process": sample["process"],
        "Log": sample["log"] | sample["log"]["targets"][1],  # an output has the keys of a single log
        "Admin": sample["admin"],
        "AdminSocket": sample["admin"]["sockets"][0] | sample["admin"]["sockets"][1],
        "AcmeBody": {key: value for table in sample["acme"].values() for key, value in table.items()},
        "AcmeDns": sample["acme"]["letsencrypt"]["dns"] | sample["acme"]["program"]["dns"],
        "AcmeEab": sample["acme"]["letsencrypt"]["eab"],
        "Rfc2136": sample["acme"]["letsencrypt"]["dns"]["rfc2136"],
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
        assert known - set(table) <= later_keys, name
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
        sample_keys = set().union(*items)
        assert sample_keys == set(definitions[name]["properties"]), name


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
def test_schema_rejects_at_the_right_path(lines: str, path: str) -> None:
    assert rejected_paths(smallest_toml(lines)) == [path]


def test_schema_rejects_file_without_frontends() -> None:
    assert rejected_paths("[log]\nlevel = 'info'") == ["$"]


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
def test_schema_accepts_environment_variables(lines: str) -> None:
    assert rejected_paths(smallest_toml(lines)) == []


@pytest.mark.parametrize(
    "lines",
    [
        "admin = { socket = '/run/mailproxy/admin.sock', http = '127.0.0.1:8405' }",
    ],
)
def test_schema_accepts_keys_of_later_versions(lines: str) -> None:
    assert rejected_paths(smallest_toml(lines)) == []


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
def test_schema_accepts_every_form_of_check(line: str, check: str) -> None:
    assert rejected_paths(smallest_toml(line.format(check))) == []


def test_every_key_has_a_description() -> None:
    tables = json_schema()["$defs"].values()
    descriptions = [key.get("description") for table in tables for key in table["properties"].values()]
    assert len(descriptions) > 100
    assert all(descriptions)


def test_every_definition_is_referenced() -> None:
    def references(part: Any) -> set[str]:
        children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        own = {part["$ref"]} if isinstance(part, dict) and "$ref" in part else set()
        return own.union(*map(references, children))

    assert references(json_schema()) == {f"#/$defs/{name}" for name in json_schema()["$defs"]}


@settings(max_examples=60, deadline=None)
@given(mutated_mappings)
def test_schema_accepts_parsed_configurations(mapping: dict[str, Any]) -> None:
    try:
        mailproxy.from_mapping(mapping)
    except ConfigError:
        return
    assert [error.json_path for error in schema.iter_errors(mapping)] == []
