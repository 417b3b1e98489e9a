"""Receivers behind mailproxy, and the test in the place of one: what they understand of its headers."""

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

# Dovecot's log, with the name from the header.
LOGGED = "user=<%u> method=%m rip=%r lip=%l mpid=%e %c session=<%{session}> name=<%{local_name}>"
LOGIN = (
    r".*Login: user=<{user}>, method=(?P<method>\S+), rip=(?P<client>\S+), lip=(?P<destination>\S+), mpid=\d+,"
    r"(?: (?P<safety>secured|TLS),)? session=<[^>]*>(?:, name=<(?P<name>[^>]*)>)?"
)
DATA_SEGMENTS_IN = struct.Struct("152x I")  # tcpi_data_segs_in of Linux's struct tcp_info


@attrs.frozen
class PostfixReceiver:
    """Postfix behind mailproxy."""

    postfix: Postfix
    proxy: HeaderSender

    def deliver(self, send: str, client: Client) -> None:
        """One message to where everybody may send."""
        with Smtp(self.proxy.connect(send, client)) as smtp:
            assert smtp.sendmail("a@elsewhere.example", "b@mail.example", MESSAGE) == {}

    def relays(self, send: str, client: Client) -> bool:
        """Would it take a message to where only its own people may send?"""
        with Smtp(self.proxy.connect(send, client)) as smtp:
            smtp.ehlo()
            smtp.mail("a@mail.example")
            code, answer = smtp.rcpt("b@elsewhere.example")
        assert code in (250, 554), answer
        return code == 250

    def wait_for_client(self, host: str) -> None:
        self.postfix.log.wait_for(re.compile(rf".*: connect from unknown\[{re.escape(host)}\]"))


@attrs.frozen
class NginxReceiver:
    """nginx behind mailproxy, and the test behind nginx."""

    nginx: Nginx
    proxy: HeaderSender
    server: socket.socket

    def logged_clients(self, send: str, client: Client) -> tuple[LoggedClient, LoggedClient]:
        """What nginx read, and what it should have read: the session as the client has it."""
        with self.proxy.connect(send, client) as connection, self.server.accept()[0] as server:
            server.sendall(b"220 ready\r\n")
            assert connection.recv(100) == b"220 ready\r\n"
            own, other = connection.getsockname(), connection.getpeername()
        wanted = LoggedClient(own[0], str(own[1]), other[0], str(other[1]), HOST, "200")
        return self.nginx.logged_client(own[1]), wanted


@attrs.frozen(kw_only=True)
class Login:
    """As Dovecot has it in its log: ``safety`` is "TLS", "secured" for the word of a proxy, or ""."""

    method: str = "PLAIN"
    client: str
    destination: str = HOST
    safety: str
    name: str


@attrs.frozen
class DovecotReceiver:
    """A Dovecot behind mailproxy, with users of whom nobody has been here before."""

    dovecot: Dovecot
    proxy: HeaderSender
    users: Iterator[str]

    def session(self, way: str, client: Client) -> Imap:
        """Greeted, not logged in."""
        return Imap(self.proxy.connect(way, client))

    def log_in(self, way: str, client: Client) -> Login:
        user = next(self.users)
        with self.session(way, client) as imap:
            imap.login(user, PASSWORD)
        return self._login_of(user)

    def log_in_by_certificate(self, way: str, client: Client, user: str) -> Login | None:
        """None if it lets nobody in; if anybody, then it must be this user."""
        with self.session(way, client) as imap:
            try:
                imap.authenticate("EXTERNAL", lambda _: b"")
            except imaplib.IMAP4.error as refusal:
                words = ("AUTHENTICATIONFAILED", "PRIVACYREQUIRED")
                assert any(word in str(refusal) for word in words)  # noqa: PT017 - it may end well, too
                return None
        return self._login_of(user)

    def _login_of(self, user: str) -> Login:
        line = self.dovecot.log.wait_for(re.compile(LOGIN.format(user=user)))
        return Login(**{key: value or "" for key, value in line.groupdict().items()})


@attrs.frozen
class ReceivedHeader:
    """A connection of mailproxy's, what its first bytes were, and the header in them, which is read off."""

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
        """In which data have come so far."""
        told = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, DATA_SEGMENTS_IN.size)
        segments: int = DATA_SEGMENTS_IN.unpack(told)[0]
        return segments

    @property
    def tlvs(self) -> dict[int, bytes]:
        assert isinstance(self.header, HeaderV2)
        return {tlv.type: tlv.value for tlv in self.header.tlvs}


@attrs.frozen
class RawReceiver:
    """The test behind mailproxy."""

    proxy: HeaderSender
    listener: socket.socket

    @contextmanager
    def receive(self, send: str, client: Client) -> Iterator[ReceivedHeader]:
        with self.proxy.connect(send, client), self.listener.accept()[0] as connection:
            yield ReceivedHeader.receive_from(connection)
