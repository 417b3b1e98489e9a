"""``mailproxy run --replace``: another process takes the listening sockets over, and no connection is lost."""

from __future__ import annotations

import os
import random
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from mailproxy.net.passing.packets import VERSION
from mailproxy.proxy.signals import HANDED_OVER
from tests.support.admin_client import ask, talk
from tests.support.http_client import request
from tests.support.ports import free_port
from tests.support.socket_activation import SocketActivatedProgram
from tests.support.steady_logins import SteadyLogins
from tests.support.worker_group import (
    Client,
    GreetingServer,
    WorkerGroup,
    configuration,
    descriptor_targets,
    pause,
    wait_until,
)

pytestmark = pytest.mark.slow

WORKERS = pytest.mark.parametrize("workers", [1, 2])
COMMAND = f"hand-over {VERSION}"


class Instance(WorkerGroup):
    """A process started with ``--replace``. All instances of a test have one configuration and one admin socket."""

    def __init__(
        self,
        text: str,
        folder: Path,
        *,
        options: tuple[str, ...] = ("--replace",),
        wrapper: Sequence[str] = (),
    ) -> None:
        folder.mkdir()
        super().__init__(text, folder, wrapper=wrapper)
        self.command[-1:] = [*options, str(self.file)]

    @property
    def is_replaced(self) -> bool:
        return "has taken over and accepts" in self.text


class Site:
    """A place where instances of one configuration follow each other."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.admin = folder / "admin.sock"
        self.unix = folder / "imap.sock"
        self.port = free_port()
        self.server = GreetingServer("s1")
        stack.callback(self.server.close)
        self.instances: list[Instance] = []
        self._stack = stack

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def configuration(
        self,
        *,
        workers: int = 1,
        binds: str | None = None,
        more: str = "",
        drain_timeout: str = "60s",
        **process: str,
    ) -> str:
        text = configuration(
            self.server,
            more=f'[admin]\nsocket = "{self.admin}"\nmode = "0600"\n{more}',
            workers=workers,
            drain_timeout=drain_timeout,
            idle_first=drain_timeout,  # nothing counts as idle: on a busy machine a test takes long
            **process,
        )
        default = f'"127.0.0.1:{self.port}", {{ address = "unix:{self.unix}", unix_mode = "0660" }}'
        return text.replace('bind = [{ address = "127.0.0.1:0" }]', f"bind = [{binds or default}]")

    def start(
        self,
        text: str,
        *,
        options: tuple[str, ...] = ("--replace",),
        folder: str = "",
        wrapper: Sequence[str] = (),
    ) -> Instance:
        """Start an instance, which may have an end of its own."""
        name = folder or f"instance-{len(self.instances)}"
        instance = self._stack.enter_context(
            Instance(text, self.folder / name, options=options, wrapper=wrapper)
        )
        self.instances.append(instance)
        return instance

    def replace(self, text: str) -> Instance:
        """Start an instance, and wait until it has taken over."""
        before = [each for each in self.instances if each.process.poll() is None]
        instance = self.start(text)
        instance.wait_for("mailproxy is ready")
        if before:
            wait_until(lambda: before[-1].is_replaced)
        return instance


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


# Without loss


@pytest.mark.parametrize("workers", [(1,) * 7, (2,) * 7, (1, 2, 1, 3, 2, 1)], ids=["one", "two", "changing"])
def test_handovers_under_load_lose_no_connection(site: Site, workers: tuple[int, ...]) -> None:
    """200 logins a second, and 300 sessions that go on in the processes that have accepted them."""
    first = site.replace(site.configuration(workers=workers[0], drain_timeout="1h"))
    clients = [Client(site.address) for _ in range(300)]
    assert {client.greeting for client in clients} == {"s1"}
    with SteadyLogins(site.address) as load:
        load.wait_for(20)
        for each in workers[1:]:
            site.replace(site.configuration(workers=each, drain_timeout="1h"))
            load.wait_for(50)
    assert load.faults == []
    assert [client for client in clients if not client.echoes()] == []
    for client in clients:
        client.close()
    for instance in site.instances[:-1]:
        assert instance.wait() == 0
        assert "Traceback" not in instance.text
        assert "helper-failed" not in instance.text
    current = site.instances[-1]
    assert first.process.pid != current.process.pid
    assert ask(site.admin, "show version")
    current.send(signal.SIGTERM)
    assert current.wait() == 0
    assert not site.admin.exists()
    assert not site.unix.exists()


@WORKERS
def test_connections_in_the_queue_are_served_by_the_successor(site: Site, workers: int) -> None:
    """A stopped process accepts nothing. What waits in the queues of its sockets goes with them."""
    old = site.replace(site.configuration(workers=workers))
    ask(site.admin, "set maxconn global 1")
    held = Client(site.address)
    assert held.greeting == "s1"
    waiting = [Client(site.address) for _ in range(20)]
    assert not waiting[0].is_greeted_within(0.2)
    new = site.replace(site.configuration(workers=workers))
    ask(site.admin, "set maxconn global 0")  # what was set has gone along
    assert {client.greeting for client in waiting} == {"s1"}
    assert held.echoes()
    for client in (held, *waiting):
        client.close()
    assert old.wait() == 0
    assert new.process.poll() is None


@WORKERS
def test_operators_settings_and_stick_tables_go_along(site: Site, workers: int) -> None:
    text = site.configuration(workers=workers).replace("[backends.b]", "[backends.b]\nstick = {}")
    site.replace(text)
    ask(site.admin, "set weight b/s1 7; set maxconn server b/s1 33")
    client = Client(site.address)
    assert client.greeting == "s1"
    wait_until(lambda: "key=127.0.0.1" in ask(site.admin, "show table b") or None)
    site.replace(text)
    assert ask(site.admin, "get weight b/s1").startswith("7 (initial 1)")
    assert "key=127.0.0.1" in ask(site.admin, "show table b")
    client.close()


@WORKERS
def test_state_file_belongs_to_the_successor(site: Site, workers: int) -> None:
    """The old process ends later, and does not overwrite what the new one has written."""
    file = site.folder / "state"
    text = site.configuration(workers=workers, state_file=str(file))
    old = site.replace(text)
    client = Client(site.address)
    assert client.greeting == "s1"
    new = site.replace(text)
    ask(site.admin, "set weight b/s1 9")
    client.close()
    assert old.wait() == 0
    assert not file.exists()
    new.send(signal.SIGTERM)
    assert new.wait() == 0
    assert '"weight":[9,1]' in file.read_text()


@WORKERS
def test_socket_files_stay_in_place(site: Site, workers: int) -> None:
    """The names are never missing, and lead to the same sockets."""
    text = site.configuration(workers=workers)
    old = site.replace(text)
    before = [(path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) for path in (site.admin, site.unix)]
    site.replace(text)
    assert old.wait() == 0
    assert [
        (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) for path in (site.admin, site.unix)
    ] == before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(site.unix))
        assert client.recv(100) == b"s1\r\n"
    assert ask(site.admin, "show cli level") == "admin\n\n"


@WORKERS
def test_http_answers_all_the_time(site: Site, workers: int) -> None:
    port = free_port()
    text = site.configuration(workers=workers, more=f'http = "127.0.0.1:{port}"')
    old = site.replace(text)
    assert request(port, "/healthz").status == 200
    new = site.replace(text)
    status = request(port, "/api/status").json
    assert status["process"]["ready"]
    assert {each["pid"] for each in status["workers"]} <= {new.process.pid, *new.children.values()}
    assert old.wait() == 0
    assert request(port, "/healthz").status == 200
    new.send(signal.SIGTERM)
    assert new.wait() == 0


@WORKERS
def test_address_that_the_successor_does_not_have_is_closed(site: Site, workers: int) -> None:
    other = free_port()
    old = site.replace(
        site.configuration(workers=workers, binds=f'"127.0.0.1:{site.port}", "127.0.0.1:{other}"')
    )
    site.replace(site.configuration(workers=workers, binds=f'"127.0.0.1:{site.port}"'))
    assert f"it does not listen on 127.0.0.1:{other}" in old.text
    assert old.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        Client(("127.0.0.1", other))


@WORKERS
def test_queue_of_an_address_that_is_closed_is_served_first(site: Site, workers: int) -> None:
    other = free_port()
    binds = f'"127.0.0.1:{site.port}", "127.0.0.1:{other}"'
    old = site.replace(site.configuration(workers=workers, binds=binds))
    stopped = [old.process.pid] if workers == 1 else old.workers
    end = get_end(site.admin)
    wait_until(lambda: select.select([end], [], [], 0)[0] or None)
    time.sleep(0.2)
    for pid in stopped:
        pause(pid)
    clients = [Client(("127.0.0.1", other)) for _ in range(20)]
    end.send(b'{"type":"take-over","unused":["127.0.0.1:%d"]}' % other)
    time.sleep(0.2)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert {client.greeting for client in clients} == {"s1"}
    for client in clients:
        client.close()
    end.close()
    assert old.wait() == 0


@WORKERS
def test_address_may_become_more_specific(site: Site, workers: int) -> None:
    site.replace(site.configuration(workers=workers, binds=f'"*:{site.port}"'))
    with SteadyLogins(site.address, rate=50) as load:
        load.wait_for(5)
        site.replace(site.configuration(workers=workers, binds=f'"127.0.0.1:{site.port}"'))
        load.wait_for(20)


@WORKERS
def test_options_of_the_successor_are_in_use(site: Site, workers: int) -> None:
    site.replace(
        site.configuration(workers=workers, binds=f'{{ address = "127.0.0.1:{site.port}", backlog = 7 }}')
    )
    text = site.configuration(workers=workers, binds=f'{{ address = "127.0.0.1:{site.port}", backlog = 9 }}')
    site.replace(text)
    wait_until(lambda: backlogs(site.port) == {9} or None)


def backlogs(port: int) -> set[int]:
    """The lengths that the accept queues of this port may have."""
    command = ["ss", "-Hltn", f"sport = :{port}"]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return {int(line.split()[2]) for line in output.splitlines()}


@WORKERS
def test_socket_of_a_unit_goes_along(site: Site, workers: int) -> None:
    """A socket that the service manager has opened. The successor was not started by it."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as unit:
        text = site.configuration(workers=workers, binds=f'"fd:imap", "127.0.0.1:{site.port}"')
        (site.folder / "activated").mkdir()
        with SocketActivatedProgram(text, site.folder / "activated", [unit], "imap") as old:
            old.wait_for("mailproxy is ready")
            with SteadyLogins(unit.getsockname(), rate=100) as load:
                load.wait_for(10)
                new = site.start(text)
                new.wait_for("mailproxy is ready")
                assert old.wait() == 0
                load.wait_for(20)
                reloaded = text.replace("[backends.b]", "[backends.b]\nretries = 1")
                new.edit(reloaded)
                new.send(signal.SIGHUP)
                new.wait_for("reloaded in")
                load.wait_for(20)
            assert load.faults == []
            for address in (unit.getsockname(), site.address):
                client = Client(address)
                assert client.greeting == "s1"
                client.close()


@WORKERS
def test_reload_between_handovers_loses_no_connection(site: Site, workers: int) -> None:
    """Also with the sockets of workers that are gone."""
    site.replace(site.configuration(workers=3))
    with SteadyLogins(site.address) as load:
        load.wait_for(20)
        current = site.replace(site.configuration(workers=workers))
        for retries in (1, 2):
            text = site.configuration(workers=workers).replace(
                "[backends.b]", f"[backends.b]\nretries = {retries}"
            )
            current.edit(text)
            current.send(signal.SIGHUP)
            wait_until(partial(has_lines, current, "reloaded in", retries))
            load.wait_for(30)
        site.replace(site.configuration(workers=3))
        load.wait_for(30)
    assert load.faults == []


def has_lines(instance: Instance, pattern: str, count: int) -> bool:
    return len(instance.lines(pattern)) >= count


# Deaths


def killed_after(seconds: float) -> list[str]:
    """Return the wrapper of a command that a signal kills, however busy the machine is."""
    code = f"import os, signal, sys; signal.setitimer(signal.ITIMER_REAL, {seconds:f}); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code]


@WORKERS
def test_killed_successor_changes_nothing(site: Site, workers: int) -> None:
    """Killed at random moments: its start takes 2 s, for which it waits for a check. Then a hand-over still works."""
    rng = random.Random(5)  # noqa: S311 - moments, and no secrets
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = (
            '[frontends.slow]\nprotocol = "imap"\nbackend = "slow"\nbind = ["127.0.0.1:0"]\n'
            f'[backends.slow]\ncheck = "imap"\nservers = ["127.0.0.1:{silent.getsockname()[1]}"]\n'
        )
        text = site.configuration(workers=workers, more=slow)
        current = site.replace(text)
        with SteadyLogins(site.address) as load:
            for _ in range(10):
                successor = site.start(text, wrapper=killed_after(rng.uniform(0.0, 1.9)))
                assert successor.wait() == -signal.SIGALRM
                assert not current.is_replaced
                load.wait_for(20)
            site.replace(text)
            load.wait_for(20)
    assert load.faults == []


@WORKERS
def test_killed_predecessor_leaves_the_successor(site: Site, workers: int) -> None:
    text = site.configuration(workers=workers)
    old = site.replace(text)
    client = Client(site.address)
    assert client.greeting == "s1"
    site.replace(text)
    old.process.kill()
    old.process.wait()
    with SteadyLogins(site.address) as load:
        load.wait_for(50)
    assert load.faults == []
    assert ask(site.admin, "show cli level") == "admin\n\n"
    client.close()


def test_killed_control_process_does_not_keep_the_proxy_from_being_replaced(site: Site) -> None:
    text = site.configuration(workers=2)
    old = site.replace(text)
    old.kill_and_wait("control")
    wait_until(lambda: is_answered(site.admin) or None)
    site.replace(text)
    assert ask(site.admin, "show cli level") == "admin\n\n"


def is_answered(path: Path) -> bool:
    try:
        return ask(path, "show cli level") == "admin\n\n"
    except OSError:
        return False


@WORKERS
def test_successor_that_fails_to_start_changes_nothing(site: Site, workers: int) -> None:
    """It gets the sockets, but cannot open one more."""
    old = site.replace(site.configuration(workers=workers))
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        text = site.configuration(workers=workers, binds=f'"127.0.0.1:{site.port}", "127.0.0.1:{taken}"')
        new = site.start(text)
        assert new.wait() == 2
    assert f"cannot listen on 127.0.0.1:{taken}: Address already in use" in new.text
    old.wait_for("has not taken over, and this one goes on")
    assert not old.is_replaced
    with SteadyLogins(site.address) as load:
        load.wait_for(20)
    assert load.faults == []
    assert site.unix.exists()
    site.replace(site.configuration(workers=workers))


@WORKERS
def test_pid_file_names_the_process_that_accepts(site: Site, workers: int) -> None:
    file = site.folder / "pid"
    text = site.configuration(workers=workers, pid_file=str(file))
    old = site.replace(text)
    assert int(file.read_text()) == old.process.pid
    with socket.create_server(("127.0.0.1", 0)) as other:
        binds = f'"127.0.0.1:{site.port}", "127.0.0.1:{other.getsockname()[1]}"'
        failing = site.start(site.configuration(workers=workers, binds=binds, pid_file=str(file)))
        assert failing.wait() == 2
    assert int(file.read_text()) == old.process.pid
    new = site.replace(text)
    wait_until(lambda: file.read_text() == f"{new.process.pid}\n")
    assert old.wait() == 0
    assert int(file.read_text()) == new.process.pid
    new.process.terminate()
    assert new.wait() == 0
    assert not file.exists()


def test_faulty_configuration_does_not_reach_the_running_instance(site: Site) -> None:
    old = site.replace(site.configuration())
    new = site.start(site.configuration(more="nonsense = true"))
    assert new.wait() == 2
    assert "gets the listening sockets" not in old.text


# Refusals


def test_no_running_instance_is_a_normal_start(site: Site) -> None:
    instance = site.replace(site.configuration())
    assert re.search(
        r"--replace: no instance answers at .*admin.sock, so this is a normal start", instance.text
    )
    Client(site.address).close()


def test_configuration_without_admin_socket_is_refused(site: Site) -> None:
    text = (
        site.configuration()
        .replace("[admin]", "[defaults]")
        .replace(f'socket = "{site.admin}"\nmode = "0600"', "")
    )
    instance = site.start(text)
    assert instance.wait() == 2
    assert "--replace needs the admin socket of the running instance" in instance.text


@WORKERS
def test_level_operator_does_not_hand_over(site: Site, workers: int) -> None:
    socket_table = f'[[admin.sockets]]\npath = "{site.admin}"\nlevel = "operator"\n'
    text = site.configuration(workers=workers).replace(
        f'[admin]\nsocket = "{site.admin}"\nmode = "0600"', socket_table
    )
    old = site.start(text, options=())
    old.wait_for("mailproxy is ready")
    assert ask(site.admin, COMMAND) == "Permission denied\n\n"
    new = site.start(site.configuration(workers=workers))
    assert new.wait() == 2
    assert "does not hand over: Permission denied" in new.text
    Client(site.address).close()


def test_tcp_socket_does_not_hand_over(site: Site) -> None:
    port = free_port()
    table = f'[[admin.sockets]]\naddress = "127.0.0.1:{port}"\n'
    text = site.configuration().replace(f'[admin]\nsocket = "{site.admin}"\nmode = "0600"', table)
    site.start(text, options=()).wait_for("mailproxy is ready")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(f"{COMMAND}\n".encode())
        assert client.recv(1000) == b"hand-over needs a Unix socket.\n\n"


def test_other_version_of_the_dialogue_is_refused(site: Site) -> None:
    site.replace(site.configuration())
    for version in ("0", "2", "", "x"):
        answer = ask(site.admin, f"hand-over {version}")
        assert re.fullmatch(
            rf"mailproxy \S+ hands over in version {VERSION} of the dialogue, not in .*\n\n", answer
        ), version


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(site: Site) -> None:
    """The file of the socket lets it in, but the proxy is root's."""
    old = site.replace(site.configuration())
    for folder in (site.folder, *site.folder.parents[:3]):
        folder.chmod(0o755)
    site.admin.chmod(0o666)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            answer = talk(site.admin, f"{COMMAND}\n".encode())
            os._exit(0 if answer == b"only the user 0 or root may take over, not user 65534\n\n" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "gets the listening sockets" not in old.text


@pytest.mark.parametrize("answer", [b"", b"\xff\xfe\n\n", b"Unknown command: hand-over\n\n", b"x" * 100_000])
def test_other_program_at_the_admin_socket_is_refused(site: Site, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(site.admin))
        other.listen()
        instance = site.start(site.configuration())
        connection, _ = other.accept()
        connection.recv(1000)
        connection.settimeout(10)
        with suppress(OSError):
            connection.sendall(answer)
        connection.close()
        assert instance.wait() == 2
        assert "does not hand over: " in instance.text
        assert "Traceback" not in instance.text


GARBAGE = [b"", b"{}", b"\xff", b'{"type":"take-over"}', b'{"type":"take-over","unused":7}', b"[" * 50000]


@WORKERS
def test_garbage_of_successors_changes_nothing(site: Site, workers: int) -> None:
    old = site.replace(site.configuration(workers=workers))
    for number, packet in enumerate(GARBAGE, 1):
        with get_end(site.admin) as end:
            if packet:
                end.send(packet)
        wait_until(partial(has_lines, old, "has not taken over, and this one goes on", number))
        with SteadyLogins(site.address) as load:
            load.wait_for(10)
        assert load.faults == [], packet
        assert "Traceback" not in old.text, packet
    site.replace(site.configuration(workers=workers))


def is_pending(pid: int, number: int) -> bool:
    """Whether a process has a signal that it has not taken."""
    status = Path(f"/proc/{pid}/status").read_text()
    (pending,) = re.findall(r"^ShdPnd:\s+(\w+)$", status, re.MULTILINE)
    return bool(int(pending, 16) & 1 << (number - 1))


@WORKERS
def test_signal_hands_over_where_the_channel_is_broken(site: Site, workers: int) -> None:
    old = site.replace(site.configuration(workers=workers))
    old.send(HANDED_OVER)  # ignored: no process has the sockets
    wait_until(lambda: not is_pending(old.process.pid, HANDED_OVER))
    old.send(signal.SIGUSR1)
    old.wait_for("SIGUSR1 means nothing here")  # handled after the one before
    with get_end(site.admin) as end:
        end.settimeout(10)
        while b'"type":"end"' not in end.recv(65536):
            pass
    old.wait_for("has not taken over, and this one goes on")
    assert not old.is_replaced
    old.send(HANDED_OVER)
    assert old.wait() == 0
    assert old.is_replaced


@WORKERS
def test_successor_that_dies_before_the_confirmation_has_taken_over(site: Site, workers: int) -> None:
    old = site.replace(site.configuration(workers=workers))
    with get_end(site.admin) as end:
        end.settimeout(10)
        while b'"type":"end"' not in end.recv(65536):
            pass
        end.send(b'{"type":"take-over","unused":[]}')
    assert old.wait() == 0
    assert old.is_replaced
    assert "has not taken over" not in old.text


@WORKERS
def test_second_successor_waits_for_the_first(site: Site, workers: int) -> None:
    site.replace(site.configuration(workers=workers))
    with get_end(site.admin):
        assert ask(site.admin, COMMAND) == f"process {os.getpid()} is taking over\n\n"
    wait_until(lambda: "is taking over" not in ask(site.admin, COMMAND) or None)


def get_end(admin: Path) -> socket.socket:
    """Return a successor's end of the channel."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(admin))
        client.sendall(f"{COMMAND}\n".encode())
        _, fds, _, _ = socket.recv_fds(client, 1000, 1)
        return socket.socket(fileno=fds[0])


# Leftovers


@WORKERS
def test_nothing_is_left_behind(site: Site, workers: int) -> None:
    """After hand-overs, the process has as many descriptors as after a plain start."""
    text = site.configuration(workers=workers)
    first = site.replace(text)
    count = len(descriptor_targets(first.process.pid))
    for _ in range(3):
        site.replace(text)
    current = site.instances[-1]
    wait_until(lambda: len(descriptor_targets(current.process.pid)) == count or None)
    for instance in site.instances[:-1]:
        assert instance.wait() == 0
    current.send(signal.SIGINT)
    assert current.wait() == 0
    assert [path.name for path in site.folder.iterdir() if path.is_socket()] == []
