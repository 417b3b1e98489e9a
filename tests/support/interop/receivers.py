"""Servers behind mailproxy that receive its PROXY headers, and what they read in them."""

from __future__ import annotations

import imaplib
import re
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header import Header, HeaderV2, parse
from tests.support.interop.header_senders import Client, HeaderSender, Imap, Smtp
from tests.support.interop.scripted_session import HOST
from tests.support.programs.dovecot import PASSWORD, Dovecot
from tests.support.programs.nginx import LoggedClient, Nginx
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE = "Subject: news\r\n\r\nHello\r\n"

# The elements of Dovecot's log, with the name from the header.
LOGGED = "user=<%u> method=%m rip=%r lip=%l mpid=%e %c session=<%{session}> name=<%{local_name}>"
LOGIN = (
    r".*Login: user=<{user}>, method=(?P<method>\S+), rip=(?P<client>\S+), lip=(?P<destination>\S+), mpid=\d+,"
    r"(?: (?P<security>secured|TLS),)? session=<[^>]*>(?:, name=<(?P<name>[^>]*)>)?"
)
DATA_SEGMENTS_IN = struct.Struct("152x I")  # tcpi_data_segs_in of Linux's struct tcp_info


@attrs.frozen
class PostfixReceiver:
    """Postfix behind mailproxy."""

    postfix: Postfix
    proxy: HeaderSender

    def deliver(self, variant: str, client: Client) -> None:
        """Send a message to the domain that accepts mail from everywhere."""
        with Smtp(self.proxy.connect(variant, client)) as smtp:
            assert smtp.sendmail("a@elsewhere.example", "b@mail.example", MESSAGE) == {}

    def relays(self, variant: str, client: Client) -> bool:
        """Whether Postfix would accept a message to another domain, which it does for local clients."""
        with Smtp(self.proxy.connect(variant, client)) as smtp:
            smtp.ehlo()
            smtp.mail("a@mail.example")
            code, answer = smtp.rcpt("b@elsewhere.example")
        assert code in (250, 554), answer
        return code == 250

    def wait_for_client(self, host: str) -> None:
        self.postfix.log.wait_for(re.compile(rf".*: connect from unknown\[{re.escape(host)}\]"))


@attrs.frozen
class NginxReceiver:
    """nginx behind mailproxy, with a server of the test behind nginx."""

    nginx: Nginx
    proxy: HeaderSender
    server: socket.socket

    def logged_and_expected(self, variant: str, client: Client) -> tuple[LoggedClient, LoggedClient]:
        """Return the addresses that nginx read, and the addresses of the client's own connection."""
        with self.proxy.connect(variant, client) as connection, self.server.accept()[0] as server:
            server.sendall(b"220 ready\r\n")
            assert connection.recv(100) == b"220 ready\r\n"
            own, other = connection.getsockname(), connection.getpeername()
        expected = LoggedClient(own[0], str(own[1]), other[0], str(other[1]), HOST, "200")
        return self.nginx.logged_client(own), expected


@attrs.frozen(kw_only=True)
class Login:
    """A login in Dovecot's log. The security is "TLS", "secured" (by the header of a proxy) or empty."""

    method: str = "PLAIN"
    client: str
    destination: str = HOST
    security: str
    name: str


@attrs.frozen
class DovecotReceiver:
    """A Dovecot behind mailproxy, with users that have not logged in yet."""

    dovecot: Dovecot
    proxy: HeaderSender
    users: Iterator[str]

    def session(self, variant: str, client: Client) -> Imap:
        """Return a session after the greeting, not logged in."""
        return Imap(self.proxy.connect(variant, client))

    def log_in(self, variant: str, client: Client) -> Login:
        user = next(self.users)
        with self.session(variant, client) as imap:
            imap.login(user, PASSWORD)
        return self._login_of(user)

    def log_in_by_certificate(self, variant: str, client: Client, user: str) -> Login | None:
        """Log in by certificate. Return None if that fails. A login must be this user's."""
        with self.session(variant, client) as imap:
            try:
                imap.authenticate("EXTERNAL", lambda _: b"")
            except imaplib.IMAP4.error as refusal:
                words = ("AUTHENTICATIONFAILED", "PRIVACYREQUIRED")
                assert any(word in str(refusal) for word in words)  # noqa: PT017 - the login may also succeed
                return None
        return self._login_of(user)

    def _login_of(self, user: str) -> Login:
        line = self.dovecot.log.wait_for(re.compile(LOGIN.format(user=user)))
        return Login(**{key: value or "" for key, value in line.groupdict().items()})


@attrs.frozen
class ReceivedHeader:
    """A connection from mailproxy, its first bytes, and the header in them, which has been read."""

    connection: socket.socket
    first: bytes
    header: Header
    header_bytes: int

    @classmethod
    def receive_from(cls, connection: socket.socket) -> ReceivedHeader:
        connection.settimeout(TIMEOUT_S)
        first = connection.recv(65536, socket.MSG_PEEK)
        answer = parse(first)
        assert not isinstance(answer, NeedMore), first
        header, length = answer
        connection.recv(length)
        return cls(connection, first, header, length)

    @property
    def segments(self) -> int:
        """Return the number of segments with data so far."""
        tcp_info = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, DATA_SEGMENTS_IN.size)
        segments: int = DATA_SEGMENTS_IN.unpack(tcp_info)[0]
        return segments

    @property
    def tlvs(self) -> dict[int, bytes]:
        assert isinstance(self.header, HeaderV2)
        return {tlv.type: tlv.value for tlv in self.header.tlvs}


@attrs.frozen
class RawReceiver:
    """A server of the test behind mailproxy."""

    proxy: HeaderSender
    listener: socket.socket

    @contextmanager
    def receive(self, variant: str, client: Client) -> Iterator[ReceivedHeader]:
        with self.proxy.connect(variant, client), self.listener.accept()[0] as connection:
            yield ReceivedHeader.receive_from(connection)
