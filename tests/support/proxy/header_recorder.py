"""A server that is told by a PROXY header who its client is, and keeps what it was told."""

from __future__ import annotations

import socket
import ssl

import trio

from mailproxy.protocol import NeedMore
from mailproxy.protocol.proxy_header import Header, HeaderV2, Ssl, Type, parse, parse_ssl
from mailproxy.testing import Connection, Playbook, ScriptedServer


class HeaderRecorder(ScriptedServer):
    """Takes the header off each connection, makes TLS if it has a context, and plays its playbook.

    ``headers`` has what was read, ``raw`` the bytes of it. The header must be there whole at the first look, as the
    specification demands of senders (PROXY 2): AssertionError if not.
    """

    def __init__(
        self, *playbooks: Playbook, bind: str = "127.0.0.1:0", behind: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(*playbooks, bind=bind)
        self.headers: list[Header] = []
        self.raw: list[bytes] = []
        self._behind = behind

    @property
    def header(self) -> HeaderV2:
        """The last one."""
        header = self.headers[-1]
        assert isinstance(header, HeaderV2)
        return header

    @property
    def tlvs(self) -> dict[int, bytes]:
        """The last one's extensions."""
        tlvs = {tlv.type: tlv.value for tlv in self.header.tlvs}
        assert len(tlvs) == len(self.header.tlvs), "none comes twice"
        return tlvs

    @property
    def ssl(self) -> Ssl:
        """What the last one says of the client's TLS."""
        return parse_ssl(self.tlvs[Type.SSL])

    async def converse(self, connection: Connection) -> None:
        sock = connection.stream.socket
        seen = await sock.recv(65536, socket.MSG_PEEK)
        if not seen:
            return
        answer = parse(seen)
        assert not isinstance(answer, NeedMore), f"{seen!r} came first"
        header, length = answer
        self.raw.append(await sock.recv(length))
        self.headers.append(header)
        if self._behind is not None:
            await connection.accept_tls(self._behind)
        await super().converse(connection)

    async def wait_for_header(self, count: int = 1) -> Header:
        """Wait for so many headers; give the last."""
        while len(self.headers) < count:  # noqa: ASYNC110 - several tasks may wait
            await trio.sleep(0.002)
        return self.headers[count - 1]
