"""Small servers for sessions that the proxy greets: each plays the part behind the greeting of its protocol."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import trio
from attrs import frozen

from mailproxy.testing import Connection
from mailproxy.testing.playbook import Step

GREETINGS: Mapping[str, bytes] = {
    "imap": b"* OK [CAPABILITY IMAP4rev1 ID AUTH=PLAIN] server\r\n",
    "pop3": b"+OK server\r\n",
    "smtp": b"220-server.example\r\n220 server.example ESMTP\r\n",
    "submission": b"220 server.example ESMTP\r\n",
    "lmtp": b"220 server.example LMTP\r\n",
    "sieve": b'"IMPLEMENTATION" "server"\r\n"SASL" "PLAIN"\r\nOK "server"\r\n',
}
STARTTLS: Mapping[str, bytes] = {
    "imap": b"s STARTTLS\r\n",
    "pop3": b"STLS\r\n",
    "smtp": b"STARTTLS\r\n",
    "submission": b"STARTTLS\r\n",
    "lmtp": b"STARTTLS\r\n",
    "sieve": b"STARTTLS\r\n",
}
HELLO: Mapping[str, bytes] = {
    "smtp": b"EHLO client.example\r\n",
    "submission": b"EHLO client.example\r\n",
    "lmtp": b"LHLO client.example\r\n",
}
LAST_LINES: Mapping[str, bytes] = {"imap": b"* OK", "pop3": b"+OK", "smtp": b"220 ", "sieve": b"OK "}
PROTOCOLS = tuple(GREETINGS)


async def receive_greeting(connection: Connection, protocol: str) -> bytes:
    """Receive a greeting of a protocol, or an answer with the same last line."""
    last = LAST_LINES.get(protocol, b"220 ")
    lines = b""
    while True:
        line = await connection.receive_line()
        lines += line
        if line.startswith(last):
            return lines


async def receive_answer(connection: Connection, protocol: str) -> bytes:
    """Receive an answer to a hello, or to STARTTLS."""
    lines = b""
    while True:
        line = await connection.receive_line()
        lines += line
        if protocol in HELLO and line[3:4] == b"-":
            continue
        if protocol == "sieve" and line.startswith(b'"'):
            continue
        if protocol == "imap" and line.startswith(b"* ") and not line.startswith((b"* BYE", b"* BAD")):
            continue
        return lines


async def upgrade(connection: Connection, protocol: str, context: ssl.SSLContext) -> None:
    """Say hello where the protocol has one, send STARTTLS, and make the handshake."""
    await receive_greeting(connection, protocol)
    if protocol in HELLO:
        await connection.send(HELLO[protocol])
        await receive_answer(connection, protocol)
    await connection.send(STARTTLS[protocol])
    await receive_answer(connection, protocol)
    await connection.start_tls(context)


@frozen
class Upgrade:
    """A server's part of STARTTLS: offer it, and make the handshake.

    Attributes:
        protocol: The protocol.
        context: The server's TLS.
        injected: Bytes behind the answer to STARTTLS.
        offers: Whether STARTTLS is in the list.
    """

    protocol: str
    context: ssl.SSLContext
    injected: bytes = b""
    offers: bool = True

    async def play(self, connection: Connection) -> None:
        try:
            await self._play(connection)
        except trio.BrokenResourceError:
            return

    async def _play(self, connection: Connection) -> None:
        if self.protocol == "sieve":
            starttls = b'"STARTTLS"\r\n' if self.offers else b""
            await connection.send(b'"IMPLEMENTATION" "clear"\r\n' + starttls + b'OK "clear"\r\n')
        else:
            await connection.send(GREETINGS[self.protocol].replace(b"server", b"clear"))
            words = (await connection.receive_line()).split()
            if not words:  # the proxy has closed
                return
            await connection.send(self._list(words[0]))
        words = (await connection.receive_line()).split()
        if not words:
            return
        ok = {
            "imap": words[0] + b" OK go\r\n",
            "pop3": b"+OK go\r\n",
            "sieve": b'OK "go"\r\n',
        }.get(self.protocol, b"220 go\r\n")
        await connection.send(ok + self.injected)
        await connection.accept_tls(self.context)

    def _list(self, tag: bytes) -> bytes:
        name = b"STLS" if self.protocol == "pop3" else b"STARTTLS"
        offered = name if self.offers else b"X-NOTHING"
        if self.protocol == "imap":
            return b"* CAPABILITY IMAP4rev1 " + offered + b"\r\n" + tag + b" OK\r\n"
        if self.protocol == "pop3":
            return b"+OK\r\n" + offered + b"\r\n.\r\n"
        return b"250-clear\r\n250 " + offered + b"\r\n"


_: type[Step] = Upgrade
