"""TLS with several workers: all accept the same tickets, also after a certificate was renewed."""

from __future__ import annotations

import signal
import socket
import ssl
from collections import Counter
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.support.admin_client import ask
from tests.support.program import TIMEOUT_S
from tests.support.worker_group import WorkerGroup, configuration, greeting_servers, wait_until
from tests.workers.test_helpers import environment

pytestmark = pytest.mark.slow


def tls_configuration(text: str, file: Path) -> str:
    return text.replace(
        'bind = [{ address = "127.0.0.1:0" }]',
        f'tls = {{ certificates = ["{file}"] }}\nbind = [{{ address = "127.0.0.1:0", mode = "tls" }}]',
    )


def connect_once(
    group: WorkerGroup, context: ssl.SSLContext, ticket: ssl.SSLSession | None = None
) -> tuple[bool, bytes | None, ssl.SSLSession | None]:
    """Return whether the TLS session was resumed, the server's certificate and the next ticket."""
    sock = socket.create_connection(group.addresses[0], timeout=TIMEOUT_S)
    with context.wrap_socket(sock, server_hostname="localhost", session=ticket) as client:
        assert client.recv(100) == b"s1\r\n"  # with TLS 1.3 the ticket arrives before the first data
        return bool(client.session_reused), client.getpeercert(binary_form=True), client.session


def count_resumed(
    group: WorkerGroup, context: ssl.SSLContext, ticket: ssl.SSLSession | None
) -> Counter[bool]:
    # The chance that all go to one worker is 1 in 2048.
    return Counter(connect_once(group, context, ticket)[0] for _ in range(12))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_all_workers_accept_ticket(
    tmp_path: Path, throw_away_ca: ThrowAwayCA, version: ssl.TLSVersion
) -> None:
    """Before and after the certificate was renewed, and at a worker that was started afterwards."""
    file = throw_away_ca.issue("localhost").rename(tmp_path / "localhost.pem")
    context = throw_away_ca.client_context()
    context.minimum_version = context.maximum_version = version
    with greeting_servers("s1") as servers:
        text = tls_configuration(configuration(*servers, certificate_interval="1h"), file)
        with WorkerGroup(text, tmp_path) as group:
            _, first, ticket = connect_once(group, context)
            assert count_resumed(group, context, ticket) == {True: 12}
            throw_away_ca.issue("localhost").replace(file)
            group.send(signal.SIGHUP)
            group.wait_for(rf"taken up: localhost.* until .*{file}")
            certificates = {connect_once(group, context)[1] for _ in range(8)}
            assert len(certificates) == 1
            assert first not in certificates
            assert count_resumed(group, context, ticket) == {True: 12}
            group.kill_and_wait("worker 1")
            assert {connect_once(group, context)[1] for _ in range(8)} == certificates
            assert count_resumed(group, context, ticket) == {True: 12}
            assert len(group.lines("taken up")) == 1


def test_sessions_survive_renewal(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    file = throw_away_ca.issue("localhost").rename(tmp_path / "localhost.pem")
    context, admin = throw_away_ca.client_context(), tmp_path / "admin"
    with greeting_servers("s1") as servers:
        text = tls_configuration(
            configuration(*servers, certificate_interval="100ms", more=f'[admin]\nsocket = "{admin}"'), file
        )
        with WorkerGroup(text, tmp_path) as group:
            socks = [group.connect_to_worker(worker).sock for worker in (0, 1)]
            clients = [context.wrap_socket(sock, server_hostname="localhost") for sock in socks]
            assert [client.recv(100) for client in clients] == [b"s1\r\n"] * 2
            throw_away_ca.issue("localhost").replace(file)
            group.wait_for(rf"taken up: localhost.* until .*{file}")
            for client in clients:
                client.sendall(b"still here\r\n")
                assert client.recv(100) == b"still here\r\n"
                client.close()
            # The next control process does not log again what this one has logged.
            group.kill_and_wait("control")
            group.wait_for("control .* was killed by SIGKILL")
            assert ask(admin, "show version")  # it has taken up what had changed by then, without a line
            throw_away_ca.issue("localhost").replace(file)
            wait_until(lambda: len(group.lines(rf"taken up: localhost.* until .*{file}")) == 2)
            before = connect_once(group, context)[1]
            throw_away_ca.issue("localhost").replace(file)
            wait_until(lambda: len(group.lines(rf"taken up: localhost.* until .*{file}")) == 3)
            assert connect_once(group, context)[1] != before


@pytest.mark.parametrize("variant", ["in the same folder", "by other names"])
def test_restarted_worker_has_certificate_of_damaged_file(
    tmp_path: Path, throw_away_ca: ThrowAwayCA, variant: str
) -> None:
    """The supervisor, from which the new process is forked, has also applied the renewal."""
    file = throw_away_ca.issue("localhost").rename(tmp_path / "localhost.pem")
    context = throw_away_ca.client_context()
    names = ["localhost"] if variant == "in the same folder" else ["localhost", "other.example"]
    with greeting_servers("s1") as servers:
        text = tls_configuration(configuration(*servers, certificate_interval="100ms"), file)
        with WorkerGroup(text, tmp_path) as group:
            first = connect_once(group, context)[1]
            throw_away_ca.issue(*names).replace(file)
            group.wait_for(rf"taken up: localhost.* until .*{file}")
            file.write_text("damaged")
            group.wait_for(f"{file}: has no certificate in PEM form; not taken up")
            renewed = connect_once(group, context)[1]
            assert renewed != first
            for name in ("worker 1", "worker 2"):
                group.kill_and_wait(name)
            assert {connect_once(group, context)[1] for _ in range(12)} == {renewed}
            group.kill_and_wait("control")
            group.wait_for("control .* was killed by SIGKILL")
            throw_away_ca.issue("localhost").replace(file)
            wait_until(lambda: len(group.lines(rf"taken up: localhost.* until .*{file}")) == 2)
            last = {connect_once(group, context)[1] for _ in range(12)}
            assert len(last) == 1
            assert last != {renewed}
            assert "Traceback" not in group.text


def test_failed_reload_in_worker_is_retried(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    """Otherwise this worker would keep the old certificate, because the file does not change again."""
    file = throw_away_ca.issue("localhost").rename(tmp_path / "localhost.pem")
    context = throw_away_ca.client_context()
    with greeting_servers("s1") as servers:
        text = tls_configuration(configuration(*servers, certificate_interval="100ms"), file)
        broken = environment(tmp_path, "mailproxy.workers.certificates:run_in_thread", failures=1)
        with WorkerGroup(text, tmp_path, env=broken) as group:
            first = connect_once(group, context)[1]
            throw_away_ca.issue("localhost").replace(file)
            group.wait_for("certificate watcher failed and goes on in a moment")
            wait_until(lambda: first not in {connect_once(group, context)[1] for _ in range(12)})
