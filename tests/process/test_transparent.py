"""``source = "client"``: servers see the clients' addresses, in a network namespace with the usual routes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.namespace import run_in_namespace

pytestmark = pytest.mark.slow

# Answers to foreign addresses come to this machine, as in a gateway. With servers on other machines fwmark
# rules do that.
ROUTES = (
    "ip rule add from 127.0.0.0/8 iif lo lookup 100 && ip route add local 0.0.0.0/0 dev lo table 100 && "
    "ip route add local 192.0.2.0/24 dev lo && ip -6 addr add 2001:db8::5/128 dev lo nodad && "
    "ip -6 addr add 2001:db8::1/128 dev lo nodad && ip -6 route add local 2001:db8:1::/64 dev lo"
)

SCRIPT = """
import os, socket, struct, subprocess, sys, time
from pathlib import Path

folder, user, workers = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
listeners = {
    4: socket.create_server(("127.0.0.5", 3001)),
    6: socket.create_server(("2001:db8::5", 3001), family=socket.AF_INET6),
}
for listener in listeners.values():
    listener.settimeout(20)
(folder / "mailproxy.toml").write_text(f'''
[process]
user = "{user}"
drain_timeout = 1
workers = {workers}
[frontends.four]
backend = "four"
bind = [
  {{ address = "127.0.0.1:1143" }},
  {{ address = "127.0.0.1:1144", accept_proxy = ["127.0.0.0/8"] }},
  {{ address = "unix:{folder}/socket" }},
]
[frontends.six]
backend = "six"
bind = ["[2001:db8::1]:1143"]
[backends.four]
source = "client"
check = false
servers = ["127.0.0.5:3001"]
[backends.six]
source = "client"
check = false
servers = ["[2001:db8::5]:3001"]
''')
output = (folder / "log").open("wb")
proxy = subprocess.Popen(
    [sys.executable, "-m", "mailproxy", "run", str(folder / "mailproxy.toml")], stdout=output, stderr=output
)
log = folder / "log"
end = time.monotonic() + 30
while "mailproxy is ready" not in log.read_text():
    if proxy.poll() is not None:
        print(proxy.returncode, log.read_text().replace(str(folder), ""))
        sys.exit()
    assert time.monotonic() < end, log.read_text()
    time.sleep(0.01)

def ask(number, client, *, header=b""):
    client.settimeout(20)
    client.sendall(header + b"hello")
    connection, peer = listeners[number].accept()
    connection.settimeout(20)
    received = connection.recv(100)
    connection.sendall(b"answer")
    print(peer[0], received.decode(), client.recv(100).decode())
    client.close()
    connection.close()

def dial(address, source):
    return socket.create_connection(address, source_address=(source, 0))

ask(4, dial(("127.0.0.1", 1143), "127.0.0.77"))
ask(4, dial(("127.0.0.1", 1144), "127.0.0.1"), header=b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 143\\r\\n")
ask(6, dial(("2001:db8::1", 1143), "2001:db8::1"))
unix = socket.socket(socket.AF_UNIX)
unix.connect(str(folder / "socket"))
ask(4, unix)
proxy.terminate()
proxy.wait()
"""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_servers_see_client_addresses(tmp_path: Path, workers: str) -> None:
    lines = await run_in_namespace(ROUTES, SCRIPT, str(tmp_path), "root", workers)
    assert lines == [
        "127.0.0.77 hello answer",
        "192.0.2.7 hello answer",
        "2001:db8::1 hello answer",
        "127.0.0.1 hello answer",  # a client of a Unix socket has no address
    ]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_start_without_capability_fails(tmp_path: Path, workers: str) -> None:
    lines = await run_in_namespace(ROUTES, SCRIPT, str(tmp_path), "nobody", workers)
    assert re.match(r"2 /mailproxy\.toml:\d+:\d+: backends\.four\.servers\[0\]\.source: ", lines[0])
    assert '"client" needs CAP_NET_ADMIN' in lines[0]
    assert "backends.six.servers[0].source" in lines[1]
