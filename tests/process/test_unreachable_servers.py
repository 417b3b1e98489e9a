"""Servers that this machine cannot reach: sessions use other servers, and checks report DOWN."""

from __future__ import annotations

import pytest

from tests.support.namespace import run_in_namespace

pytestmark = pytest.mark.slow

# Run in a namespace: servers, the proxy as a program, and clients that stay connected. Their ports are
# outside the small range.
SCRIPT = """
import json, socket, struct, subprocess, sys, threading, time
from pathlib import Path

text, sessions = sys.argv[1], int(sys.argv[2])
connections = []

def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"* OK ready\\r\\n")
        connections.append(connection)

for port in (3001, 3002):
    listener = socket.create_server(("127.0.0.1", port), backlog=500)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
folder = Path(sys.argv[3])
file = folder / "mailproxy.toml"
file.write_text(text)
output = (folder / "log").open("wb")
proxy = subprocess.Popen(
    [sys.executable, "-m", "mailproxy", "run", str(file)], stdout=output, stderr=output
)
log = folder / "log"
end = time.monotonic() + 30

def wait_for(words):
    while words not in log.read_text():
        assert time.monotonic() < end and proxy.poll() is None, log.read_text()
        time.sleep(0.01)

wait_for("mailproxy is ready")
for words in sys.argv[4:]:
    wait_for(words)
served = 0
clients = []
for number in range(sessions):
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_IP, 24, 1)
    client.bind(("127.0.0.2", 50000 + number))
    client.settimeout(20)
    client.connect(("127.0.0.1", 1143))
    served += client.recv(100).startswith(b"* OK")
    clients.append(client)
print("served", served)
for client in clients:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset ends both sides
    client.close()
while log.read_text().count('"event":"session"') < sessions:
    assert time.monotonic() < end, log.read_text()
    time.sleep(0.01)
proxy.terminate()
proxy.wait()
seen = {}
for line in map(json.loads, log.read_text().splitlines()):
    if line["event"] == "session":
        key = (line["server"], line["end"])
        seen[key] = seen.get(key, 0) + 1
for (server, reason), count in sorted(seen.items()):
    print(server, reason, count)
"""

HEAD = """
log.format = "json"
[process]
user = "root"
drain_timeout = 1
[frontends.imap]
bind = ["127.0.0.1:1143"]
backend = "b"
log_null = true
"""
FEW_PORTS = "echo 40000 40011 > /proc/sys/net/ipv4/ip_local_port_range"
WITHOUT_IPV6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"


async def run_script(
    tmp_path: object, setup: str, backend: str, sessions: int, *expected_words: str
) -> list[str]:
    return await run_in_namespace(
        setup, SCRIPT, HEAD + backend, str(sessions), str(tmp_path), *expected_words
    )


async def test_lack_of_ports_uses_other_server(tmp_path: object) -> None:
    """HAProxy 2.6 in the same situation: 12 and 8 of 20, none refused."""
    backend = """
        [backends.b]
        balance = "roundrobin"
        check = false
        servers = [
            { name = "big", address = "127.0.0.1:3001", weight = 8 },
            { name = "small", address = "127.0.0.1:3002", weight = 2 },
        ]
    """
    lines = await run_script(tmp_path, FEW_PORTS, backend, 20)
    assert lines == ["served 20", "big client-aborted 12", "small client-aborted 8"]


async def test_lack_of_ports_for_only_server_refuses(tmp_path: object) -> None:
    """HAProxy 2.6 in the same situation: 12 served, 8 ended with SC after three retries without a pause."""
    backend = """
        [backends.b]
        check = false
        servers = [{ name = "big", address = "127.0.0.1:3001" }]
    """
    lines = await run_script(tmp_path, FEW_PORTS, backend, 20)
    assert lines == ["served 12", "big client-aborted 12", "big server-refused 8"]


async def test_server_without_address_family_goes_down(
    tmp_path: object,
) -> None:
    backend = """
        [backends.b]
        check = { type = "tcp", interval = "200ms" }
        servers = [{ name = "six", address = "[::1]:3001" }, { name = "four", address = "127.0.0.1:3002" }]
    """
    down = "Server b/six is DOWN, reason: Layer4 connection problem"
    lines = await run_script(tmp_path, WITHOUT_IPV6, backend, 8, down)
    assert lines == ["served 8", "four client-aborted 8"]


async def test_unchecked_server_without_address_family_is_skipped(tmp_path: object) -> None:
    backend = """
        [backends.b]
        check = false
        servers = [{ name = "six", address = "[::1]:3001" }, { name = "four", address = "127.0.0.1:3002" }]
    """
    lines = await run_script(tmp_path, WITHOUT_IPV6, backend, 8)
    assert lines == ["served 8", "four client-aborted 8"]
