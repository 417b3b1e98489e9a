"""The configurations of the proxies for the same work, with one worker or several."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from errors import UsageError
from programs import Programs

TAIL_LINES = 6


@dataclass(frozen=True, slots=True)
class ProxySetup:
    """Folder and ports of one proxy.

    Attributes:
        folder: For its configuration and its logs.
        certificates: The folder of the certificates.
        ports: Its port for each bind.
        server: The stub server's port.
        preamble_server: The port where it greets after a PROXY header or a ClientHello.
        two_preambles_server: The port where it greets after both.
        programs: The programs that are measured.
    """

    folder: Path
    certificates: Path
    ports: dict[str, int]
    server: int
    preamble_server: int
    two_preambles_server: int
    programs: Programs

    @property
    def max_sessions(self) -> int:
        """mailproxy's default limit of sessions, for proxies that need one in the configuration."""
        return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2

    def write(self, name: str, text: str) -> str:
        file = self.folder / name
        file.write_text(text)
        return str(file)

    def log_tail(self) -> list[str]:
        """Return the last lines of each log."""
        lines = []
        for file in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.sessions")]):
            tail = file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            lines += [f"    {file.name}: {line}" for line in tail]
        return lines or ["    (nothing was logged)"]


def haproxy(setup: ProxySetup, threads: int) -> list[str]:
    file = setup.write(
        "haproxy.cfg",
        f"""
global
    maxconn {setup.max_sessions}
    nbthread {threads}
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 31m
    timeout server 31m
frontend clear
    bind 127.0.0.1:{setup.ports["clear"]}
    default_backend servers
frontend ec
    bind 127.0.0.1:{setup.ports["ec"]} ssl crt {setup.certificates}/ec.pem
    default_backend servers
frontend rsa
    bind 127.0.0.1:{setup.ports["rsa"]} ssl crt {setup.certificates}/rsa.pem
    default_backend servers
frontend v2
    bind 127.0.0.1:{setup.ports["v2"]}
    default_backend announced
frontend opaque
    bind 127.0.0.1:{setup.ports["opaque"]}
    default_backend preambled
frontend names
    bind 127.0.0.1:{setup.ports["names"]}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend servers if {{ req.ssl_sni -i pop.example.com }}
    use_backend preambled if {{ req.ssl_sni -i imap.example.com }}
backend servers
    balance leastconn
    server s1 127.0.0.1:{setup.server}
backend announced
    balance leastconn
    server s1 127.0.0.1:{setup.two_preambles_server} send-proxy-v2
backend preambled
    balance leastconn
    server s1 127.0.0.1:{setup.preamble_server}
""",
    )
    return [setup.programs.haproxy, "-db", "-f", file]


def nginx(setup: ProxySetup, workers: int) -> list[str]:
    tls = "".join(
        f"""
    server {{
        listen 127.0.0.1:{setup.ports[key]} ssl;
        ssl_certificate {setup.certificates}/{key}.pem;
        ssl_certificate_key {setup.certificates}/{key}.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        proxy_pass servers;
    }}"""
        for key in ("ec", "rsa")
    )
    file = setup.write(
        "nginx.conf",
        f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes {workers};
pid {setup.folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {2 * setup.max_sessions}; }}
stream {{
    log_format sessions '$remote_addr:$remote_port [$time_local] $upstream_addr $session_time $bytes_sent $status';
    access_log {setup.folder}/nginx.sessions sessions;
    upstream servers {{ least_conn; server 127.0.0.1:{setup.server}; }}
    upstream announced {{ least_conn; server 127.0.0.1:{setup.two_preambles_server}; }}
    upstream preambled {{ least_conn; server 127.0.0.1:{setup.preamble_server}; }}
    map $ssl_preread_server_name $chosen {{ pop.example.com servers; imap.example.com preambled; }}
    proxy_connect_timeout 5s;
    proxy_timeout 31m;
    server {{ listen 127.0.0.1:{setup.ports["clear"]}; proxy_pass servers; }}{tls}
    server {{ listen 127.0.0.1:{setup.ports["v2"]}; proxy_protocol on; proxy_pass announced; }}
    server {{ listen 127.0.0.1:{setup.ports["opaque"]}; proxy_pass preambled; }}
    server {{ listen 127.0.0.1:{setup.ports["names"]}; ssl_preread on; proxy_pass $chosen; }}
}}
""",
    )
    return ["nginx", "-e", "stderr", "-p", str(setup.folder), "-c", file]


def mailproxy(setup: ProxySetup, workers: int, relay: str | None = None, frontend: str = "") -> list[str]:
    keys = [f"workers = {workers}"] if workers > 1 else []
    keys += [f'relay = "{relay}"'] if relay else []
    process = "\n".join(["[process]", *keys]) if keys else ""  # defaults are left out
    file = setup.write(
        "mailproxy.toml",
        f"""
{process}
[log]
format = "tcplog"
to = "{setup.folder}/mailproxy.sessions"

[defaults.frontend]
protocol = "tcp"
{frontend}

[defaults.backend]
balance = "leastconn"
check = {{ type = "none" }}

[frontends.clear]
backend = "servers"
[[frontends.clear.bind]]
address = "127.0.0.1:{setup.ports["clear"]}"

[frontends.ec]
backend = "servers"
tls = {{ certificates = ["{setup.certificates}/ec.pem"] }}
[[frontends.ec.bind]]
address = "127.0.0.1:{setup.ports["ec"]}"
mode = "tls"

[frontends.rsa]
backend = "servers"
tls = {{ certificates = ["{setup.certificates}/rsa.pem"] }}
[[frontends.rsa.bind]]
address = "127.0.0.1:{setup.ports["rsa"]}"
mode = "tls"

[frontends.imaps]
protocol = "imap"
backend = "imap"
tls = {{ certificates = ["{setup.certificates}/ec.pem"] }}
[[frontends.imaps.bind]]
address = "127.0.0.1:{setup.ports["imaps"]}"
mode = "tls"

[frontends.starttls]
protocol = "imap"
backend = "imap"
tls = {{ certificates = ["{setup.certificates}/ec.pem"] }}
[[frontends.starttls.bind]]
address = "127.0.0.1:{setup.ports["starttls"]}"
mode = "starttls"

[frontends.v2]
backend = "announced"
[[frontends.v2.bind]]
address = "127.0.0.1:{setup.ports["v2"]}"

[frontends.opaque]
backend = "preambled"
[[frontends.opaque.bind]]
address = "127.0.0.1:{setup.ports["opaque"]}"

[frontends.names]
routes = [
  {{ sni = ["pop.example.com"], backend = "servers" }},
  {{ sni = ["imap.example.com"], backend = "preambled" }},
]
[[frontends.names.bind]]
address = "127.0.0.1:{setup.ports["names"]}"
mode = "passthrough"

[backends.servers]
servers = ["127.0.0.1:{setup.server}"]

[backends.imap]
servers = ["127.0.0.1:{setup.server}"]

[backends.announced]
send_proxy = "v2"
servers = ["127.0.0.1:{setup.two_preambles_server}"]

[backends.preambled]
servers = ["127.0.0.1:{setup.preamble_server}"]
""",
    )
    return [setup.programs.python, "-m", "mailproxy", "run", file]


def portable(setup: ProxySetup, workers: int) -> list[str]:
    return mailproxy(setup, workers, "portable")


def limited(setup: ProxySetup, workers: int) -> list[str]:
    """Configure limits per client that no load here reaches, to measure what they cost a session."""
    limits = 'max_sessions_per_client = 1000000\nmax_session_rate_per_client = { count = 65535, per = "1s" }'
    return mailproxy(setup, workers, frontend=limits)


# Each function writes the configuration for a number of workers or threads, and returns the command.
PROGRAMS: dict[str, Callable[[ProxySetup, int], list[str]]] = {
    "haproxy": haproxy,
    "nginx": nginx,
    "mailproxy": mailproxy,
    "portable": portable,
    "limited": limited,
    "revision": mailproxy,  # another version of it: --compare
}
TIMES = "×"  # noqa: RUF001 - the multiplication sign
TITLES = {
    "haproxy": "HAProxy", "nginx": "nginx", "mailproxy": "mailproxy", "portable": "portable relay",
    "limited": "limits per client", "revision": "revision",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variant:
    """A program with a number of workers or threads: ``haproxy``, ``mailproxy-2``."""

    program: str
    workers: int

    @property
    def title(self) -> str:
        return TITLES[self.program] + (f" {TIMES}{self.workers}" if self.workers > 1 else "")

    def command(self, setup: ProxySetup) -> list[str]:
        return PROGRAMS[self.program](setup, self.workers)

    def environment(self, programs: Programs) -> dict[str, str]:
        return programs.environment(self.program)


def variant_of(name: str) -> Variant:
    """Return the variant of this name. Raises UsageError for an unknown one."""
    program, _, number = name.partition("-")
    if program not in PROGRAMS or (number and not (number.isdecimal() and int(number) > 1)):
        raise UsageError(
            f"no proxy {name!r}; there are {', '.join(PROGRAMS)}, and with N workers each as {program}-N"
        )
    return Variant(program, int(number or 1))
