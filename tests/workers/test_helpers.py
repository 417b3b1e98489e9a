"""Failing helpers and messages in a worker or in control: sessions continue, and the process keeps running."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.worker_group import WorkerGroup, configuration, greeting_servers, wait_until

pytestmark = pytest.mark.slow

# Replaces a function by one that fails at its first calls. Each process counts its own calls.
FAILS_AT_FIRST = """
import importlib

owner = importlib.import_module({module!r})
*owners, name = {names!r}.split(".")
for part in owners:
    owner = getattr(owner, part)
original, calls = getattr(owner, name), 0

def fail(*args, **keywords):
    global calls
    calls += 1
    if calls <= {failures}:
        raise RuntimeError("injected")
    return original(*args, **keywords)

setattr(owner, name, fail)
"""


def environment(folder: Path, path: str, failures: int = 2) -> dict[str, str]:
    module, _, names = path.partition(":")
    code = FAILS_AT_FIRST.format(module=module, names=names, failures=failures)
    (folder / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("path", "helper"),
    [
        ("mailproxy.workers.backend:WorkerBackend.serve_queue", "queue"),
        ("mailproxy.workers.stick.sync:batched", "stick table sync"),
        ("mailproxy.workers.control_client:apply_updates", "channel to control"),
        ("mailproxy.workers.control.control:apply_updates", "channel to worker [12]"),
        ("mailproxy.workers.control.registry:WorkerRegistry.wait_for_acks", "log of server changes"),
    ],
)
def test_helper_works_after_two_failures(tmp_path: Path, path: str, helper: str) -> None:
    check = 'check = { type = "tcp", interval = "100ms", rise = 1, fall = 1, jitter = 0 }'
    with greeting_servers("s1", "s2") as servers:
        text = configuration(*servers, backend="stick = {}", server="max_sessions = 1")
        text = text.replace('check = "none"', check)
        with WorkerGroup(text, tmp_path, env=environment(tmp_path, path)) as group:
            group.wait_for("mailproxy is ready")
            wait_until(lambda: len(group.children) == 3)
            pids = list(group.children.items())
            clients = [group.connect_to_worker(worker, f"127.0.0.{worker + 2}") for worker in (0, 1)]
            assert {client.greeting for client in clients} == {"s1", "s2"}
            waiting = [group.connect_to_worker(worker, f"127.0.0.{worker + 4}") for worker in (0, 1)]
            servers[1].close()
            group.wait_for(f"{helper} failed and goes on in a moment")
            group.wait_for("Server b/s2 is DOWN")
            servers[1].open()
            group.wait_for("Server b/s2 is UP")
            assert all(client.echoes() for client in clients)
            for client in clients:
                client.close()
            assert {client.greeting for client in waiting} <= {"s1", "s2"}
            assert list(group.children.items()) == pids
            assert "Traceback" not in group.text
            group.send(signal.SIGTERM)
            assert group.wait() == 0


def test_worker_serves_although_first_scan_fails(tmp_path: Path) -> None:
    """A worker that replaces another one scans the certificate files at its start."""
    with greeting_servers("s1") as servers:
        broken = environment(
            tmp_path, "mailproxy.workers.certificates:WorkerCertificates._reload", failures=1
        )
        with WorkerGroup(configuration(*servers), tmp_path, env=broken) as group:
            assert group.connect_to_worker(1).greeting == "s1"
            group.kill_and_wait("worker 2")
            assert group.connect_to_worker(1).greeting == "s1"
