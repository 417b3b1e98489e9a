"""The admin socket beside HAProxy's: the same commands in the same situation have the same answers.

``DIFFERENT`` has what differs, with the reasons.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import attrs
import pytest

from tests.support.admin_client import ask, stat, states
from tests.support.ports import free_ports
from tests.support.programs.program import HAProxy, Mailproxy
from tests.support.worker_group import GreetingServer, wait_until

pytestmark = pytest.mark.peers

# Fields of ``show stat`` that need not be equal, by kind of row, with the reason.
NOT_HERE = "does not exist here"
MEASURED = "is measured in another moment"
OTHER_COUNT = "counts something a little different"
DIFFERENT = {
    "FRONTEND": {
        "slim": "HAProxy gives a frontend without maxconn the limit of the process as it was at the start","smax": "after clear counters it is looked at once a second", "rate": MEASURED, "rate_max": MEASURED, "conn_rate": MEASURED, "conn_rate_max": MEASURED},
    "BACKEND": {
        "slim": "HAProxy's fullconn, which is a tenth of maxconn: " + NOT_HERE,
        "lbtot": OTHER_COUNT + ": sessions of sticky clients, too",
        "smax": MEASURED,
        "lastchg": MEASURED, "lastsess": MEASURED, "rate": MEASURED, "rate_max": MEASURED, "ttime": MEASURED,
        "ttime_max": MEASURED, "qtime": MEASURED, "ctime": MEASURED, "qtime_max": MEASURED, "ctime_max": MEASURED,
    },
    "SERVER": {
        "lbtot": OTHER_COUNT + ": sessions of sticky clients, too",
        "smax": MEASURED,
        "lastchg": MEASURED, "lastsess": MEASURED, "rate": MEASURED, "rate_max": MEASURED, "ttime": MEASURED,
        "ttime_max": MEASURED, "qtime": MEASURED, "ctime": MEASURED, "qtime_max": MEASURED, "ctime_max": MEASURED,
        "check_duration": MEASURED, "downtime": MEASURED,
        "used_conn_cur": OTHER_COUNT + ": HAProxy has those that its own pool may use again",
        "need_conn_est": "of HAProxy's pool of idle connections, which " + NOT_HERE,
    },
}  # fmt: skip

# Sentences, as HAProxy has them and as they are here, with the reason.
OTHER_SENTENCES = {
    "usage: set server <backend>/<server> addr | agent | agent-addr | agent-port | agent-send | check-addr | "
    "check-port | fqdn | health | ssl | state | weight": (
        "usage: set server <backend>/<server> addr | check-port | health | state | weight",
        "agents, and addresses of checks alone, do not exist here",
    ),
    "Empty weight string empty or preceded by garbage": (
        "Empty weight string empty or preceded by garbage",
        "HAProxy leaves the empty line out",
    ),
}

# Each row is asked in order, of both, and leaves the situation as it was.
DIALOGUES = {
    "server names": [
        "set server", "set server b", "set server x/y", "set server b/x state ready", "set server b/s1",
        "get weight", "get weight b", "get weight x/y", "get weight b/x", "enable server", "disable server b/x",
        "shutdown sessions server", "shutdown sessions server x/y", "set maxconn server", "set weight x/y 3",
    ],
    "states": [
        "set server b/s1 state", "set server b/s1 state away", "set server b/s1 state drain", "get weight b/s1",
        "set server b/s1 state ready", "disable server b/s1", "enable server b/s1", "set server b/s1 state ready more words",
    ],
    "weights": [
        "set server b/s1 weight", "set server b/s1 weight abc", "set server b/s1 weight -1", "set server b/s1 weight 257",
        "set server b/s1 weight 5x", "set server b/s2 weight 50%", "get weight b/s2", "set weight b/s2", "set weight b/s2 10",
        "get weight b/s2", "set server b/s2 weight 300%", "get weight b/s2", "set weight b/s2 10",
    ],
    "health": [
        "set server b/s1 health", "set server b/s1 health odd", "set server b/s3 health stopping",
        "set server b/s3 health down", "set server b/s3 health up", "set server b/s1 health up",
        "disable health b/s1", "enable health b/s1", "enable health b/s3", "disable health b/s3",
    ],
    "addresses": [
        "set server b/s3 addr", "set server b/s3 addr nowhere", "set server b/s3 addr 127.0.0.1",
        "set server b/s3 addr 127.0.0.2", "set server b/s3 addr 127.0.0.2 port x", "set server b/s3 addr 127.0.0.1 again", "set server b/s3 addr 127.0.0.1",
        "set server b/s3 check-port 143", "set server b/s1 check-port", "set server b/s1 check-port x",
        "set server b/s1 check-port 99999",
    ],
    "frontends": [
        "enable frontend", "enable frontend x", "disable frontend b", "enable frontend f", "disable frontend f",
        "disable frontend f", "enable frontend f", "shutdown frontend", "shutdown frontend x", "shutdown frontend g",
        "shutdown frontend g", "enable frontend g", "disable frontend g",
    ],
    "limits": [
        "set maxconn frontend", "set maxconn frontend x", "set maxconn frontend f", "set maxconn frontend f -1",
        "set maxconn frontend f 90", "set maxconn server b/s2", "set maxconn server b/s2 x", "set maxconn server b/s2 50",
        "set maxconn global", "set maxconn global 400", "set maxconn global 99999999",
    ],
    "tables": [
        "show table x", "show table b key", "show table b other", "clear table", "clear table x", "clear table b key",
        "set table", "set table x", "set table b key", "set table b key 192.0.2.9 other 1", "set table b key 192.0.2.9 data.gpc0 1",
        "set table b key 192.0.2.9 data.server_id x", "set table b key 192.0.2.9 data.server_id 1", "show table b key 192.0.2.9",
        "show table b data.server_id", "show table b data.gpc0 gt 0", "show table b data.server_id gt 2",
        "clear table b key 192.0.2.9", "show table b key 192.0.2.9", "show table",
    ],
    "sessions": ["shutdown session", "shutdown session 0x12", "show sess 0x12", "show sess"],
    "lists": ["show backend", "show servers state x", "show servers conn x", "show servers state", "show servers conn"],
    "conversation": [
        "set timeout", "set timeout cli", "set timeout cli 5x", "set timeout cli 5", "show cli level;show cli level",
        "operator;show cli level;user;show cli level;show sess", "show env NOT_SET_HERE", "show errors x", "clear counters",
    ],
}  # fmt: skip


@attrs.frozen
class Pair:
    """The admin sockets of HAProxy and mailproxy, and where both serve. Each has servers of its own."""

    haproxy: Path
    mailproxy: Path
    haproxy_port: int
    mailproxy_port: int

    def both(self) -> list[tuple[Path, int]]:
        return [(self.haproxy, self.haproxy_port), (self.mailproxy, self.mailproxy_port)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("runtime")
    ports = free_ports(4, ("127.0.0.1",))
    with ExitStack() as running:
        servers = [GreetingServer(f"s{number}") for number in (1, 2, 3)]
        for server in servers:
            running.callback(server.close)
        pair = Pair(folder / "haproxy.sock", folder / "mailproxy.sock", ports[0], ports[2])
        listens = [("127.0.0.1", port) for port in ports]
        running.enter_context(HAProxy(haproxy(pair, ports[1], servers), folder, listens[:2]))
        running.enter_context(Mailproxy(mailproxy(pair, ports[3], servers), folder, listens[2:]))
        for path, _ in pair.both():
            wait_until(partial(is_checked, path))
        yield pair


def wait_for_stat(path: Path, **values: str) -> None:
    """Wait until the frontend has these values."""

    def has_values() -> bool:
        row = stat(path)["f", "FRONTEND"]
        return all(row[name] == value for name, value in values.items())

    wait_until(has_values)


def is_checked(path: Path) -> bool:
    return stat(path)["b", "s1"]["check_status"] == "L4OK"


def haproxy(pair: Pair, other: int, servers: list[GreetingServer]) -> str:
    one, two, three = (server.port for server in servers)
    return f"""
global
 stats socket {pair.haproxy} mode 600 level admin
 nbthread 1
 maxconn 500
defaults
 mode tcp
 timeout connect 5s
 timeout client 30s
 timeout server 30s
frontend f
 bind 127.0.0.1:{pair.haproxy_port}
 maxconn 100
 default_backend b
frontend g
 bind 127.0.0.1:{other}
 default_backend b
backend b
 balance roundrobin
 stick-table type ip size 1k expire 1h
 stick on src
 server s1 127.0.0.1:{one} check inter 200ms
 server s2 127.0.0.1:{two} check inter 200ms weight 10 maxconn 50
 server s3 127.0.0.1:{three} backup
"""


def mailproxy(pair: Pair, other: int, servers: list[GreetingServer]) -> str:
    one, two, three = (server.port for server in servers)
    return f"""
admin = {{ socket = "{pair.mailproxy}" }}
process = {{ max_sessions = 500 }}
[frontends.f]
max_sessions = 100
backend = "b"
bind = [{{ address = "127.0.0.1:{pair.mailproxy_port}" }}]
[frontends.g]
backend = "b"
bind = [{{ address = "127.0.0.1:{other}" }}]
[backends.b]
balance = "roundrobin"
stick = {{ size = 1024, expire = "1h" }}
check = {{ type = "tcp", interval = "200ms" }}
servers = [
  {{ name = "s1", address = "127.0.0.1:{one}" }},
  {{ name = "s2", address = "127.0.0.1:{two}", weight = 10, max_sessions = 50 }},
  {{ name = "s3", address = "127.0.0.1:{three}", backup = true, check = "none" }},
]
"""


def normalized(answer: str) -> str:
    """Without what is of the moment: pointers, ages, expiries, the tail of HAProxy's own sessions."""
    lines = [line for line in answer.strip().splitlines() if "fe=GLOBAL" not in line]
    text = "\n".join(lines)
    text = re.sub(r"^0x[0-9a-f]+:", "0x:", text, flags=re.MULTILINE)
    text = re.sub(r"exp=\d+", "exp=", text)
    text = re.sub(r"server_key=\S+", "server_key=", text)
    return re.sub(r"idle_per_thr\[\d+\]", "idle_per_thr", text)


@pytest.mark.parametrize("name", DIALOGUES)
def test_answers_are_the_same(pair: Pair, name: str) -> None:
    for command in DIALOGUES[name]:
        theirs, ours = normalized(ask(pair.haproxy, command)), normalized(ask(pair.mailproxy, command))
        expected, _ = OTHER_SENTENCES.get(theirs, (theirs, ""))
        if command in ("show servers state", "show servers conn"):
            assert columns(ours, command) == columns(expected, command), command
        else:
            assert ours == expected, command


def columns(answer: str, command: str) -> list[list[str]]:
    """The words of each line, without those that depend on the moment or on HAProxy's idle connections."""
    left_out = {9, 12, 13, 21} if command.endswith("state") else {5, 6, 7, 8, 9, 10, 11, 12, 13}
    rows = [line.split() for line in answer.splitlines() if not line.startswith("#")]
    return [[word for index, word in enumerate(row) if index not in left_out] for row in rows]


def test_figures_are_the_same_after_sessions(pair: Pair) -> None:
    for path, port in pair.both():
        ask(path, "clear counters all; clear table b")
        before = stat(path)["f", "FRONTEND"]["stot"]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as kept:
            assert kept.recv(100).startswith(b"s")
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                    greeting = client.recv(100)
                    client.sendall(b"hello\r\n")
                    assert client.recv(100) == b"hello\r\n", greeting
            wait_for_stat(path, scur="1", stot=str(int(before) + 4))
        wait_for_stat(path, scur="0")
    theirs, ours = stat(pair.haproxy), stat(pair.mailproxy)
    assert list(theirs) == list(ours)
    for key, row in theirs.items():
        kind = key[1] if key[1] in DIFFERENT else "SERVER"
        fields = [
            name
            for name in row
            if name and not name.startswith(("h1_", "h2_")) and name not in DIFFERENT[kind]
        ]
        assert {name: ours[key][name] for name in fields} == {name: row[name] for name in fields}, key


def test_header_of_show_stat_has_the_same_order(pair: Pair) -> None:
    theirs, ours = (ask(path, "show stat").partition("\n")[0].split(",")[:-1] for path, _ in pair.both())
    assert ours == [name for name in theirs if not name.startswith(("h1_", "h2_"))]


@pytest.mark.parametrize(
    "filters", ["-1 1 -1", "-1 2 -1", "-1 4 1", "2 7 -1", "4 4 2", "f 7 -1", "99 7 -1", "up", "no-maint"]
)
def test_filters_choose_the_same_rows(pair: Pair, filters: str) -> None:
    assert list(stat(pair.mailproxy, filters)) == list(stat(pair.haproxy, filters))


@pytest.mark.parametrize("form", ["show stat typed", "show info typed"])
def test_typed_output_has_the_same_fields_and_tags(pair: Pair, form: str) -> None:
    def described(path: Path) -> set[str]:
        lines = [line for line in ask(path, form).splitlines() if line]
        return {line.rpartition(":")[0] for line in lines if not re.search(r"\.h[12]_", line)}

    theirs, ours = described(pair.haproxy), described(pair.mailproxy)
    optional = {"slim", "lastsess", "check_duration", "last_chk", "check_code", "description"}
    names = {each for each in theirs ^ ours if each.rpartition(".1:")[0].rpartition(".")[2] not in optional}
    assert names == set()


def test_states_of_servers_are_the_same_numbers(pair: Pair) -> None:
    for state in ("drain", "maint", "ready"):
        for path, _ in pair.both():
            ask(path, f"set server b/s2 state {state}")
        theirs, ours = states(pair.haproxy)["b/s2"], states(pair.mailproxy)["b/s2"]
        for field in ("srv_op_state", "srv_admin_state", "srv_uweight", "srv_iweight"):
            assert ours[field] == theirs[field], (state, field)
        # Without the progress of checks: HAProxy begins them again behind maintenance.
        words = [stat(path)["b", "s2"]["status"].split()[0] for path, _ in pair.both()]
        assert words[0] == words[1]
