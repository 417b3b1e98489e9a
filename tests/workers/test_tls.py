"""TLS over several workers: one ticket is good at all of them, also when the certificate was renewed."""

from __future__ import annotations

import signal
import socket
import ssl
from collections import Counter
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.support.program import TIMEOUT_S
from tests.support.worker_group import WorkerGroup, configuration, greeting_servers, wait_until
from tests.workers.test_helpers import environment


def tls_configuration(text: str, file: Path) -> str:
    return text.replace(
        'bind = [{ address = "127.0.0.1:0" }]',
        f'tls = {{ certificates = ["{file}"] }}\nbind = [{{ address = "127.0.0.1:0", mode = "tls" }}]',
    )


def visit(
    group: WorkerGroup, context: ssl.SSLContext, ticket: ssl.SSLSession | None = None
) -> tuple[bool, bytes | None, ssl.SSLSession | None]:
    """Was the session resumed, the certificate that was shown, and the next ticket."""
    raw = socket.create_connection(group.addresses[0], timeout=TIMEOUT_S)
    with context.wrap_socket(raw, server_hostname="localhost", session=ticket) as client:
        assert client.recv(100) == b"s1\r\n"  # in TLS 1.3 the ticket comes with what comes first
        return bool(client.session_reused), client.getpeercert(binary_form=True), client.session


def resumed(group: WorkerGroup, context: ssl.SSLContext, ticket: ssl.SSLSession | None) -> Counter[bool]:
    return Counter(visit(group, context, ticket)[0] for _ in range(12))  # one worker alone: 1 in 2048


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_ticket_is_good_at_all(tmp_path: Path, throw_away_ca: ThrowAwayCA, version: ssl.TLSVersion) -> None:
    """Before and after the certificate was renewed, and at a worker that was started after that."""
    file = throw_away_ca.issue("localhost").rename(tmp_path / "localhost.pem")
    context = throw_away_ca.client_context()
    context.minimum_version = context.maximum_version = version
    with greeting_servers("s1") as servers:
        text = tls_configuration(configuration(*servers, certificate_interval="1h"), file)
        with WorkerGroup(text, tmp_path) as group:
            _, first, ticket = visit(group, context)
            assert resumed(group, context, ticket) == {True: 12}
            throw_away_ca.issue("localhost").replace(file)
            group.send(signal.SIGHUP)
            group.wait_for(rf"taken up: localhost.* until .*{file}")
            shown = {visit(group, context)[1] for _ in range(8)}
            assert len(shown) == 1
            assert first not in shown
            assert resumed(group, context, ticket) == {True: 12}
            group.kill_and_wait("worker 1")
            assert {visit(group, context)[1] for _ in range(8)} == shown
            assert resumed(group, context, ticket) == {True: 12}
            assert len(group.lines("taken up")) == 1


def test_sessions_live_through_a_renewal(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    file = throw_away_ca.issue("localhost").rename(tmp_path / "localhost.pem")
    context = throw_away_ca.client_context()
    with greeting_servers("s1") as servers:
        text = tls_configuration(configuration(*servers, certificate_interval="100ms"), file)
        with WorkerGroup(text, tmp_path) as group:
            raw = [group.connect_to_worker(worker).sock for worker in (0, 1)]
            clients = [context.wrap_socket(each, server_hostname="localhost") for each in raw]
            assert [client.recv(100) for client in clients] == [b"s1\r\n"] * 2
            throw_away_ca.issue("localhost").replace(file)
            group.wait_for(rf"taken up: localhost.* until .*{file}")
            for client in clients:
                client.sendall(b"still here\r\n")
                assert client.recv(100) == b"still here\r\n"
                client.close()
            # Another control finds no news in what this one has said.
            group.kill_and_wait("control")
            group.wait_for("control .* was killed by SIGKILL")
            throw_away_ca.issue("localhost").replace(file)
            wait_until(lambda: len(group.lines(rf"taken up: localhost.* until .*{file}")) == 2)
            before = visit(group, context)[1]
            throw_away_ca.issue("localhost").replace(file)
            wait_until(lambda: len(group.lines(rf"taken up: localhost.* until .*{file}")) == 3)
            assert visit(group, context)[1] != before


@pytest.mark.parametrize("how", ["in the same folder", "by other names"])
def test_replaced_process_has_the_renewed_certificate_though_its_file_is_damaged(
    tmp_path: Path, throw_away_ca: ThrowAwayCA, how: str
) -> None:
    """The launcher, which the new one is forked from, has taken up the renewal, too."""
    file = throw_away_ca.issue("localhost").rename(tmp_path / "localhost.pem")
    context = throw_away_ca.client_context()
    names = ["localhost"] if how == "in the same folder" else ["localhost", "other.example"]
    with greeting_servers("s1") as servers:
        text = tls_configuration(configuration(*servers, certificate_interval="100ms"), file)
        with WorkerGroup(text, tmp_path) as group:
            first = visit(group, context)[1]
            throw_away_ca.issue(*names).replace(file)
            group.wait_for(rf"taken up: localhost.* until .*{file}")
            file.write_text("damaged")
            group.wait_for(f"{file}: has no certificate in PEM form; not taken up")
            renewed = visit(group, context)[1]
            assert renewed != first
            for name in ("worker 1", "worker 2"):
                group.kill_and_wait(name)
            assert {visit(group, context)[1] for _ in range(12)} == {renewed}
            group.kill_and_wait("control")
            group.wait_for("control .* was killed by SIGKILL")
            throw_away_ca.issue("localhost").replace(file)
            wait_until(lambda: len(group.lines(rf"taken up: localhost.* until .*{file}")) == 2)
            last = {visit(group, context)[1] for _ in range(12)}
            assert len(last) == 1
            assert last != {renewed}
            assert "Traceback" not in group.text


def test_a_look_that_fails_in_a_worker_is_made_again(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    """Otherwise that worker would go on with the old certificate, since nobody changes the file once more."""
    file = throw_away_ca.issue("localhost").rename(tmp_path / "localhost.pem")
    context = throw_away_ca.client_context()
    with greeting_servers("s1") as servers:
        text = tls_configuration(configuration(*servers, certificate_interval="100ms"), file)
        broken = environment(tmp_path, "mailproxy.workers.certificates:run_in_thread", failures=1)
        with WorkerGroup(text, tmp_path, env=broken) as group:
            first = visit(group, context)[1]
            throw_away_ca.issue("localhost").replace(file)
            group.wait_for("certificate watcher failed and goes on in a moment")
            wait_until(lambda: first not in {visit(group, context)[1] for _ in range(12)})
