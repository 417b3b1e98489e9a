"""The proxies: how each is configured, started and stopped."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults import Fault, Mistake, NotStartedFault

START_SECONDS = 20.0
STOP_SECONDS = 5.0
TAIL_LINES = 6


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy is to stand: its folder, its ports by bind, the stub server's two."""

    folder: Path
    certificates: Path
    ports: dict[str, int]
    server: int
    preamble_server: int  # greets only after a PROXY header or a ClientHello
    two_preambles_server: int  # only after both

    @property
    def max_sessions(self) -> int:
        """What mailproxy takes by itself, for those that want to be told."""
        return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2

    def write(self, name: str, text: str) -> str:
        file = self.folder / name
        file.write_text(text)
        return str(file)

    def log_tail(self) -> list[str]:
        lines = []
        for file in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.sessions")]):
            tail = file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            lines += [f"    {file.name}: {line}" for line in tail]
        return lines or ["    (nothing was logged)"]


def haproxy(place: Place) -> list[str]:
    file = place.write(
        "haproxy.cfg",
        f"""
global
    maxconn {place.max_sessions}
    nbthread 1
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 31m
    timeout server 31m
frontend clear
    bind 127.0.0.1:{place.ports["clear"]}
    default_backend servers
frontend ec
    bind 127.0.0.1:{place.ports["ec"]} ssl crt {place.certificates}/ec.pem
    default_backend servers
frontend rsa
    bind 127.0.0.1:{place.ports["rsa"]} ssl crt {place.certificates}/rsa.pem
    default_backend servers
frontend v2
    bind 127.0.0.1:{place.ports["v2"]}
    default_backend announced
frontend opaque
    bind 127.0.0.1:{place.ports["opaque"]}
    default_backend preambled
frontend names
    bind 127.0.0.1:{place.ports["names"]}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend servers if {{ req.ssl_sni -i pop.example.com }}
    use_backend preambled if {{ req.ssl_sni -i imap.example.com }}
backend servers
    balance leastconn
    server s1 127.0.0.1:{place.server}
backend announced
    balance leastconn
    server s1 127.0.0.1:{place.two_preambles_server} send-proxy-v2
backend preambled
    balance leastconn
    server s1 127.0.0.1:{place.preamble_server}
""",
    )
    return ["haproxy", "-db", "-f", file]


def nginx(place: Place) -> list[str]:
    tls = "".join(
        f"""
    server {{
        listen 127.0.0.1:{place.ports[key]} ssl;
        ssl_certificate {place.certificates}/{key}.pem;
        ssl_certificate_key {place.certificates}/{key}.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        proxy_pass servers;
    }}"""
        for key in ("ec", "rsa")
    )
    file = place.write(
        "nginx.conf",
        f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {2 * place.max_sessions}; }}
stream {{
    log_format sessions '$remote_addr:$remote_port [$time_local] $upstream_addr $session_time $bytes_sent $status';
    access_log {place.folder}/nginx.sessions sessions;
    upstream servers {{ least_conn; server 127.0.0.1:{place.server}; }}
    upstream announced {{ least_conn; server 127.0.0.1:{place.two_preambles_server}; }}
    upstream preambled {{ least_conn; server 127.0.0.1:{place.preamble_server}; }}
    map $ssl_preread_server_name $chosen {{ pop.example.com servers; imap.example.com preambled; }}
    proxy_connect_timeout 5s;
    proxy_timeout 31m;
    server {{ listen 127.0.0.1:{place.ports["clear"]}; proxy_pass servers; }}{tls}
    server {{ listen 127.0.0.1:{place.ports["v2"]}; proxy_protocol on; proxy_pass announced; }}
    server {{ listen 127.0.0.1:{place.ports["opaque"]}; proxy_pass preambled; }}
    server {{ listen 127.0.0.1:{place.ports["names"]}; ssl_preread on; proxy_pass $chosen; }}
}}
""",
    )
    return ["nginx", "-e", "stderr", "-p", str(place.folder), "-c", file]


def mailproxy(place: Place) -> list[str]:
    file = place.write(
        "mailproxy.toml",
        f"""
[log]
format = "tcplog"
to = "{place.folder}/mailproxy.sessions"

[defaults.frontend]
protocol = "tcp"

[defaults.backend]
balance = "leastconn"
check = {{ type = "none" }}

[frontends.clear]
backend = "servers"
[[frontends.clear.bind]]
address = "127.0.0.1:{place.ports["clear"]}"

[frontends.ec]
backend = "servers"
tls = {{ certificates = ["{place.certificates}/ec.pem"] }}
[[frontends.ec.bind]]
address = "127.0.0.1:{place.ports["ec"]}"
mode = "tls"

[frontends.rsa]
backend = "servers"
tls = {{ certificates = ["{place.certificates}/rsa.pem"] }}
[[frontends.rsa.bind]]
address = "127.0.0.1:{place.ports["rsa"]}"
mode = "tls"

[frontends.v2]
backend = "announced"
[[frontends.v2.bind]]
address = "127.0.0.1:{place.ports["v2"]}"

[frontends.opaque]
backend = "preambled"
[[frontends.opaque.bind]]
address = "127.0.0.1:{place.ports["opaque"]}"

[frontends.names]
routes = [
  {{ sni = ["pop.example.com"], backend = "servers" }},
  {{ sni = ["imap.example.com"], backend = "preambled" }},
]
[[frontends.names.bind]]
address = "127.0.0.1:{place.ports["names"]}"
mode = "passthrough"

[backends.servers]
servers = ["127.0.0.1:{place.server}"]

[backends.announced]
send_proxy = "v2"
servers = ["127.0.0.1:{place.two_preambles_server}"]

[backends.preambled]
servers = ["127.0.0.1:{place.preamble_server}"]
""",
    )
    return [sys.executable, "-m", "mailproxy", "run", file]


PROXIES: dict[str, Callable[[Place], list[str]]] = {
    "haproxy": haproxy,
    "mailproxy": mailproxy,
    "nginx": nginx,
}
TITLES = {"haproxy": "HAProxy", "mailproxy": "mailproxy", "nginx": "nginx"}


def free_ports() -> Iterator[int]:
    """Below the range that outgoing connections take theirs from, so that none is taken between here and the proxy."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    end = (
        first_outgoing if first_outgoing > 12_000 else 32_000
    )  # some machines give nearly all to connections
    for port in range(10_000, end):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
    raise Mistake("no free ports are left on 127.0.0.1")


def listening_ports() -> set[int]:
    """Seen without connecting: that would be a session for the proxy."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    return {int(words[1].rpartition(":")[2], 16) for words in rows if words[3] == "0A"}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that was started here."""

    name: str
    place: Place
    process: subprocess.Popen[bytes]

    def check_alive(self, patience: float = 0) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise Fault(f"the proxy ended by itself with code {self.process.wait(patience)}")

    def await_ports(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not listening_ports().issuperset(self.place.ports.values()):
            if self.process.poll() is not None:
                raise NotStartedFault(f"it ended with code {self.process.returncode} before it listened")
            if time.monotonic() > deadline:
                raise NotStartedFault(f"it does not listen after {START_SECONDS:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """Politely, then with its process group: that holds nothing but what it started itself."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(name: str, place: Place) -> Iterator[Proxy]:
    """A fresh proxy that listens. What it says goes to a file; it is gone afterwards."""
    # setpriv becomes the proxy, which then ends with this process even if that is killed
    command = ["setpriv", "--pdeathsig", "TERM", *PROXIES[name](place)]
    with (place.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=place.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    proxy = Proxy(name, place, process)
    try:
        proxy.await_ports()
        yield proxy
    except NotStartedFault:
        raise
    except Fault:
        proxy.check_alive(patience=0.5)  # its end comes a moment after that of its sessions, and says more
        raise
    finally:
        proxy.stop()
