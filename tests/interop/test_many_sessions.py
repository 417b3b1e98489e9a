"""500 concurrent sessions, half of them over TLS, without a lost one."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.ports import free_port
from tests.support.programs import tcplog
from tests.support.programs.dovecot import PASSWORD, USERS
from tests.support.programs.program import HAProxy, Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.interop.conftest import Site

pytestmark = [pytest.mark.peers, pytest.mark.slow]

OWN_USERS = USERS[-40:]  # other tests use the first ones
SESSIONS = 500
MAX_PARALLEL_LOGINS = 50  # because Dovecot starts a process for each
TIMEOUT_S = 90

HAPROXY = """
global
 log stdout format raw local0
 maxconn 2000
defaults
 mode tcp
 log global
 option tcplog
 balance leastconn
 timeout client 60s
 timeout server 60s
 timeout connect 10s
frontend imap
 bind 127.0.0.1:{clear} backlog 1000
 bind 127.0.0.1:{tls} backlog 1000 ssl crt {certificates}
 default_backend mail
backend mail
 server d1 {first}
 server d2 {second}
"""

MAILPROXY = """
[log]
format = "tcplog"
to = "stdout"

[frontends.imap]
protocol = "imap"
backend = "mail"
tls = {{ certificates = ["{certificates}"] }}

[[frontends.imap.bind]]
address = "127.0.0.1:{clear}"
backlog = 1000

[[frontends.imap.bind]]
address = "127.0.0.1:{tls}"
backlog = 1000
mode = "tls"

[backends.mail]
balance = "leastconn"
check = "none"
servers = [{{ name = "d1", address = "{first}" }}, {{ name = "d2", address = "{second}" }}]
"""


class Session:
    """A minimal mail client, of which 500 are cheap enough."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received = b""

    async def run_command(self, command: bytes) -> None:
        """Send a command and return after its OK."""
        await self._stream.send_all(b"a1 %s\r\n" % command)
        while not (line := await self.line()).startswith(b"a1 "):
            assert line.startswith(b"* "), line
        assert line.startswith(b"a1 OK"), line

    async def line(self) -> bytes:
        while b"\n" not in self._received:
            chunk = await self._stream.receive_some(65_536)
            assert chunk, f"the session is lost after {self._received!r}"
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    async def end(self) -> None:
        """Wait until the server closes after a logout."""
        assert await self._stream.receive_some(1) == b""


@asynccontextmanager
async def session(port: int, tls_context: ssl.SSLContext | None) -> AsyncIterator[Session]:
    """Yield a session after the greeting. It is closed without a logout at the end."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    if tls_context:
        stream = trio.SSLStream(stream, tls_context, server_hostname="127.0.0.1", https_compatible=True)
    async with stream:
        client = Session(stream)
        assert (await client.line()).startswith(b"* OK")
        yield client


@pytest.mark.parametrize("program", [HAProxy, Mailproxy])
async def test_all_sessions_end_normally(
    program: type[HAProxy | Mailproxy], site: Site, folder: Path
) -> None:
    clear, tls = free_port(), free_port()
    text = (HAPROXY if program is HAProxy else MAILPROXY).format(
        clear=clear,
        tls=tls,
        certificates=f"{site.proxy.folder}/",
        first="{}:{}".format(*site.dovecots[0].address),
        second="{}:{}".format(*site.dovecots[1].address),
    )
    tls_context = ssl.create_default_context(cafile=str(site.proxy.ca))
    logging_in = trio.CapacityLimiter(MAX_PARALLEL_LOGINS)
    ready: set[int] = set()
    all_ready = trio.Event()

    async def run_session(n: int) -> None:
        over_tls = n % 2 == 1
        async with session(tls if over_tls else clear, tls_context if over_tls else None) as client:
            async with logging_in:
                await client.run_command(f"LOGIN {OWN_USERS[n % len(OWN_USERS)]} {PASSWORD}".encode())
            ready.add(n)
            if len(ready) == SESSIONS:
                all_ready.set()
            await all_ready.wait()  # all 500 sessions are open now
            await client.run_command(b"SELECT INBOX")
            await client.run_command(b"LOGOUT")
            await client.end()

    with (
        program(text, folder, [("127.0.0.1", clear), ("127.0.0.1", tls)]) as proxy,
        trio.fail_after(TIMEOUT_S),
    ):
        async with trio.open_nursery() as nursery:
            for n in range(SESSIONS):
                nursery.start_soon(run_session, n)
        wait_until(
            lambda: sum(bool(tcplog.SESSION.fullmatch(line)) for line in proxy.log.lines()) == SESSIONS,
            "a line for each session",
        )
    ends = [tcplog.session(line) for line in map(tcplog.SESSION.fullmatch, proxy.log.lines()) if line]
    assert not [end for end in ends if end.state != "--"]
    assert [sum(end.server == name for end in ends) for name in ("d1", "d2")] == [SESSIONS / 2] * 2
