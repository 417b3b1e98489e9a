"""Dropping root privileges: what is opened before, the identity afterwards, and what still works."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.support.program import Program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which is then given up in a child"),
]

UNPRIVILEGED = pwd.getpwnam("nobody")
OTHER_GROUP = grp.getgrgid(1).gr_name


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder owned by root that every user may read. Its logs/ belongs to an unprivileged user."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        folder.chmod(0o755)
        (folder / "logs").mkdir()
        os.chown(folder / "logs", UNPRIVILEGED.pw_uid, UNPRIVILEGED.pw_gid)
        yield folder


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def config_text(
    folder: Path, server: socket.socket, process: str = 'user = "nobody"', host: str = "127.0.0.1"
) -> str:
    return f"""
        [process]
        {process}
        [log]
        to = "{folder}/logs/mail.log"
        [frontends.imap]
        backend = "dovecot"
        bind = [{{ address = "127.0.0.1:0" }}]
        [backends.dovecot]
        check = "none"
        servers = ["{host}:{server.getsockname()[1]}"]
    """


def wait_ready(program: Program, folder: Path) -> tuple[str, int]:
    """Wait until the proxy serves, and return the address of its first bind."""
    log = folder / "logs" / "mail.log"
    program.wait_for("mailproxy is ready", where=log)
    match = re.search(r"listens on ([\d.]+):(\d+)", log.read_text())
    assert match
    return match[1], int(match[2])


def identity(program: Program) -> dict[str, list[int]]:
    """Return the real, effective, saved and file-system ids, and the groups, from /proc."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{program.process.pid}/status").read_text().splitlines()
    )
    return {key: [int(number) for number in status[key].split()] for key in ("Uid", "Gid", "Groups")}


def assert_proxied(client: socket.socket, server: socket.socket) -> None:
    """Check that bytes pass in both directions between the client and the server behind the proxy."""
    accepted, _ = server.accept()
    with accepted:
        accepted.settimeout(10)
        accepted.sendall(b"* OK\r\n")
        assert (
            client.recv(6, socket.MSG_WAITALL if not isinstance(client, ssl.SSLSocket) else 0) == b"* OK\r\n"
        )
        client.sendall(b"a1 NOOP\r\n")
        assert accepted.recv(100) == b"a1 NOOP\r\n"


# Identity.


IDENTITIES = {
    'user = "nobody"': {"Uid": UNPRIVILEGED.pw_uid, "Gid": UNPRIVILEGED.pw_gid},
    f'user = "nobody"\ngroup = "{OTHER_GROUP}"': {"Uid": UNPRIVILEGED.pw_uid, "Gid": 1},
    f'group = "{OTHER_GROUP}"': {"Uid": 0, "Gid": 1},
    f'user = "#{UNPRIVILEGED.pw_uid}"': {"Uid": UNPRIVILEGED.pw_uid, "Gid": UNPRIVILEGED.pw_gid},
    'user = "#4711"\ngroup = "#4712"': {"Uid": 4711, "Gid": 4712},
    'group = "#1"': {"Uid": 0, "Gid": 1},
}


@pytest.mark.parametrize("process", IDENTITIES)
def test_process_takes_user_and_group_permanently(folder: Path, server: socket.socket, process: str) -> None:
    uid, gid = IDENTITIES[process]["Uid"], IDENTITIES[process]["Gid"]
    os.chown(folder / "logs", uid, gid)
    with Program(config_text(folder, server, process), folder) as program:
        wait_ready(program, folder)
        assert identity(program) == {"Uid": [uid] * 4, "Gid": [gid] * 4, "Groups": [gid]}


def test_unknown_numeric_user_needs_a_group(tmp_path: Path, server: socket.socket) -> None:
    (tmp_path / "logs").mkdir()
    with Program(config_text(tmp_path, server, 'user = "#4711"'), tmp_path) as program:
        assert program.wait() == 2
    assert 'process.group: is missing: the user "#4711" has no entry that names one' in program.text


def test_process_without_user_stays_root(folder: Path, server: socket.socket) -> None:
    with Program(config_text(folder, server, ""), folder) as program:
        wait_ready(program, folder)
        assert identity(program)["Uid"] == [0] * 4


def test_unprivileged_user_cannot_become_root(tmp_path: Path) -> None:
    """As user 65534, the process can become that user again, but not root."""
    program = """
import os, sys, mailproxy
from mailproxy.app.privileges import drop_privileges
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
for user in ("nobody", "root"):
    try:
        drop_privileges(mailproxy.from_mapping({"process": {"user": user}, "frontends": {"f": {"bind": [{"address": "*:0"}]}}}))
    except mailproxy.ConfigError as error:
        print(error)
print(os.getresuid())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.splitlines() == [
        'process.user: cannot become "root": only root can',
        "(65534, 65534, 65534)",
    ], result


# What still works.


def test_sessions_are_served_without_root(folder: Path, server: socket.socket) -> None:
    with Program(config_text(folder, server), folder) as program:
        with socket.create_connection(wait_ready(program, folder), 10) as client:
            assert_proxied(client, server)
            assert client.recv(1) == b""
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert "server-closed" in (folder / "logs" / "mail.log").read_text()


def test_server_names_and_tls_work_without_root(
    folder: Path, server: socket.socket, throw_away_ca: ThrowAwayCA
) -> None:
    ca = folder / "ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    ca.chmod(0o600)  # only root can read it, so it is read before
    tls = f'tls = {{ ca = "{ca}" }}'
    with Program(config_text(folder, server, host="localhost") + tls, folder) as program:
        with socket.create_connection(wait_ready(program, folder), 10) as client:
            accepted, _ = server.accept()
            with throw_away_ca.server_context("localhost").wrap_socket(accepted, server_side=True) as secure:
                secure.sendall(b"* OK\r\n")
                assert client.recv(6, socket.MSG_WAITALL) == b"* OK\r\n"
        assert "Traceback" not in program.text


def test_root_only_keys_are_read_before(
    folder: Path, server: socket.socket, throw_away_ca: ThrowAwayCA
) -> None:
    pem = throw_away_ca.issue("imap.example.com", folder=folder)
    assert (pem.stat().st_uid, pem.stat().st_mode & 0o777) == (0, 0o600)
    tls = f'mode = "tls", tls = {{ certificates = ["{pem}"] }}'
    config = config_text(folder, server).replace('"127.0.0.1:0"', f'"127.0.0.1:0", {tls}')
    with (
        Program(config, folder) as program,
        socket.create_connection(wait_ready(program, folder), 10) as plain,
        throw_away_ca.client_context().wrap_socket(plain, server_hostname="imap.example.com") as client,
    ):
        assert_proxied(client, server)


def test_privileged_ports_are_bound_before(folder: Path, server: socket.socket) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # An address of the loopback network where no program listens.
        probe.bind(("127.99.0.1", 143))
    config = config_text(folder, server).replace("127.0.0.1:0", "127.99.0.1:143")
    with (
        Program(config, folder) as program,
        socket.create_connection(wait_ready(program, folder), 10) as client,
    ):
        assert_proxied(client, server)


# Files.


def test_log_belongs_to_the_user_after_reopen(folder: Path, server: socket.socket) -> None:
    log, old = folder / "logs" / "mail.log", folder / "logs" / "mail.log.1"
    with Program(config_text(folder, server), folder) as program:
        wait_ready(program, folder)
        log.rename(old)
        program.send(signal.SIGUSR2)
        program.wait_for("the log was reopened", where=log)
        for file in (old, log):
            status = file.stat()
            assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (
                UNPRIVILEGED.pw_uid,
                UNPRIVILEGED.pw_gid,
                0o640,
            )
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert "mailproxy has stopped" in log.read_text()


def test_failed_log_reopen_keeps_the_old_file(folder: Path, server: socket.socket) -> None:
    os.chown(folder / "logs", 0, 0)
    log, old = folder / "logs" / "mail.log", folder / "logs" / "mail.log.1"
    with Program(config_text(folder, server), folder) as program:
        wait_ready(program, folder)
        log.rename(old)
        program.send(signal.SIGUSR2)
        program.wait_for("the log cannot be reopened: .*Permission denied.*; the old file is kept", where=old)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert "mailproxy has stopped" in old.read_text()


@pytest.mark.parametrize("owner", [None, "nobody"])
def test_unix_socket_has_configured_owner(folder: Path, server: socket.socket, owner: str | None) -> None:
    path = folder / "imap.sock"
    owner_key = f'unix_user = "{owner}", ' if owner else ""
    unix = f'{{ {owner_key}unix_mode = "0666", address = "unix:{path}" }}'
    config = config_text(folder, server).replace(
        '{ address = "127.0.0.1:0" }', f'{{ address = "127.0.0.1:0" }}, {unix}'
    )
    with Program(config, folder) as program:
        wait_ready(program, folder)
        assert path.owner() == (owner or "root")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            assert_proxied(client, server)


def test_unremovable_unix_socket_does_not_break_shutdown(folder: Path, server: socket.socket) -> None:
    path = folder / "imap.sock"  # in a folder owned by root
    config = config_text(folder, server).replace("127.0.0.1:0", f"unix:{path}")
    log = folder / "logs" / "mail.log"
    with Program(config, folder) as program:
        program.wait_for("mailproxy is ready", where=log)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert "Traceback" not in program.text
    assert "mailproxy has stopped" in log.read_text()


def test_embedded_proxy_keeps_the_host_process_user() -> None:
    program = """
import os, trio, mailproxy
config = mailproxy.from_mapping({"process": {"user": "nobody"}, "frontends": {"f": {"bind": [{"address": "127.0.0.1:0"}]}}})
async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(mailproxy.serve, config)
        print(os.getresuid())
        nursery.cancel_scope.cancel()
trio.run(main)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "(0, 0, 0)\n", result.stderr
