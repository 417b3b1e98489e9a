"""PROXY headers are accepted or refused as by HAProxy, with the listed exceptions.

Each header is sent in one piece. The test compares what an operator sees: whether the client gets the greeting, its
address in the log, and the message of a refusal.
"""

from __future__ import annotations

import socket
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.support.interop import raw_headers as headers
from tests.support.interop.scripted_session import GREETING, HOST, PROGRAMS, Peer
from tests.support.ports import free_port
from tests.support.programs import tcplog
from tests.support.programs.greeting_server import greeting_server
from tests.support.programs.program import HAProxy, Program, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.peers

TIMEOUT_MS = 1_000  # for a header that never ends. The others come while the program is stopped.

FOR_HAPROXY = """
global
 log stdout format raw local0
 nbthread 1
defaults
 mode tcp
 log global
 option tcplog
 timeout client 30s
 timeout server 8s
 timeout connect 8s
frontend imap
 bind 127.0.0.1:{port} accept-proxy name main
 default_backend mail
backend mail
 server s1 127.0.0.1:{server}
"""

FOR_MAILPROXY = """
[log]
format = "tcplog"
to = "stdout"

[frontends.imap]
protocol = "tcp"
backend = "mail"
log_null = true
timeouts = {{ proxy_header = "{limit}ms" }}

[[frontends.imap.bind]]
address = "127.0.0.1:{port}"
name = "main"
accept_proxy = ["127.0.0.0/8"]

[backends.mail]
check = "none"
servers = [{{ name = "s1", address = "127.0.0.1:{server}" }}]
"""

ITSELF = "itself"
ACCEPTED = "--"
TRUNCATED = "Truncated PROXY protocol header received"
NOT_A_HEADER = "Received something which does not look like a PROXY protocol header"
INVALID = "Received an invalid PROXY protocol header"
UNHANDLED = "Received an unhandled protocol in the PROXY protocol header"
TIMEOUT = "Timeout while waiting for PROXY protocol header"


@attrs.frozen
class Outcome:
    """A result in the log.

    Attributes:
        client: the client's address, or "itself" for the connection's own.
        end: a message, or the two letters of the termination state.
    """

    client: str
    end: str


@attrs.frozen(kw_only=True)
class Difference:
    """Headers that mailproxy intentionally treats otherwise than HAProxy. In its line the client is always itself.

    Attributes:
        why: the paragraph of the specification that decides.
        headers: names of headers, with the client in HAProxy's line.
    """

    why: str
    haproxy: str
    mailproxy: str
    headers: Mapping[str, str]

    def __attrs_post_init__(self) -> None:
        for client in self.headers.values():
            assert (client, self.haproxy) != (ITSELF, self.mailproxy), self.why


def itself(*names: str) -> Mapping[str, str]:
    return dict.fromkeys(names, ITSELF)


DIFFERENCES = (
    Difference(
        why="PROXY 2.1: for UNKNOWN the receiver must ignore anything presented before the CRLF is found",
        haproxy=UNHANDLED,
        mailproxy=ACCEPTED,
        headers=itself(
            "line UNKNOWN with a blank",
            "line UNKNOWN with addresses",
            "line UNKNOWN with anything",
            "line UNKNOWN, longest",
        ),
    ),
    Difference(
        why="PROXY 2.1: no CRLF in the first 107 characters, and a CR or LF alone, make the line invalid;"
        " HAProxy does not detect this and reports the protocol",
        haproxy=UNHANDLED,
        mailproxy=INVALID,
        headers=itself(
            "line UNKNOWN, too long",
            "line UNKNOWN with LF alone",
            "line UNKNOWN with CR alone",
            "line UNKNOWN with CR inside",
            "line UNKNOWN with LF inside",
        ),
    ),
    Difference(
        why="PROXY 2.1: only TCP4 and TCP6 are allowed, others must be reported as UNKNOWN. Another word makes the"
        " line invalid and is not an unhandled protocol",
        haproxy=UNHANDLED,
        mailproxy=INVALID,
        headers=itself(
            "line UNKNOWN, a letter too many",
            "line UNKNOWN, small",
            "line TCP4 with small letters",
            "line TCP",
            "line TCP5",
            "line UDP4",
            "line UNIX",
            "line without protocol",
            "line with nothing behind TCP4",
            "line with two blanks first",
            "line with a tab",
        ),
    ),
    Difference(
        why="PROXY 2.1: heading zeroes are not permitted in front of numbers",
        haproxy=ACCEPTED,
        mailproxy=INVALID,
        headers={
            "line with port 025": "192.0.2.1:25",
            "line with destination port 0143": "192.0.2.1:1001",
            "line with port 00": "192.0.2.1:0",
            "line TCP6 with port 025": "2001:db8::1:25",
            "line with host 192.0.2.01": "192.0.2.1:1001",
            "line with host 192.000.2.1": "192.0.2.1:1001",
            "line with destination 198.051.100.2": "192.0.2.1:1001",
        },
    ),
    Difference(
        why="PROXY 2.1: ports are decimal integers in the range [0..65535]; HAProxy uses the lower 16 bits, and 0"
        " for an empty port",
        haproxy=ACCEPTED,
        mailproxy=INVALID,
        headers={
            "line with port 65536": "192.0.2.1:0",
            "line with destination port 65536": "192.0.2.1:1001",
            "line with port 66537": "192.0.2.1:1001",
            "line with port 99999999999": "192.0.2.1:59391",
            "line with port 4294968297": "192.0.2.1:1001",
            "line TCP6 with port 65536": "2001:db8::1:0",
            "line with no port": "192.0.2.1:0",
        },
    ),
    Difference(
        why="PROXY 2.1: IPv4 addresses are exactly 4 integers in the range [0..255], separated by exactly one"
        " dot; HAProxy derives the address of another client",
        haproxy=ACCEPTED,
        mailproxy=INVALID,
        headers={
            "line with host 192.0.2.256": "192.0.3.0:1001",
            "line with destination 198.51.100.256": "192.0.2.1:1001",
            "line with host of three numbers": "192.0.2.0:1001",
            "line with host of one number": "217.0.0.0:1001",
            "line with host 192..2.1": "192.0.2.1:1001",
        },
    ),
    Difference(
        why="PROXY 2.1: the receiver must not tolerate a single LF to end the line; further bytes cannot correct it",
        haproxy=TRUNCATED,
        mailproxy=INVALID,
        headers=itself("line with LF alone"),
    ),
    Difference(
        why="PROXY 2.1: the address is read after the CRLF, which was received; HAProxy waits for 9 bytes first",
        haproxy=TRUNCATED,
        mailproxy=INVALID,
        headers=itself("line of one word and a blank"),
    ),
    Difference(
        why="PROXY 2: the receiver may be tolerant to partial headers, which is recommended",
        haproxy=TRUNCATED,
        mailproxy=TIMEOUT,
        headers=itself(
            "line with CR alone",
            "the letter P",
            "PROX",
            "PROXY and a blank",
            "a line without its end",
            "a line without its LF",
            "the signature",
            "a binary header without its last byte",
            "a LOCAL header without its block",
        ),
    ),
    Difference(
        why="PROXY 2: headers are designed to fit in 536 bytes; both read at most 16384, and mailproxy refuses a"
        " longer one at once",
        haproxy=TRUNCATED,
        mailproxy=INVALID,
        headers=itself(
            "TCP4 with 16385 bytes in all",
            "TCP4 with a length of 65535 and all of it",
            "a length of 65535 and 12 bytes",
        ),
    ),
    Difference(
        why="PROXY 2.2: bytes that begin neither like the signature nor like PROXY are not covered; HAProxy compares"
        " 16 bytes at once and reports the same for more bytes",
        haproxy=TRUNCATED,
        mailproxy=NOT_A_HEADER,
        headers=itself(
            "line of one word",
            "a TLS record of 5 bytes",
            "a TLS alert",
            "HELO, short",
            "IMAP CAPABILITY",
            "IMAP NOOP",
            "POP3 QUIT",
            "one zero",
            "4 empty lines",
            "QUIT, left",
        ),
    ),
    Difference(
        why="PROXY 2.2, 14th byte: the receiver is free to reject other transports than TCP, but they are valid;"
        " HAProxy uses its message for this case with lines only",
        haproxy=INVALID,
        mailproxy=UNHANDLED,
        headers=itself(
            "UNSPEC",
            "UNSPEC with a block",
            "UNSPEC stream",
            "UNSPEC datagram",
            "INET unspecified",
            "INET6 unspecified",
            "UNIX unspecified",
            "UDP4",
            "UDP6",
            "UNIX stream",
            "UNIX datagram",
        ),
    ),
    Difference(
        why="PROXY 2: processing starts after a complete and valid header, so a refused one names no client;"
        " HAProxy's log has the client of a header that it refuses",
        haproxy=INVALID,
        mailproxy=INVALID,
        headers={
            "TCP4 with 13 bytes": "192.0.2.1:1001",
            "TCP4 with 14 bytes": "192.0.2.1:1001",
            "authority of 256 bytes": "192.0.2.1:1001",
            "unique id of 129 bytes": "192.0.2.1:1001",
            "an extension over the end": "192.0.2.1:1001",
            "an extension far over the end": "192.0.2.1:1001",
            "an authority over the end": "192.0.2.1:1001",
            "an extension over the end, TCP6": "2001:db8::1:1002",
            "half an extension behind a whole one": "192.0.2.1:1001",
        },
    ),
    Difference(
        why="PROXY 2.2.3: with a wrong checksum the connection must be treated as invalid, and so must the client in"
        " the header; HAProxy's log has that client",
        haproxy=INVALID,
        mailproxy=INVALID,
        headers={
            "checksum, wrong by a bit": "192.0.2.1:1001",
            "checksum, an address wrong by a bit": "193.0.2.1:1001",
            "checksum, a port wrong by a bit": "192.0.2.1:1000",
            "checksum, an extension wrong by a bit": "192.0.2.1:1001",
            "checksum of zeroes": "192.0.2.1:1001",
            "checksum in the other order": "192.0.2.1:1001",
            "checksum, empty": "192.0.2.1:1001",
            "checksum of 3 bytes": "192.0.2.1:1001",
            "checksum of 5 bytes": "192.0.2.1:1001",
            "checksum twice": "192.0.2.1:1001",
            "checksum over the end": "192.0.2.1:1001",
        },
    ),
)
BY_HEADER = {name: difference for difference in DIFFERENCES for name in difference.headers}


@attrs.frozen
class RunningProgram:
    """One of the programs."""

    program: Program
    port: int

    def send_header(self, header: bytes, *, half_closes: bool) -> Outcome:
        seen = len(tcplog.end_matches(self.program.log.lines()))
        with ExitStack() as connected:
            # The program is stopped meanwhile, so that it finds the connection, the header and the half-close at once.
            with self.program.paused():
                connection = connected.enter_context(socket.create_connection((HOST, self.port)))
                client = Peer(connection)
                own = "{}:{}".format(*connection.getsockname())
                assert connection.send(header) == len(header)
                if half_closes:
                    client.half_close()
            greeting = _receive_greeting(client)
        wait_until(
            lambda: len(tcplog.end_matches(self.program.log.lines())) > seen, f"a line\n{self.program.log!r}"
        )
        (line,) = tcplog.end_matches(self.program.log.lines())[seen:]
        is_session = line.re is tcplog.SESSION
        assert greeting == (GREETING if is_session else b""), line[0]
        logged = f"{line['client']}:{line['port']}"
        return Outcome(ITSELF if logged == own else logged, line["state" if is_session else "message"])


def _receive_greeting(client: Peer) -> bytes:
    """Return the greeting, or the bytes before the end of the connection."""
    received = b""
    with suppress(ConnectionError):
        while received != GREETING and (chunk := client.connection.recv(4096)):
            received += chunk
    return received


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[RunningProgram, ...]]:
    """Run mailproxy and HAProxy, each in one process for all headers."""
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        server = running.enter_context(greeting_server())
        started = []
        for program in PROGRAMS:
            port = free_port()
            text = FOR_HAPROXY if program is HAProxy else FOR_MAILPROXY
            text = text.format(port=port, server=server[1], limit=TIMEOUT_MS)
            started.append(RunningProgram(running.enter_context(program(text, folder, [(HOST, port)])), port))
        yield tuple(started)


@pytest.mark.parametrize("name", [*headers.STAYING, *headers.LEAVING])
def test_header_is_treated_as_by_haproxy(programs: tuple[RunningProgram, ...], name: str) -> None:
    half_closes = name in headers.LEAVING
    header = (headers.LEAVING if half_closes else headers.STAYING)[name]
    result, model = (program.send_header(header, half_closes=half_closes) for program in programs)
    if difference := BY_HEADER.get(name):
        assert model == Outcome(difference.headers[name], difference.haproxy), difference.why
        assert result == Outcome(ITSELF, difference.mailproxy), difference.why
    else:
        assert result == model


def test_differences_name_existing_headers() -> None:
    assert BY_HEADER.keys() <= {*headers.STAYING, *headers.LEAVING}
    assert len(BY_HEADER) == sum(len(difference.headers) for difference in DIFFERENCES)
