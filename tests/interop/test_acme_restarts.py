"""Certificates from Pebble over reloads, restarts and upgrades of the proxy."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.testing import ThrowAwayCA
from tests.support.acme.pebble import Pebble
from tests.support.acme.site import (
    NAME,
    certificate_of_all_workers,
    configuration,
    eventually,
    verified_certificate,
)
from tests.support.admin_client import ask
from tests.support.ports import free_port
from tests.support.program import Program
from tests.support.worker_group import GreetingServer

pytestmark = [pytest.mark.peers, pytest.mark.slow]

WORKERS = pytest.mark.parametrize("process", ["", "workers = 2"], ids=["one process", "two workers"])


@pytest.fixture
def server() -> Iterator[GreetingServer]:
    server = GreetingServer("* OK d1")
    yield server
    server.close()


@pytest.fixture
def ca(tmp_path: Path) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path)


@WORKERS
def test_upgrade_passes_the_work_on(
    tmp_path: Path, ca: ThrowAwayCA, server: GreetingServer, process: str
) -> None:
    """The new process obtains, also by the same listener for http-01, and the old one no longer does."""
    port, http, admin = free_port(), free_port(), tmp_path / "admin.sock"
    with Pebble(tmp_path, ca, http_port=http) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server, process=process,
            acme=f'challenge = "http-01"\nhttp = "127.0.0.1:{http}"', more=f'[admin]\nsocket = "{admin}"',
        )  # fmt: skip
        context = pebble.client_context()
        (tmp_path / "new").mkdir()
        with Program(text, tmp_path) as old:
            first = certificate_of_all_workers(port, context)
            # A session keeps the old process for drain_timeout, after which it ends.
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname=NAME) as tls,
            ):
                assert tls.recv(100) == b"* OK d1\r\n"
                new = Program(text, tmp_path / "new")
                new.command[-1:] = ["--replace", str(new.file)]
                with new:
                    old.wait_for("has taken over and accepts")
                    state = tmp_path / "acme" / "state" / f"{NAME}.ecdsa-p256.json"
                    record = json.loads(state.read_text())
                    state.write_text(json.dumps({**record, "is_forced": True, "not_before": 0.0}))
                    new.wait_for(r"obtained imap\.example\.com")
                    eventually(lambda: verified_certificate(port, context) not in (None, first))
                    assert f"{NAME}.ecdsa-p256.pem\ttest\tScheduled\t" in ask(admin, "acme status")
                    assert old.wait() == 0
        assert old.text.count("obtains imap") == 1
        assert pebble.orders == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives privileges up")
@WORKERS
def test_reload_cannot_add_a_privileged_listener(
    open_folder: Path, ca: ThrowAwayCA, server: GreetingServer, process: str
) -> None:
    """The reload and the failed attempt name the remedy, which works."""
    port, http = free_port(), 79
    open_ca = open_folder / "ca.pem"
    open_ca.write_bytes(ca.pem.read_bytes())
    with Pebble(open_folder, ca, http_port=http) as pebble:
        text = configuration(
            directory=pebble.directory, ca=open_ca, storage=open_folder / "acme", port=port, server=server,
            process=f'user = "nobody"\n{process}', acme=f'challenge = "http-01"\nhttp = "127.0.0.1:{http}"',
        )  # fmt: skip
        before = text.replace(
            'challenge = "http-01"\nhttp', 'challenge = "http-01"\nwebroot = "/tmp"\n# http'
        )
        assert before != text
        with Program(before, open_folder) as proxy:
            proxy.wait_for("cannot obtain")  # no web server shows the folder
            proxy.edit(text)
            proxy.send(signal.SIGHUP)
            proxy.wait_for(rf"acme test http: a listener on 127\.0\.0\.1:{http} \(needs a restart\)")
            (
                open_folder / "acme" / "state" / f"{NAME}.ecdsa-p256.json"
            ).unlink()  # the pause after the failure
            proxy.wait_for(
                rf"cannot listen on 127\.0\.0\.1:{http} for http-01: Permission denied.*restart it"
            )
        (open_folder / "acme" / "state" / f"{NAME}.ecdsa-p256.json").unlink()
        with Program(text, open_folder):
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
