"""Giving up root: what is opened before, who the process is afterwards, and what it can still do then."""

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

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which is then given up in a child")

NOBODY = pwd.getpwnam("nobody")
OTHER_GROUP = grp.getgrgid(1).gr_name


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root's that everybody may look into, with one for logs that is nobody's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "logs").mkdir()
        os.chown(folder / "logs", NOBODY.pw_uid, NOBODY.pw_gid)
        yield folder


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def text(
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
        servers = ["{host}:{server.getsockname()[1]}"]
    """


def ready(program: Program, folder: Path) -> tuple[str, int]:
    """Wait until it serves; gives the address of its first bind."""
    log = folder / "logs" / "mail.log"
    program.wait_for("mailproxy is ready", where=log)
    found = re.search(r"listens on ([\d.]+):(\d+)", log.read_text())
    assert found
    return found[1], int(found[2])


def identity(program: Program) -> dict[str, list[int]]:
    """Real, effective, saved and file-system ids, and the groups, as the kernel has them."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{program.process.pid}/status").read_text().splitlines()
    )
    return {key: [int(number) for number in status[key].split()] for key in ("Uid", "Gid", "Groups")}


def assert_proxied(client: socket.socket, server: socket.socket) -> None:
    """Bytes go both ways between a client and the server behind the proxy."""
    behind, _ = server.accept()
    with behind:
        behind.settimeout(10)
        behind.sendall(b"* OK\r\n")
        assert (
            client.recv(6, socket.MSG_WAITALL if not isinstance(client, ssl.SSLSocket) else 0) == b"* OK\r\n"
        )
        client.sendall(b"a1 NOOP\r\n")
        assert behind.recv(100) == b"a1 NOOP\r\n"


# Who it is.


WHO = {
    'user = "nobody"': {"Uid": NOBODY.pw_uid, "Gid": NOBODY.pw_gid},
    f'user = "nobody"\ngroup = "{OTHER_GROUP}"': {"Uid": NOBODY.pw_uid, "Gid": 1},
    f'group = "{OTHER_GROUP}"': {"Uid": 0, "Gid": 1},
    f'user = "#{NOBODY.pw_uid}"': {"Uid": NOBODY.pw_uid, "Gid": NOBODY.pw_gid},
    'user = "#4711"\ngroup = "#4712"': {"Uid": 4711, "Gid": 4712},
    'group = "#1"': {"Uid": 0, "Gid": 1},
}


@pytest.mark.parametrize("process", WHO)
def test_it_becomes_the_user_and_group_for_good(folder: Path, server: socket.socket, process: str) -> None:
    uid, gid = WHO[process]["Uid"], WHO[process]["Gid"]
    os.chown(folder / "logs", uid, gid)
    with Program(text(folder, server, process), folder) as program:
        ready(program, folder)
        assert identity(program) == {"Uid": [uid] * 4, "Gid": [gid] * 4, "Groups": [gid]}


def test_a_number_without_an_entry_needs_a_group(tmp_path: Path, server: socket.socket) -> None:
    (tmp_path / "logs").mkdir()
    with Program(text(tmp_path, server, 'user = "#4711"'), tmp_path) as program:
        assert program.wait() == 2
    assert 'process.group: is missing: the user "#4711" has no entry that names one' in program.text


def test_without_a_user_it_stays_who_it_is(folder: Path, server: socket.socket) -> None:
    with Program(text(folder, server, ""), folder) as program:
        ready(program, folder)
        assert identity(program)["Uid"] == [0] * 4


def test_a_user_who_may_not_change_is_told(tmp_path: Path) -> None:
    """Run by nobody, it can become nobody (who it is) and not root."""
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


# What it can do then.


def test_sessions_are_served(folder: Path, server: socket.socket) -> None:
    with Program(text(folder, server), folder) as program:
        with socket.create_connection(ready(program, folder), 10) as client:
            assert_proxied(client, server)
            assert client.recv(1) == b""
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert "server-closed" in (folder / "logs" / "mail.log").read_text()


def test_names_are_resolved_and_tls_is_spoken_to_servers(
    folder: Path, server: socket.socket, throw_away_ca: ThrowAwayCA
) -> None:
    ca = folder / "ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    ca.chmod(0o600)  # root's alone: read before
    tls = f'tls = {{ ca = "{ca}" }}'
    with Program(text(folder, server, host="localhost") + tls, folder) as program:
        with socket.create_connection(ready(program, folder), 10) as client:
            behind, _ = server.accept()
            with throw_away_ca.server_context("localhost").wrap_socket(behind, server_side=True) as secure:
                secure.sendall(b"* OK\r\n")
                assert client.recv(6, socket.MSG_WAITALL) == b"* OK\r\n"
        assert "Traceback" not in program.text


def test_keys_that_only_root_may_read_were_read_before(
    folder: Path, server: socket.socket, throw_away_ca: ThrowAwayCA
) -> None:
    pem = throw_away_ca.issue("imap.example.com", folder=folder)
    assert (pem.stat().st_uid, pem.stat().st_mode & 0o777) == (0, 0o600)
    tls = f'mode = "tls", tls = {{ certificates = ["{pem}"] }}'
    config = text(folder, server).replace('"127.0.0.1:0"', f'"127.0.0.1:0", {tls}')
    with (
        Program(config, folder) as program,
        socket.create_connection(ready(program, folder), 10) as plain,
        throw_away_ca.client_context().wrap_socket(plain, server_hostname="imap.example.com") as client,
    ):
        assert_proxied(client, server)


def test_ports_that_only_root_may_have_were_bound_before(folder: Path, server: socket.socket) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.99.0.1", 143))  # a corner of the loopback network where nobody listens
    config = text(folder, server).replace("127.0.0.1:0", "127.99.0.1:143")
    with Program(config, folder) as program, socket.create_connection(ready(program, folder), 10) as client:
        assert_proxied(client, server)


# Files.


def test_the_log_belongs_to_the_user_and_is_reopened_by_it(folder: Path, server: socket.socket) -> None:
    log, old = folder / "logs" / "mail.log", folder / "logs" / "mail.log.1"
    with Program(text(folder, server), folder) as program:
        ready(program, folder)
        log.rename(old)
        program.send(signal.SIGUSR2)
        program.wait_for("the log was reopened", where=log)
        for file in (old, log):
            status = file.stat()
            assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (
                NOBODY.pw_uid,
                NOBODY.pw_gid,
                0o640,
            )
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert "mailproxy has stopped" in log.read_text()


def test_a_log_in_a_folder_of_roots_is_kept_when_it_cannot_be_reopened(
    folder: Path, server: socket.socket
) -> None:
    os.chown(folder / "logs", 0, 0)
    log, old = folder / "logs" / "mail.log", folder / "logs" / "mail.log.1"
    with Program(text(folder, server), folder) as program:
        ready(program, folder)
        log.rename(old)
        program.send(signal.SIGUSR2)
        program.wait_for("the log cannot be reopened: .*Permission denied.*; the old file is kept", where=old)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert "mailproxy has stopped" in old.read_text()


@pytest.mark.parametrize("owner", [None, "nobody"])
def test_a_unix_socket_has_the_owner_that_it_was_given(
    folder: Path, server: socket.socket, owner: str | None
) -> None:
    path = folder / "imap.sock"
    owned = f'unix_user = "{owner}", ' if owner else ""
    unix = f'{{ {owned}unix_mode = "0666", address = "unix:{path}" }}'
    config = text(folder, server).replace(
        '{ address = "127.0.0.1:0" }', f'{{ address = "127.0.0.1:0" }}, {unix}'
    )
    with Program(config, folder) as program:
        ready(program, folder)
        assert path.owner() == (owner or "root")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            assert_proxied(client, server)


def test_a_unix_socket_that_cannot_be_removed_any_more_does_not_spoil_the_end(
    folder: Path, server: socket.socket
) -> None:
    path = folder / "imap.sock"  # in a folder of root's
    config = text(folder, server).replace("127.0.0.1:0", f"unix:{path}")
    log = folder / "logs" / "mail.log"
    with Program(config, folder) as program:
        program.wait_for("mailproxy is ready", where=log)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert "Traceback" not in program.text
    assert "mailproxy has stopped" in log.read_text()


def test_an_embedded_proxy_leaves_its_host_alone() -> None:
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
