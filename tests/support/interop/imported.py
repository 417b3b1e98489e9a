"""One configuration twice: run by its own program, and by mailproxy after the import.

The cases are small files with frontends of their own. All of them run in one pair of processes: HAProxy takes
several files, nginx includes them, and the importer reads them in the same way.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import attrs
import trustme

from tests.support.ports import free_port, free_ports

HOST = "127.0.0.1"
SERVER_HOST = "127.0.0.4"
TIMEOUT_S = 10.0
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


@attrs.define
class Seen:
    """What a server saw of one session.

    Attributes:
        server: Its name.
        header: The PROXY header, with ports replaced; empty for none.
        data: The bytes behind it.
    """

    server: str
    header: str
    data: bytes


class ScriptedServer:
    """A server that greets with its name, answers lines, and remembers sessions with a LOGOUT.

    Args:
        name: Its name.
        wants_header: Whether it waits for a PROXY header before it greets.
        tls: The context for TLS from the first byte; None for clear text.
        greeting: What it greets with.
    """

    def __init__(
        self,
        name: str,
        *,
        wants_header: bool = False,
        tls: ssl.SSLContext | None = None,
        greeting: bytes | None = None,
    ) -> None:
        self.name = name
        self.seen: list[Seen] = []
        self._wants_header = wants_header
        self._tls = tls
        self._greeting = greeting or f"* OK {name} ready\r\n".encode()
        self.port = free_port([SERVER_HOST])
        self._listener = socket.create_server((SERVER_HOST, self.port), backlog=100)

    def __enter__(self) -> Self:
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()  # before the descriptor is another socket's
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            stack.enter_context(connection)
            connection.settimeout(TIMEOUT_S)
            header = _read_header(connection) if self._wants_header else ""
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
            connection.sendall(self._greeting)
            received = b""
            while data := connection.recv(4096):
                received += data
                if not received.endswith(b"\r\n"):
                    continue
                word = received.split()[-1].upper()
                if word == b"LOGOUT":
                    self.seen.append(Seen(self.name, header, received))
                    connection.sendall(b"* BYE\r\na1 OK\r\n")
                    return
                connection.sendall(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")


def _read_header(connection: socket.socket) -> str:
    start = connection.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL)
    if start != SIGNATURE:
        line = b""
        while not line.endswith(b"\n"):
            line += connection.recv(1)
        words = line.decode("latin-1").split()
        return " ".join([*words[:4], "PORT", "PORT"] if len(words) == 6 else words)
    fixed = connection.recv(16, socket.MSG_WAITALL)
    (length,) = struct.unpack("!H", fixed[14:16])
    rest = connection.recv(length, socket.MSG_WAITALL) if length else b""
    size = {0x11: 12, 0x21: 36}.get(fixed[13], 0)
    types = []
    tlvs = rest[size:]
    while len(tlvs) >= 3:
        kind, count = struct.unpack("!BH", tlvs[:3])
        types.append(kind)
        tlvs = tlvs[3 + count :]
    addresses = rest[: size - 4].hex() if size else ""
    return f"v2 {fixed[12]:02x} {fixed[13]:02x} {addresses} {sorted(types)}"


@attrs.frozen
class Visit:
    """One client.

    Attributes:
        bind: The number of the bind that it connects to.
        source: Its address.
        tls: Whether it makes a TLS handshake.
        sni: The server name of its ClientHello.
        alpn: The application protocols that it offers.
        header: A PROXY header that it sends first.
        keep: Whether it stays until the end of the case.
        wait_s: How long it waits for the greeting.
        action: ``logout``, ``leave`` (without a byte), or ``idle`` (wait until the proxy closes).
    """

    bind: int = 0
    source: str = HOST
    tls: bool = False
    sni: str | None = None
    alpn: tuple[str, ...] = ()
    header: bytes = b""
    keep: bool = False
    wait_s: float = 4.0
    action: str = "logout"

    @property
    def sends_line(self) -> bool:
        """Whether it sends a line when it is greeted."""
        return not self.keep and self.action == "logout"


@attrs.frozen
class Case:
    """A file and the clients that visit it.

    Attributes:
        name: The name of the file.
        text: The file; ``{bind0}`` and so on are addresses to listen on, ``{s1}`` those of servers.
        visits: The clients, in order.
        down: Servers that are down before the clients come.
        expected: What the clients see, where that does not follow from the comparison alone.
    """

    name: str
    text: str
    visits: tuple[Visit, ...] = (Visit(),) * 4
    down: tuple[str, ...] = ()
    expected: tuple[str, ...] | None = None

    @property
    def binds(self) -> int:
        """The number of binds."""
        return len(set(re.findall(r"\{bind\d\}", self.text)))


@attrs.frozen
class Outcome:
    """What happened in a case: what clients saw, what servers saw, and the log."""

    clients: tuple[str, ...]
    servers: tuple[tuple[str, str, bytes], ...]
    log: tuple[str, ...] = ()


class Servers:
    """The servers that all cases share, and certificates."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.folder = folder
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for name in ("imap.example.com", "pop.example.com"):
            authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
        leaf = authority.issue_cert("mail.internal")
        leaf.private_key_pem.write_to_path(folder / "key.pem")
        leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(tls)
        self.client_context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        self.client_context.check_hostname = False
        self.servers = {
            **{name: ScriptedServer(name) for name in ("s1", "s2", "s3")},
            **{name: ScriptedServer(name, wants_header=True) for name in ("p1", "p2")},
            **{name: ScriptedServer(name, tls=tls) for name in ("t1", "t2")},
            "bye": ScriptedServer("bye", greeting=b"* BYE go away\r\n"),
            "smtp": ScriptedServer("smtp", greeting=b"220 smtp ready\r\n"),
            "busy": ScriptedServer("busy", greeting=b"421 busy\r\n"),
        }
        self.dead = free_port([SERVER_HOST])

    def __enter__(self) -> Self:
        for server in self.servers.values():
            self._stack.enter_context(server)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def text(self, case: Case, ports: Sequence[int]) -> str:
        """Return the text of a case with addresses put in."""
        values = {name: f"{SERVER_HOST}:{server.port}" for name, server in self.servers.items()}
        values |= {f"port_{name}": str(server.port) for name, server in self.servers.items()}
        values |= {f"bind{index}": f"{HOST}:{port}" for index, port in enumerate(ports)}
        values |= {f"bind_port{index}": str(port) for index, port in enumerate(ports)}
        values |= {"dead": f"{SERVER_HOST}:{self.dead}", "host": SERVER_HOST, "folder": str(self.folder)}
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), case.text)

    def take_seen(self) -> tuple[tuple[str, str, bytes], ...]:
        """Return what the servers saw since the last call."""
        time.sleep(0.02)  # the last server notes its session before it answers, in another thread
        seen = [each for server in self.servers.values() for each in server.seen]
        for server in self.servers.values():
            server.seen.clear()
        return tuple(sorted((each.server, each.header, each.data) for each in seen))

    def run(self, case: Case, ports: Sequence[int], log: Callable[[], Sequence[str]]) -> Outcome:
        """Let the clients of a case come, one after the other."""
        self.take_seen()
        before = len(log())
        kept: list[socket.socket] = []
        clients = []
        for visit in case.visits:
            seen, connection = self._visit(visit, ports[visit.bind])
            clients.append(seen)
            if connection is not None:
                kept.append(connection)
        for connection in kept:
            connection.close()
        names = {
            word
            for line in case.text.splitlines()
            if line.startswith(("frontend ", "listen "))
            for word in line.split()[1:2]
        }
        logs_null = "no option dontlognull" in case.text
        certain = [
            seen != "closed" and (logs_null or (visit.sends_line and seen != "silent"))
            for visit, seen in zip(case.visits, clients, strict=True)
        ]
        looks = _QUIET_LOOKS if all(certain) else _QUIET_LOOKS_UNCERTAIN
        return Outcome(tuple(clients), self.take_seen(), _lines(log, before, names, sum(certain), looks))

    def _visit(self, visit: Visit, port: int) -> tuple[str, socket.socket | None]:
        """Return what a client sees: the server's name, or how the connection ends; and the connection if it stays."""
        try:
            connection = socket.create_connection((HOST, port), TIMEOUT_S, source_address=(visit.source, 0))
        except OSError:
            return "closed", None  # a reset can come before connect returns
        connection.settimeout(visit.wait_s)
        try:
            connection.sendall(visit.header)
            if visit.tls:
                context = self.client_context
                if visit.alpn:
                    context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
                    context.check_hostname = False
                    context.set_alpn_protocols(list(visit.alpn))
                connection = context.wrap_socket(connection, server_hostname=visit.sni)
            greeting = connection.recv(4096)
            if not greeting:
                connection.close()
                return "closed", None
            name = greeting.split()[2].decode() if greeting.startswith(b"* ") else greeting.decode().strip()
            if visit.keep:
                return name, connection
            if visit.action == "leave":
                connection.close()
                return name, None
            if visit.action == "logout":
                connection.sendall(b"a1 LOGOUT\r\n")
            while connection.recv(4096):
                pass
        except TimeoutError:
            connection.close()
            return "silent", None
        except OSError:
            connection.close()
            return "closed", None
        connection.close()
        return name, None


_TCPLOG = re.compile(
    r"(?P<client>\S+):\d+ \[[^]]+\] (?P<frontend>\S+) (?P<server>\S+) -?\d+/-?\d+/\+?\d+ \+?(?P<bytes>\d+) (?P<state>\S\S) \d+/\d+/\d+/\d+/(?P<retries>\+?\d+) \d+/\d+"
)


# Looks without another line, 20 ms apart. A client that is closed, or that sends nothing, may have a line or none.
_QUIET_LOOKS, _QUIET_LOOKS_UNCERTAIN = 5, 50


def _lines(
    log: Callable[[], Sequence[str]], before: int, names: set[str], count: int, looks: int
) -> tuple[str, ...]:
    """Return the lines of sessions of some frontends, as soon as there are as many as clients and no more come."""
    deadline = time.monotonic() + TIMEOUT_S
    found: list[str] = []
    quiet = 0
    while names and time.monotonic() < deadline:
        known, found = len(found), []
        for line in log()[before:]:
            match = _TCPLOG.search(line)
            # sessions that a rule rejects when they connect have no line in HAProxy
            if match is not None and match["frontend"].rstrip("~") in names and match["state"] != "PR":
                found.append(
                    f"{match['client']} {match['frontend']} {match['server']} {_size(match['bytes'])} {match['state']} {match['retries']}"
                )
        quiet = quiet + 1 if len(found) == known else 0
        if len(found) >= count and quiet >= looks:
            break
        time.sleep(0.02)
    return tuple(sorted(found))


def _size(size: str) -> str:
    """Return the number of bytes; of TLS that passes through it depends on the length of a signature."""
    return size if int(size) < 1_000 else "TLS"


@contextmanager
def ports_of(cases: Sequence[Case]) -> Iterator[dict[str, list[int]]]:
    """Yield free ports for the binds of each case."""
    ports = iter(free_ports(sum(case.binds for case in cases), [HOST]))
    yield {case.name: [next(ports) for _ in range(case.binds)] for case in cases}
