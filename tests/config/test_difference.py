"""The difference between two configurations: its lines, and what needs a restart."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import mailproxy
from mailproxy.config.difference import Difference, compare

BASE: dict[str, Any] = {
    "frontends": {"imap": {"bind": ["*:143", "127.0.0.1:0"], "backend": "dovecot"}},
    "backends": {
        "dovecot": {
            "servers": [
                {"name": "d1", "address": "10.0.0.1:143"},
                {"name": "d2", "address": "10.0.0.2:143"},
            ]
        }
    },
}


def difference(changes: dict[str, Any]) -> Difference:
    """Compare the base with itself and these values, by the dotted path of their tables."""
    changed = deepcopy(BASE)
    for path, value in changes.items():
        *tables, key = path.split(".")
        table: Any = changed
        for name in tables:
            table = table[int(name)] if isinstance(table, list) else table.setdefault(name, {})
        table[key] = value
    return compare(mailproxy.from_mapping(BASE), mailproxy.from_mapping(changed))


def lines(changes: dict[str, Any]) -> tuple[str, ...]:
    found = difference(changes)
    assert not found.needs_restart
    return found.changes


SERVERS = BASE["backends"]["dovecot"]["servers"]


def test_equal_configurations_have_no_difference() -> None:
    assert lines({}) == ()


def test_servers_are_added_removed_and_changed_by_name() -> None:
    servers = [{**SERVERS[1], "weight": 5}, {"name": "d3", "address": "10.0.0.3:143"}, "10.0.0.4:143"]
    assert lines({"backends.dovecot.servers": servers}) == (
        "- server dovecot/d1 10.0.0.1:143",
        "~ server dovecot/d2 weight: 1 -> 5",
        "+ server dovecot/d3 10.0.0.3:143",
        "+ server dovecot/10.0.0.4:143",
    )


def test_readdressed_server_is_one_change() -> None:
    servers = [{"name": "d1", "address": "10.0.0.9:143"}, SERVERS[1]]
    assert lines({"backends.dovecot.servers": servers}) == (
        "~ server dovecot/d1 address: 10.0.0.1:143 -> 10.0.0.9:143",
    )


def test_order_of_servers_is_a_change() -> None:
    assert lines({"backends.dovecot.servers": SERVERS[::-1]}) == ("~ backends.dovecot.servers: order",)


def test_key_inherited_by_servers_is_one_change() -> None:
    assert lines({"backends.dovecot.send_proxy": "v2"}) == ("~ backends.dovecot.send_proxy: none -> v2",)


def test_binds_are_compared_by_address() -> None:
    binds = ["127.0.0.1:0", "127.0.0.1:0", {"address": "*:143", "backlog": 7}]
    expected = ("~ bind imap *:143 backlog: 1024 -> 7", "+ bind imap 127.0.0.1:0")
    assert sorted(lines({"frontends.imap.bind": binds})) == sorted(expected)


def test_durations_are_written_with_units() -> None:
    changes = {"frontends.imap.timeouts.client": "5m", "process.drain_timeout": 90, "log.format": "json"}
    assert lines(changes) == (
        "~ process.drain_timeout: 30s -> 90s",
        "~ log.format: text -> json",
        "~ frontends.imap.timeouts.client: 31m -> 5m",
    )


def test_tables_and_lists_are_named_only() -> None:
    routes = [{"client": ["10.0.0.0/8"], "reject": True}]
    assert lines({"frontends.imap.routes": routes, "backends.dovecot.stick": {}}) == (
        "~ frontends.imap.routes",
        "~ backends.dovecot.stick",
    )


def test_frontends_and_backends_come_with_binds_and_servers() -> None:
    changes = {
        "frontends.pop": {"bind": ["*:110"], "backend": "archive"},
        "backends.archive": {"servers": ["10.0.0.7:110"]},
    }
    assert lines(changes) == (
        "+ frontend pop",
        "+ bind pop *:110",
        "+ backend archive",
        "+ server archive/10.0.0.7:110",
    )


def test_what_needs_a_restart_is_named_and_stays() -> None:
    changes = {
        "process.user": "nobody",
        "process.relay": "portable",
        "admin": {"http": "127.0.0.1:8405", "token_file": "token"},
        "tracing": {"otlp": "http://127.0.0.1:4318"},
        "frontends.imap.bind": [{"address": "*:143", "free_bind": True, "backlog": 9}, "127.0.0.1:0"],
    }
    found = difference(changes)
    assert found.needs_restart == (
        "~ process.relay: auto -> portable",
        "~ process.user: none -> nobody",
        "~ tracing.otlp: none -> http://127.0.0.1:4318",
        "~ admin.http: none -> 127.0.0.1:8405",
        f"~ admin.token_file: none -> {Path.cwd() / 'token'}",
        "~ bind imap *:143 free_bind: false -> true",
    )
    assert found.changes == ("~ bind imap *:143 backlog: 1024 -> 9",)
    base = mailproxy.from_mapping(BASE)
    assert (found.config.process, found.config.admin, found.config.tracing) == (
        base.process,
        base.admin,
        base.tracing,
    )
    assert not found.config.frontends["imap"].bind[0].free_bind
    assert found.config.frontends["imap"].bind[0].backlog == 9


@pytest.mark.parametrize(
    ("user", "address", "is_named"),
    [("nobody", "*:80", True), ("nobody", "*:8080", False), (None, "*:80", False)],
)
def test_listener_for_http_01_that_needs_privileges(user: str | None, address: str, is_named: bool) -> None:
    """Privileges for ports below 1024 are given up at the start, if there is another user."""
    process = {} if user is None else {"user": user}
    acme = {"terms_agreed": True, "challenge": "http-01", "storage": "/none", "http": address}
    old = mailproxy.from_mapping({**BASE, "process": process})
    new = mailproxy.from_mapping({**BASE, "process": process, "acme": {"le": acme}})
    expected = (f"acme le http: a listener on {address}",) if is_named else ()
    assert compare(old, new).needs_restart == expected
    assert not compare(new, new).needs_restart
