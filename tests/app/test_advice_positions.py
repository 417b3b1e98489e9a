"""Every piece of advice has file, line, column and key, so that editors and CI can show it where it belongs."""

from __future__ import annotations

import ast
import json
import os
import pwd
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from mailproxy.app import acme, advice, live_check, port_advice
from mailproxy.certificates import expiry
from mailproxy.cli import main
from mailproxy.errors import Fault
from mailproxy.testing import ThrowAwayCA
from tests.support.must_staple import must_staple_certificate
from tests.support.ports import free_port

MODULES = (acme, advice, port_advice, expiry, live_check)

# Each configuration has a comment with the key of the advice in the line that it is to be reported for. {pem} is a
# certificate, {old} one that is almost out of date, {crl} a revocation list of that kind, {key} a key that all may read,
# {hidden} a certificate that the user cannot read, {nameless} one without a name, {staple} one that demands OCSP stapling.
CONFIGURATIONS = {
    "frontends": """
        [process]
        user = "root"
        max_sessions = 20
        [frontends.empty]  # frontends.empty
        protocol = "imap"
        bind = [{{ address = "127.0.0.1:1143", accept_proxy = ["0.0.0.0/0"] }}]  # frontends.empty.bind[0].accept_proxy
        max_sessions_per_client_exempt = ["10.0.0.0/8"]  # frontends.empty.max_sessions_per_client_exempt
        timeouts.client = "5m"  # frontends.empty.timeouts.client
        [frontends.routed]
        protocol = "imap"
        bind = ["127.0.0.1:1144"]
        max_sessions_per_client = 20  # frontends.routed.max_sessions_per_client
        [[frontends.routed.routes]]  # frontends.routed.routes[0]
        backend = "b"
        [[frontends.routed.routes]]
        client = ["10.0.0.0/8"]
        backend = "b"
        [backends.b]  # backends.b.send_proxy
        timeouts.server = "5m"  # backends.b.timeouts.server
        servers = ["192.0.2.1:143"]
        [backends.unused]  # backends.unused
        send_proxy = "none"
        servers = ["192.0.2.2:143"]
    """,
    "TLS": """
        [process]
        user = "root"
        [frontends.f]
        protocol = "imap"
        backend = "b"
        [[frontends.f.bind]]
        address = "127.0.0.1:993"
        mode = "forward"  # frontends.f.bind[0].mode
        [[frontends.f.bind]]
        address = "*:1143"
        mode = "forward"  # frontends.f.bind[1].mode
        [[frontends.f.bind]]
        address = "127.0.0.1:1993"
        mode = "passthrough"
        [backends.b]
        send_proxy = "none"
        tls = {{ verify = "none" }}  # backends.b.tls backends.b.tls.verify
        servers = [
            "192.0.2.1:993",
            {{ name = "d2", address = "192.0.2.1:993" }},  # backends.b.servers[1]
            "192.0.2.2:143",  # backends.b.servers[2]
        ]
        [frontends.g]
        protocol = "imap"
        backend = "c"
        tls = {{ certificates = ["{pem}"] }}
        bind = [{{ address = "127.0.0.1:2993", mode = "tls" }}]
        [backends.c]  # backends.c.tls
        send_proxy = "v2"  # backends.c.send_proxy
        servers = ["192.0.2.3:993", "192.0.2.4"]  # backends.c.servers
    """,
    "pools": """
        [process]
        user = "root"
        [frontends.f]
        protocol = "imap"
        backend = "b"
        routes = [{{ client = ["10.0.0.0/8"], backend = "c" }}]
        bind = ["127.0.0.1:1143"]
        [backends.b]  # backends.b
        send_proxy = "none"
        balance = "source"  # backends.b.balance
        stick = {{ on = "source", size = 0 }}  # backends.b.stick.size
        max_queue = 5  # backends.b.max_queue
        source = "192.0.2.99"  # backends.b.source
        servers = [{{ address = "192.0.2.1:143", weight = 0 }}]
        [backends.c]
        balance = "first"  # backends.c.balance
        check = "none"
        on_marked_down = "shutdown-sessions"  # backends.c.on_marked_down
        send_proxy = "v2-ssl"
        servers = [
            "192.0.2.2:143",  # backends.c.servers[0]
            "127.0.0.1:1144",  # backends.c.servers[1]
        ]
        [frontends.loop]
        protocol = "imap"
        bind = ["127.0.0.1:1144"]
        routes = [{{ client = ["10.0.0.0/8"], backend = "c" }}]
    """,
    "certificates": """
        [process]
        user = "nobody"
        [frontends.f]
        protocol = "imap"
        backend = "b"
        bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
        [frontends.f.tls]
        client_ca = "{ca}"
        client_verify = "required"
        client_crl = "{crl}"  # frontends.f.tls.client_crl
        certificates = [
            "{old}",  # frontends.f.tls.certificates[0]
            "{key}",  # frontends.f.tls.certificates[1]
            "{hidden}",  # frontends.f.tls.certificates[2]
            "{nameless}",  # frontends.f.tls.certificates[3]
        ]
        [backends.b]
        send_proxy = "v2-ssl"
        servers = ["127.0.0.1:143"]
    """,
    "ACME": """
        [process]
        user = "nobody"
        [acme.unused]  # acme.unused
        terms_agreed = true
        storage = "{folder}/acme-unused"
        [acme.alpn]
        terms_agreed = true
        challenge = "tls-alpn-01"  # acme.alpn.challenge
        storage = "{closed}"  # acme.alpn.storage
        eab = {{ key_id = "x", hmac_file = "{hidden}" }}  # acme.alpn.eab.hmac_file
        [acme.http]
        terms_agreed = true
        challenge = "http-01"
        http = "127.0.0.1:8080"  # acme.http.http
        storage = "{folder}/acme-http"
        [frontends.f]
        protocol = "imap"
        backend = "b"
        bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
        tls = {{ acme = "alpn", names = ["imap.example.com"] }}
        [frontends.g]
        protocol = "imap"
        backend = "b"
        bind = [{{ address = "127.0.0.1:1994", mode = "tls" }}]
        tls = {{ acme = "http", names = ["mail.example.com"] }}
        [frontends.h]
        protocol = "imap"
        backend = "b"
        bind = [{{ address = "127.0.0.1:1995", mode = "tls" }}]
        [frontends.h.tls]
        certificates = ["{staple}"]  # frontends.h.tls.certificates[0]
        [backends.b]
        send_proxy = "v2-ssl"
        servers = ["127.0.0.1:143"]
    """,
    "process": """
        [process]  # process
        workers = 500  # process.workers
        max_sessions = 10_000_000  # process.max_sessions
        user = "nobody"
        group = "#{gid}"
        [admin]
        socket = "{folder}/admin.sock"  # admin.socket
        http = "127.0.0.1:8405"
        token_file = "{token}"  # admin.token_file
        [log]
        to = "syslog:{folder}/nothing"  # log.to
        [frontends.f]
        protocol = "imap"
        backend = "b"
        tls = {{ certificates = ["{pem}"], ktls = true }}  # frontends.f.tls.ktls
        bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
        [backends.b]
        send_proxy = "v2-ssl"
        source = "client"  # backends.b.source
        servers = ["127.0.0.1:143"]
    """,
    "process without a table": """  # process.user
        [frontends.f]
        protocol = "imap"
        backend = "b"
        bind = ["127.0.0.1:1143"]
        [backends.b]
        send_proxy = "none"
        servers = ["192.0.2.1:143"]
    """,
    "ports": """
        [process]
        user = "root"
        [frontends.pop3]
        protocol = "pop3"
        backend = "b"
        bind = ["127.0.0.1:143"]  # frontends.pop3.bind[0].address
        [frontends.unknown]  # frontends.unknown.protocol
        backend = "b"
        bind = [{{ address = "127.0.0.1:110", mode = "passthrough" }}]  # frontends.unknown.bind[0].mode
        [frontends.imaps]
        protocol = "imap"
        backend = "c"
        bind = ["127.0.0.1:993", "127.0.0.2:143"]  # frontends.imaps.bind[0].mode
        [frontends.passed]
        protocol = "imap"
        backend = "c"
        bind = [{{ address = "127.0.0.3:993", mode = "passthrough" }}]
        [frontends.submission]
        protocol = "submission"
        backend = "d"
        tls = {{ certificates = ["{pem}"] }}
        bind = [{{ address = "127.0.0.1:465", mode = "tls" }}]
        [backends.b]
        protocol = "pop3"
        send_proxy = "none"
        servers = [{{ address = "192.0.2.1:993" }}]  # backends.b.servers backends.b.servers[0].address
        [backends.c]
        send_proxy = "none"
        servers = ["192.0.2.2:143", "192.0.2.3:993", "[2001:db8::1:143]"]  # backends.c.servers backends.c.servers[2].address
        [backends.d]  # backends.d.tls
        send_proxy = "v2"
        servers = ["192.0.2.4:587"]
        [frontends.checked]
        protocol = "imap"
        backend = "e"
        bind = ["127.0.0.4:1143"]
        [backends.e]  # backends.e.check
        send_proxy = "none"
        tls = false
        servers = ["192.0.2.5:1143"]
    """,
}
LIVE = """
    [process]
    user = "root"
    [frontends.f]
    protocol = "imap"
    backend = "b"
    tls = {{ certificates = ["{pem}"] }}
    bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
    [backends.b]
    send_proxy = "none"
    check = {{ type = "imap", timeout = "20s" }}
    servers = [
        "127.0.0.1:{closed}",  # backends.b.servers[0]
        "127.0.0.1:{login}",  # backends.b.servers[1]
    ]
"""


@pytest.fixture
def produced(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """The places in the code that have made advice so far, as modules and lines."""
    places: set[tuple[str, int]] = set()

    def recorder(module: ModuleType) -> Callable[[str, str], Fault]:
        def record(path: str, fact: str) -> Fault:
            places.add((module.__name__, sys._getframe(1).f_lineno))
            return Fault(path, fact)

        return record

    for module in MODULES:
        monkeypatch.setattr(module, "Fault", recorder(module))
    return places


def makers(module: ModuleType) -> Iterator[tuple[str, int]]:
    """Return every place in a module that makes advice."""
    assert module.__file__ is not None
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Fault":
            yield module.__name__, node.lineno


def check(text: str, folder: Path, *options: str) -> list[dict[str, object]]:
    file = folder / "mailproxy.toml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["check", "--format", "json", *options, str(file)])
    assert result.exit_code == 0, result.output
    entries: list[dict[str, object]] = json.loads(result.stdout)
    assert all(entry["file"] == str(file) and entry["severity"] == "advice" for entry in entries)
    return entries


def expected(text: str) -> set[tuple[str, int]]:
    """Return the keys in the comments of a configuration, with their lines."""
    comments = ((number, line.partition("# ")[2]) for number, line in enumerate(text.splitlines(), 1))
    return {(key, number) for number, comment in comments for key in comment.split()}


def assert_located(text: str, entries: list[dict[str, object]]) -> None:
    """Check that every piece of advice is in the line with its comment, and its column where its key begins."""
    found = {(entry["key"], entry["line"]) for entry in entries}
    assert found == expected(text)
    lines = text.splitlines()
    for entry in entries:
        key, line, column = str(entry["key"]), entry["line"], entry["column"]
        assert isinstance(line, int)
        assert isinstance(column, int)
        rest = lines[line - 1][column - 1 :]
        # A key, the table that lacks it, an item of a list, or the beginning of the file.
        starts = (*re.split(r"[.\[\]]+", key.rstrip("]")), "[", '"', "{")
        assert rest.startswith(starts) or (line, column) == (1, 1), (key, rest)
        assert entry["message"]


@pytest.fixture
def values(throw_away_ca: ThrowAwayCA, open_folder: Path) -> dict[str, object]:
    """What the configurations name."""
    now = datetime.now(UTC)
    pem = throw_away_ca.issue("imap.example.com", folder=open_folder)
    old = throw_away_ca.issue("old.example.com", folder=open_folder, not_after=now + timedelta(days=3))
    key = throw_away_ca.issue("key.example.com", folder=open_folder)
    hidden = throw_away_ca.issue("hidden.example.com", folder=open_folder)
    nameless = throw_away_ca.issue("192.0.2.1", folder=open_folder)
    staple = open_folder / "staple.pem"
    staple.write_bytes(must_staple_certificate("staple.example.com"))
    staple.chmod(0o600)
    closed = open_folder / "closed"
    closed.mkdir(0o700)
    for file in (pem, old, nameless, staple):
        os.chown(file, pwd.getpwnam("nobody").pw_uid, -1)
    key.chmod(0o644)
    token = open_folder / "token"
    token.write_text("0123456789abcdef0123456789abcdef\n")
    token.chmod(0o644)
    return {
        "token": token, "staple": staple, "closed": closed,
        "pem": pem, "old": old, "key": key, "hidden": hidden, "nameless": nameless, "ca": throw_away_ca.pem,
        "crl": throw_away_ca.revoke(folder=open_folder), "folder": open_folder, "gid": os.getgid(),
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: some advice is about the change of user")
def test_every_piece_of_advice_names_its_line_and_key(
    values: dict[str, object], produced: set[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These configurations make all the advice that there is in the code."""
    monkeypatch.setattr(expiry, "REVOCATION_LIST_NOTICE", timedelta(days=60))
    for name, template in CONFIGURATIONS.items():
        with monkeypatch.context() as patched:
            if name == "process":
                patched.setattr(advice, "can_clear_auto_retry", lambda: False)
                patched.setattr(advice, "has_kernel_tls", lambda: False)
            text = template.format_map(values)
            assert_located(text, check(text, tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=refuse_logins, args=(server,), daemon=True).start()
        text = LIVE.format(closed=free_port(), login=server.getsockname()[1], pem=values["pem"])
        assert_located(text, check(text, tmp_path, "--live"))
    assert {each for module in MODULES for each in makers(module)} - produced == set()


def refuse_logins(server: socket.socket) -> None:
    client, _ = server.accept()
    with client, client.makefile("rwb") as stream:
        stream.write(b"* OK ready\r\n")
        stream.flush()
        for line in stream:
            tag = line.split()[0]
            stream.write(b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n" + tag + b" OK\r\n")
            stream.flush()
