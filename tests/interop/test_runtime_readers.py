"""Programs that read HAProxy's socket read ours: socat, hatop, prometheus-haproxy-exporter, haproxyadmin."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from haproxyadmin import haproxy  # type: ignore[import-untyped]  # it has no stubs

from tests.support.admin_client import ask, stat
from tests.support.ports import free_port
from tests.support.worker_group import GreetingServer, WorkerGroup, configuration, wait_until

pytestmark = pytest.mark.peers


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The admin socket of a proxy with two workers."""
    servers = GreetingServer("s1"), GreetingServer("s2")
    path = tmp_path / "admin.sock"
    try:
        with WorkerGroup(configuration(*servers, more=f'[admin]\nsocket = "{path}"'), tmp_path) as group:
            group.wait_for("mailproxy is ready")
            for _ in range(3):
                group.connect().close()
            wait_until(lambda: stat(path)["imap", "FRONTEND"]["stot"] == "3")
            yield path
    finally:
        for server in servers:
            server.close()


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_socat_sends_a_command(path: Path) -> None:
    answer = subprocess.run(
        [program("socat"), "stdio", str(path)], input=b"show servers state\n", capture_output=True, check=True
    ).stdout
    assert answer.startswith(b"1\n# be_id be_name ")


def test_exporter_reads_all_figures(path: Path) -> None:
    port = free_port()
    exporter = subprocess.Popen(
        [
            program("prometheus-haproxy-exporter"),
            f"--haproxy.scrape-uri=unix:{path}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        text = wait_until(lambda: _get(f"http://127.0.0.1:{port}/metrics"))
    finally:
        exporter.terminate()
        exporter.wait()
    assert "haproxy_up 1\n" in text
    assert "haproxy_exporter_csv_parse_failures_total 0\n" in text
    assert 'haproxy_server_up{backend="b",server="s1"} 1\n' in text
    assert 'haproxy_frontend_sessions_total{frontend="imap"} 3\n' in text


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - it is this test's
            return str(answer.read().decode())
    except OSError:
        return None


def test_haproxyadmin_changes_servers_and_frontends(path: Path) -> None:
    proxy = haproxy.HAProxy(socket_file=str(path))
    server = proxy.backend("b").server("s1")
    assert server.setstate("drain")
    assert server.status == "DRAIN"
    assert server.setweight(7)
    assert int(server.weight) == 7
    assert server.setstate("ready")
    frontend = proxy.frontend("imap")
    assert frontend.disable()
    assert frontend.status == "PAUSED"
    assert frontend.enable()
    assert frontend.setmaxconn(77)
    assert proxy.setmaxconn(400)
    assert proxy.maxconn == 400


def test_hatop_shows_and_drains_a_server(path: Path, tmp_path: Path) -> None:
    tmux, hatop = program("tmux"), program("hatop")
    session = ["-L", f"hatop-{os.getpid()}"]
    environment = {**os.environ, "TERM": "xterm"}

    def run(*words: str) -> str:
        return subprocess.run(
            [tmux, *session, *words], capture_output=True, text=True, check=True, env=environment
        ).stdout

    run("new-session", "-d", "-x", "160", "-y", "40", f"{hatop} -s {path}")
    try:
        wait_until(lambda: "s1" in run("capture-pane", "-p") and "BACKEND" in run("capture-pane", "-p"))
        # From above the title of the frontend to the first server, which is disabled.
        run("send-keys", "Down", "Down", "Down", "Down", "F10")
        wait_until(lambda: stat(path)["b", "s1"]["status"] == "MAINT")
        wait_until(lambda: "MAINT" in run("capture-pane", "-p"))
        run("send-keys", "F9")  # enable
        wait_until(lambda: all(row["status"] != "MAINT" for row in stat(path).values()))
    finally:
        run("kill-server")
    assert ask(path, "show cli level") == "admin\n\n"
