"""The scrape's numbers are what clients did and what the log has: one process, two workers, a reload, killed workers."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_client import Scrape, request
from tests.support.ports import free_port
from tests.support.worker_group import (
    GreetingServer,
    WorkerGroup,
    configuration,
    greeting_servers,
    pause,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def servers() -> Iterator[list[GreetingServer]]:
    with greeting_servers("s1", "s2") as servers:
        yield servers


class Site:
    """A proxy with HTTP and a log, and clients that count what they do."""

    def __init__(self, servers: list[GreetingServer], folder: Path, workers: int) -> None:
        self.port = free_port()
        self.log = folder / "sessions.log"
        more = f'[admin]\nhttp = "127.0.0.1:{self.port}"\n[log]\nto = "{self.log}"\nformat = "json"\n'
        backend = "retries = 0\n[backends.dead]\ncheck = 'none'\nretries = 0\nservers = ['127.0.0.1:1']\n"
        more += (
            '[frontends.refused]\nprotocol = "tcp"\nbackend = "dead"\nlog_null = true\n'
            'bind = [{ address = "127.0.0.1:0" }]\n'
        )
        text = configuration(*servers, more=more, backend=backend, workers=workers)
        self.group = WorkerGroup(text.replace('[log]\nformat = "tcplog"\n', ""), folder)
        self.bytes_in = self.bytes_out = self.sessions = 0
        self._lock = threading.Lock()

    def wait_ready(self) -> None:
        self.group.wait_for("mailproxy is ready", where=self.log)
        ports = self._ports()
        self.imap, self.refused = ports["imap"], ports["refused"]

    def _ports(self) -> dict[str, int]:
        lines = [line for line in self.lines() if line["event"] == "listening"]
        return {line["frontend"]: int(line["address"].rpartition(":")[2]) for line in lines}

    def lines(self) -> list[dict[str, Any]]:
        complete = self.log.read_text().rpartition("\n")[0]  # the last line may be written just now
        return [json.loads(line) for line in complete.splitlines()]

    def session_lines(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == "session"]

    def run_session(self, size: int) -> None:
        with socket.create_connection(("127.0.0.1", self.imap), timeout=20) as sock:
            data = os.urandom(size)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: sock.recv(65536), b""))
        with self._lock:
            self.sessions += 1
            self.bytes_in += size
            self.bytes_out += len(received)

    def run_refused(self) -> None:
        with socket.create_connection(("127.0.0.1", self.refused), timeout=20) as sock:
            sock.recv(100)
        with self._lock:
            self.sessions += 1

    def run_clients(self, number: int) -> None:
        """Run sessions in eight threads, every fifth of which gets no server."""
        chance = random.Random(number)  # noqa: S311 - sizes of sessions
        sizes = [chance.choice((0, 1, 300, 5_000, 200_000)) for _ in range(number)]

        def work(part: int) -> None:
            for index in range(part, number, 8):
                if index % 5:
                    self.run_session(sizes[index])
                else:
                    self.run_refused()

        threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def settle(self) -> Scrape:
        """Wait until every session has ended and is in the log, then scrape."""

        def scrape() -> Scrape | None:
            scrape = Scrape.of(self.port)
            is_done = not scrape.sum("process_current_connections")
            return scrape if is_done and len(self.session_lines()) >= self.sessions else None

        return wait_until(scrape)

    def assert_equal(self, scrape: Scrape, *, lost: int = 0) -> None:
        """Compare a scrape with what the clients did, and with the log."""
        lines = self.session_lines()
        assert len(lines) == self.sessions
        assert scrape.sum("frontend_sessions_total") == self.sessions + lost
        assert scrape.sum("listener_sessions_total") == self.sessions + lost
        assert scrape.sum("process_connections_total") == self.sessions + lost
        assert scrape.sum("session_seconds_count") == self.sessions
        if not lost:
            assert scrape.sum("frontend_bytes_in_total") == self.bytes_in
            assert scrape.sum("frontend_bytes_out_total") == self.bytes_out
            assert scrape.sum("backend_sessions_total") == self.sessions
            assert scrape.sum("server_sessions_total", proxy="b") == sum(
                line["server"] in ("s1", "s2") for line in lines
            )
        for name in ("backend", "server", "listener"):
            for way in ("in", "out"):
                total = scrape.sum(f"frontend_bytes_{way}_total")
                assert scrape.sum(f"{name}_bytes_{way}_total") == total
        assert scrape.sum("session_bytes_sum") == sum(line["bytes_in"] + line["bytes_out"] for line in lines)
        assert scrape.sum("session_bytes_count") == len(lines)
        assert scrape.sum("session_seconds_sum") == pytest.approx(
            sum(line["total_ms"] for line in lines) / 1000
        )
        ends = Counter((line["frontend"], line["backend"], line["end"]) for line in lines)
        for (frontend, backend, end), number in ends.items():
            own = {"frontend": frontend, "backend": backend, "end": end}
            assert scrape.sum("sessions_ended_total", **own) == number
        assert scrape.sum("sessions_ended_total") == len(lines)
        connects = [line["connect_ms"] for line in lines if line["connect_ms"] >= 0]
        assert scrape.sum("connect_seconds_count") == len(connects)
        assert scrape.sum("connect_seconds_bucket", le="0.01") == sum(ms <= 10 for ms in connects)
        refused = sum(line["frontend"] == "refused" for line in lines)
        assert scrape.sum("server_connection_errors_total", proxy="dead") == refused


@pytest.fixture(params=[1, 2])
def site(servers: list[GreetingServer], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(servers, tmp_path, request.param)
    with site.group:
        site.wait_ready()
        yield site


def test_scrape_equals_clients_and_log(site: Site) -> None:
    site.run_clients(200)
    site.assert_equal(site.settle())


def test_counters_never_go_back_while_sessions_end(site: Site) -> None:
    load = threading.Thread(target=site.run_clients, args=(400,))
    load.start()
    before = Scrape.of(site.port)
    while load.is_alive():
        scrape = Scrape.of(site.port)
        assert scrape.went_back(before) == {}
        before = scrape
    scrape = site.settle()
    assert scrape.went_back(before) == {}
    site.assert_equal(scrape)


def test_bytes_of_open_sessions_are_counted(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.imap)) as sock:
        assert sock.recv(100) == b"s1\r\n"
        sock.sendall(b"x" * 1000)
        received = 0
        while received < 1000:
            received += len(sock.recv(1000))

        def counted() -> Scrape | None:  # a worker that is late is counted next time
            scrape = Scrape.of(site.port)
            moved = scrape.sum("frontend_bytes_in_total"), scrape.sum("frontend_bytes_out_total")
            return scrape if moved == (1000, 1004) else None

        scrape = wait_until(counted)
        assert scrape.sum("listener_current_sessions") == 1
        assert Scrape.of(site.port).sum("frontend_bytes_in_total") == 1000, "they are counted once"
    site.sessions, site.bytes_in, site.bytes_out = 1, 1000, 1004
    site.assert_equal(site.settle())


def test_counters_stay_over_reload(site: Site) -> None:
    site.run_clients(40)
    before = site.settle()
    text = site.group.file.read_text().replace("retries = 0", "retries = 1")
    site.group.edit(text.replace("127.0.0.1:1'", "127.0.0.1:2'"))
    site.group.send(signal.SIGHUP)
    site.group.wait_for('"event":"reloaded"|"event": "reloaded"', where=site.log)
    after = Scrape.of(site.port)
    assert after.went_back(before, may_be_gone=True) == {}
    assert after.sum("server_sessions_total", server="127.0.0.1:2") == 0
    site.run_clients(40)
    assert (scrape := site.settle()).went_back(after) == {}
    assert scrape.sum("frontend_sessions_total") == 80


def test_frontends_come_and_go_by_reload(site: Site) -> None:
    site.run_clients(40)
    before, with_refused = site.settle(), site.group.file.read_text()
    start = with_refused.index("[frontends.refused]")
    end = with_refused.index("\n", with_refused.index("bind =", start)) + 1
    scrape = before
    for number, text in enumerate((with_refused[:start] + with_refused[end:], with_refused), 1):
        site.group.edit(text)
        site.group.send(signal.SIGHUP)
        wait_until(lambda: sum(line["event"] == "reloaded" for line in site.lines()) == number or None)  # noqa: B023
        scrape = Scrape.of(site.port)
        assert scrape.went_back(before, may_be_gone=True) == {}
        assert scrape.sum("process_connections_total") == 40
        wait_until(lambda: _has_frontend(site.port, "refused") is (number == 2) or None)  # noqa: B023
        assert request(site.port, "/readyz").status in (200, 503)
    assert scrape.sum("session_seconds_count") == before.sum("session_seconds_count")


def _has_frontend(port: int, name: str) -> bool:
    return name in request(port, "/api/status").json["frontends"]


@pytest.mark.parametrize("site", [2], indirect=True)
def test_killed_processes_lose_no_count(site: Site) -> None:
    before, lost = Scrape.of(site.port), 0
    for name in ("worker 1", "worker 2", "control", "worker 1"):
        site.run_clients(60)
        # Nothing is sent to another process before this one is killed: what has ended is in shared memory.
        wait_until(lambda: len(site.session_lines()) >= site.sessions or None)
        old = site.group.children[name]
        open_session = socket.create_connection(("127.0.0.1", site.imap))
        assert open_session.recv(100)
        site.group.kill_and_wait(name)
        if name == "control":
            open_session.close()
            site.sessions += 1
            site.bytes_out += 4
        else:
            lost += _is_closed(open_session)
            if open_session.fileno() >= 0:
                open_session.close()
                site.sessions += 1
                site.bytes_out += 4
        scrape = wait_until(lambda: _scrape_or_none(site.port))
        assert scrape.went_back(before) == {}, (name, old)
        before = scrape
    scrape = site.settle()
    assert scrape.went_back(before) == {}
    site.assert_equal(scrape, lost=lost)
    assert scrape.sum("worker_restarts_total") == 3
    assert scrape.sum("listener_current_sessions") == 0


def _is_closed(sock: socket.socket) -> bool:
    """Whether the proxy has closed the session, which is closed here, too, then."""
    sock.settimeout(0.5)
    try:
        sock.recv(1)
    except TimeoutError:
        return False
    except OSError:
        pass
    sock.close()
    return True


def _scrape_or_none(port: int) -> Scrape | None:
    try:
        return Scrape.of(port)
    except OSError:
        return None


@pytest.mark.parametrize("site", [2], indirect=True)
def test_status_has_workers_and_ends(site: Site) -> None:
    site.run_clients(40)
    site.settle()

    def status() -> Any:
        status = request(site.port, "/api/status").json
        return status if len(status["recent_ends"]) == 30 else None

    found = wait_until(status)
    assert [worker["ready"] for worker in found["workers"]] == [True, True]
    assert {worker["pid"] for worker in found["workers"]} == set(site.group.workers)
    assert found["recent_failures"][0]["end"] == "server-refused"
    assert "refused the connection" in found["recent_failures"][0]["reason"]
    assert request(site.port, "/readyz").status == 200
    worker = site.group.workers[0]
    pause(site.group.process.pid)  # or the worker may have been replaced before the request
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: request(site.port, "/readyz").status == 503 or None)
    os.kill(site.group.process.pid, signal.SIGCONT)
    wait_until(lambda: request(site.port, "/readyz").status == 200 or None)
    wait_until(lambda: request(site.port, "/api/status").json["process"]["worker_restarts"] == 1 or None)
