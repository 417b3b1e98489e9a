"""Pages for migrating from other proxies: they have the words of the other proxy, and their keys exist."""

from __future__ import annotations

import re

import pytest

from mailproxy.config import json_schema
from mailproxy.log.fields import SESSION_FIELDS
from tests.support.pages import PAGES

MIGRATION_PAGES = ["docs/from-haproxy.md", "docs/from-nginx.md", "docs/from-caddy.md", "docs/from-traefik.md"]
HAPROXY = PAGES["docs/from-haproxy.md"]
# Values and other words in code that resemble keys.
NO_KEYS = {
    "client_limited",
    "first",
    "forward",
    "json",
    "leastconn",
    "limit_conn",
    "listen",
    "none",
    "passthrough",
    "set_state",
    "smtp",
    "rejected",
    "ssl",
    "ssl_alpn",
    "submission",
    "tcplog",
    "text",
    "true",
} | {field.name for field in SESSION_FIELDS}

# HAProxy's keywords for TCP: sections, options, timeouts, parameters of bind and server, checks and tables.
HAPROXY_KEYWORDS = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "bind",
    "server",
    "default-server",
    "mode",
    "tcp",
    "default_backend",
    "use_backend",
    "acl",
    "maxconn",
    "nbthread",
    "nbproc",
    "cpu-map",
    "ulimit-n",
    "user",
    "group",
    "uid",
    "gid",
    "chroot",
    "daemon",
    "pidfile",
    "hard-stop-after",
    "grace",
    "tune.",
    "ssl-default-bind-ciphers",
    "ssl-default-bind-options",
    "ssl-default-server-ciphers",
    "ssl-min-ver",
    "no-tls-tickets",
    "default-dh-param",
    "cachesize",
    "stats",
    "socket",
    "peers",
    "mailers",
    "email-alert",
    "resolvers",
    "hold",
    "load-server-state-from-file",
    "reload",
    "name",
    "interface",
    "transparent",
    "v4v6",
    "v6only",
    "tcp-ut",
    "tfo",
    "backlog",
    "defer-accept",
    "mss",
    "tos",
    "namespace",
    "accept-proxy",
    "expect-proxy",
    "tcpka",
    "clitcpka",
    "srvtcpka",
    "stick-table",
    "stick",
    "conn_cur",
    "conn_rate",
    "track-sc0",
    "reject",
    "inspect-delay",
    "socket-stats",
    "contstats",
    "ssl",
    "crt",
    "crt-list",
    "ocsp-update",
    "strict-sni",
    "ca-file",
    "verify",
    "crl-file",
    "alpn",
    "ciphers",
    "ciphersuites",
    "curves",
    "ecdhe",
    "prefer-client-ciphers",
    "sni",
    "verifyhost",
    "client-hs",
    "balance",
    "leastconn",
    "roundrobin",
    "random",
    "first",
    "source",
    "static-rr",
    "hash-type",
    "weight",
    "minconn",
    "fullconn",
    "maxqueue",
    "backup",
    "allbackups",
    "disabled",
    "slowstart",
    "retries",
    "redispatch",
    "observe",
    "error-limit",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "track",
    "agent-check",
    "server-template",
    "resolve-prefer",
    "init-addr",
    "usesrc",
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
    "proxy-v2-options",
    "abortonclose",
    "nolinger",
    "splice-auto",
    "store-request",
    "nopurge",
    "client-fin",
    "server-fin",
    "tunnel",
    "connect",
    "queue",
    "check",
    "independent-streams",
    "tarpit",
    "inter",
    "fastinter",
    "downinter",
    "rise",
    "fall",
    "spread-checks",
    "init-state",
    "addr",
    "port",
    "check-ssl",
    "check-sni",
    "check-alpn",
    "check-send-proxy",
    "smtpchk",
    "ssl-hello-chk",
    "tcp-check",
    "send-binary",
    "rstring",
    "binary",
    "linger",
    "comment",
    "min-recv",
    "log-health-checks",
    "log",
    "facility",
    "log-tag",
    "tcplog",
    "log-format",
    "unique-id-format",
    "dontlognull",
    "logasap",
    "dontlog-normal",
    "log-separate-errors",
    "src",
]


def rows(page: str) -> list[tuple[str, ...]]:
    """Return the rows of the page's tables: the other proxy's words, and mailproxy's."""
    lines = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE).splitlines()
    table_lines = [line for line in lines if line.startswith("|") and not line.startswith("|---")]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ", 1)) for line in table_lines]


@pytest.mark.parametrize("word", HAPROXY_KEYWORDS)
def test_haproxy_keyword_is_on_the_page(word: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w]|-\w)", HAPROXY), word


@pytest.mark.parametrize(("page", "count"), list(zip(MIGRATION_PAGES, (120, 100, 60, 35), strict=True)))
def test_every_row_has_two_cells(page: str, count: int) -> None:
    assert len(rows(page)) > count
    assert [row for row in rows(page) if len(row) != 2 or not all(row)] == []


def known_keys() -> set[str]:
    """Return the name of every key, of every table."""
    names: set[str] = set()
    remaining: list[object] = [json_schema()]
    while remaining:
        match remaining.pop():
            case dict() as table:
                names.update(table.get("properties", ()))
                remaining += table.values()
            case list() as items:
                remaining += items
    return names


def named_keys(page: str) -> set[str]:
    """Return what the right column names as a key: a word, or a word before an equals sign."""
    keys = set()
    for _, right in rows(page):
        for code in re.findall(r"`([^`]+)`", right):
            for key in re.findall(r"^(?:\{ )?([a-z][a-z_.]+)(?= = |$)", code):
                keys.add(key.rpartition(".")[2])
    return keys


@pytest.mark.parametrize("page", MIGRATION_PAGES)
def test_every_key_on_the_page_exists(page: str) -> None:
    assert named_keys(page) - known_keys() - NO_KEYS == set()
