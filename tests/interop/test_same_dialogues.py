"""What clients are granted before TLS, by mailproxy, by nginx's mail module and by Dovecot's login processes.

The words differ. What is granted and what is refused does not.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import free_ports
from tests.support.programs.dovecot import USERS, Dovecot, Listener
from tests.support.programs.program import Mailproxy, Program, find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.interop.conftest import Site

pytestmark = pytest.mark.peers

PROGRAMS = ("mailproxy", "nginx", "dovecot")
HOSTS = {"mailproxy": "127.0.0.1", "nginx": "127.0.0.2", "dovecot": "127.0.0.3"}
TIMEOUT_S = 60.0

MAILPROXY = """
[defaults.frontend]
tls = {{ certificates = ["{certificates}/"] }}
[defaults.backend]
check = "none"
servers = ["127.0.0.1:1"]
[frontends.imap]
protocol = "imap"
backend = "imap"
bind = [{{ address = "127.0.0.1:{ports[imap]}", mode = "starttls" }}]
[frontends.pop3]
protocol = "pop3"
backend = "pop3"
bind = [{{ address = "127.0.0.1:{ports[pop3]}", mode = "starttls" }}]
[frontends.submission]
protocol = "submission"
backend = "submission"
bind = [{{ address = "127.0.0.1:{ports[submission]}", mode = "starttls" }}]
[frontends.sieve]
protocol = "sieve"
backend = "sieve"
bind = [{{ address = "127.0.0.1:{ports[sieve]}", mode = "starttls" }}]
[backends.imap]
[backends.pop3]
[backends.submission]
[backends.sieve]
"""

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr info;
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
events {{}}
mail {{
  server_name nginx.example;
  auth_http 127.0.0.1:1/;
  ssl_certificate {certificate};
  ssl_certificate_key {certificate};
  starttls only;
  server {{ listen 127.0.0.2:{ports[imap]}; protocol imap; }}
  server {{ listen 127.0.0.2:{ports[pop3]}; protocol pop3; }}
  server {{ listen 127.0.0.2:{ports[submission]}; protocol smtp; }}
}}
"""

# Commands before TLS, and whether they are granted.
DIALOGUES: Mapping[str, list[tuple[str, bool]]] = {
    "imap": [("a CAPABILITY", True), ("b NOOP", True), ("c LOGIN user1 secret", False), ("d SELECT INBOX", False)],
    "pop3": [("CAPA", True), ("USER user1", False), ("STAT", False), ("PASS secret", False)],
    "submission": [("EHLO x.example", True), ("NOOP", True), ("AUTH PLAIN eA==", False), ("MAIL FROM:<a>", False)],
    "sieve": [("CAPABILITY", True), ('AUTHENTICATE "PLAIN" "eA=="', False), ("LISTSCRIPTS", False)],
}  # fmt: skip
STARTTLS = {"imap": "t STARTTLS", "pop3": "STLS", "submission": "STARTTLS", "sieve": "STARTTLS"}


@pytest.fixture(scope="module")
def ports(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, int]]:
    numbers = free_ports(len(DIALOGUES), tuple(HOSTS.values()))
    ports = dict(zip(DIALOGUES, numbers, strict=True))
    folder = tmp_path_factory.mktemp("nginx")
    file = folder / "nginx.conf"
    certificate = site.proxy.folder / "proxy.pem"
    file.write_text(NGINX.format(folder=folder, certificate=certificate, ports=ports), encoding="ascii")
    nginx_listens = [(HOSTS["nginx"], ports[name]) for name in ("imap", "pop3", "submission")]
    with ExitStack() as running:
        text = MAILPROXY.format(certificates=site.proxy.folder, ports=ports)
        listens = [(HOSTS["mailproxy"], port) for port in ports.values()]
        running.enter_context(Mailproxy(text, tmp_path_factory.mktemp("mailproxy"), listens))
        running.enter_context(
            Program([find("nginx"), "-c", str(file), "-e", "stderr"], folder, nginx_listens)
        )
        running.enter_context(
            Dovecot(
                HOSTS["dovecot"],
                Listener(ports["imap"]),
                Listener(ports["pop3"], "pop3"),
                Listener(ports["sieve"], "sieve"),
                users=USERS,
                store=site.store,
                certificate=site.proxy.certificate,
                settings={"ssl": "required", "auth_mechanisms": "plain login"},
            )
        )
        yield ports


class Client:
    """Sends commands, and tells whether they are granted."""

    def __init__(self, program: str, protocol: str, port: int) -> None:
        self.protocol = protocol
        self.sock = socket.create_connection((HOSTS[program], port), TIMEOUT_S)
        self.stream = self.sock.makefile("rb")

    def is_granted(self, command: str) -> bool:
        self.sock.sendall(f"{command}\r\n".encode())
        return self.is_positive(command)

    def is_positive(self, command: str = "") -> bool:
        tag = command.partition(" ")[0].encode() if self.protocol == "imap" and command else b"*"
        while line := self.stream.readline():
            match self.protocol:
                case "imap" if line.startswith(tag + b" "):
                    return line.split()[1] == b"OK"
                case "pop3":
                    if line.startswith(b"+OK") and command == "CAPA":
                        while self.stream.readline() != b".\r\n":
                            pass
                    return line.startswith(b"+OK")
                case "submission" if line[3:4] == b" ":
                    return line[:1] in b"23"
                case "sieve" if line.startswith((b"OK", b"NO", b"BYE")):
                    return line.startswith(b"OK")
        raise AssertionError("the connection has closed")

    def upgrade(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self.stream = self.sock.makefile("rb")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("protocol", DIALOGUES)
def test_same_is_granted_and_refused(
    site: Site, ports: Mapping[str, int], protocol: str, program: str
) -> None:
    if (program, protocol) in (("nginx", "sieve"), ("dovecot", "submission")):
        pytest.skip("not spoken, or not without a relay")
    client = Client(program, protocol, ports[protocol])
    assert client.is_positive()
    for command, expected in DIALOGUES[protocol]:
        assert client.is_granted(command) == expected, command
    assert client.is_granted(STARTTLS[protocol])
    client.upgrade(ssl.create_default_context(cafile=str(site.proxy.ca)))
    client.sock.close()
