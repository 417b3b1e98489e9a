"""The page for readers who come from HAProxy: it has their words, its keys exist, and its translation works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mailproxy.config import json_schema
from mailproxy.testing import ThrowAwayCA

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "from-haproxy.md").read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|", 1))
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| HAProxy"))
]

NO_KEYS = {
    "leastconn",
    "json",
    "text",
    "passthrough",
    "ssl",
    "ssl_alpn",
    "set_state",
    "true",
    "id",
}  # other words in code

# The words of haproxy.cfg for TCP: sections, options, timeouts, parameters of bind and server, checks and tables.
WORDS = [
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


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_haproxy_is_on_the_page(word: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w]|-\w)", PAGE), word


def test_every_row_says_something() -> None:
    assert len(ROWS) > 120
    for row in ROWS:
        assert len(row) == 2, row
        assert all(row), row


def known_keys() -> set[str]:
    """The name of every key, of every table."""
    found: set[str] = set()
    left: list[object] = [json_schema()]
    while left:
        match left.pop():
            case dict() as table:
                found.update(table.get("properties", ()))
                left += table.values()
            case list() as items:
                left += items
    return found


def named_keys() -> set[str]:
    """What the right column names as a key: a word, or what stands before an equals sign."""
    keys = set()
    for _, right in ROWS:
        for code in re.findall(r"`([^`]+)`", right):
            for key in re.findall(r"^(?:\{ )?([a-z][a-z_.]+)(?= = |$)", code):
                keys.add(key.rpartition(".")[2])
    return keys


def test_every_key_on_the_page_exists() -> None:
    assert named_keys() - known_keys() - NO_KEYS == set()


def block(language: str) -> str:
    *_, last = re.finditer(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return last[1]


def test_the_translation_passes_check(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    text = block("toml")
    certificate = throw_away_ca.issue("imap.example.com", folder=tmp_path)
    for old, new in {
        "/etc/mailproxy/certs/": str(certificate),
        "/etc/mailproxy/ca.pem": str(throw_away_ca.pem),
        'user = "mailproxy"\n': "",  # which this machine need not have
    }.items():
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "mailproxy.toml"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mailproxy", "check", file], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    known = ("receives the client's TLS facts in clear text", "process.user", "max_sessions", "/dev/log")
    advice = [line for line in done.stderr.splitlines() if not any(words in line for words in known)]
    assert advice == []


@pytest.mark.skipif(
    shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin") is None,
    reason="haproxy is not installed",
)
def test_haproxy_takes_the_original(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    text = block("")
    certificate = throw_away_ca.issue("imap.example.com", folder=tmp_path)
    for old, new in {
        "/etc/haproxy/certs/": str(certificate),
        "/etc/haproxy/ca.pem": str(throw_away_ca.pem),
        "/run/haproxy/admin.sock": str(tmp_path / "admin.sock"),
        "user haproxy": "user nobody",
        "group haproxy": "group nogroup",
    }.items():
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin")
    done = subprocess.run([str(program), "-c", "-f", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
