"""A server that records the PROXY header of each connection."""

from __future__ import annotations

import socket
import ssl

import trio

from mailproxy.protocol import NeedMore
from mailproxy.protocol.proxy_header import Header, HeaderV2, Ssl, Type, parse, parse_ssl
from mailproxy.testing import Connection, Playbook, ScriptedServer


class HeaderRecorder(ScriptedServer):
    """Reads the header of each connection, makes a TLS handshake if it has a context, then plays its playbook.

    ``headers`` has the parsed headers, ``raw`` their bytes. The first read must find the complete header, as
    the specification demands of senders (PROXY protocol, section 2). Otherwise the test fails with
    AssertionError.
    """

    def __init__(
        self, *playbooks: Playbook, bind: str = "127.0.0.1:0", tls_after_header: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(*playbooks, bind=bind)
        self.headers: list[Header] = []
        self.raw: list[bytes] = []
        self._tls_after_header = tls_after_header

    @property
    def header(self) -> HeaderV2:
        """The last header."""
        header = self.headers[-1]
        assert isinstance(header, HeaderV2)
        return header

    @property
    def tlvs(self) -> dict[int, bytes]:
        """The extensions of the last header."""
        tlvs = {tlv.type: tlv.value for tlv in self.header.tlvs}
        assert len(tlvs) == len(self.header.tlvs), "no extension occurs twice"
        return tlvs

    @property
    def ssl(self) -> Ssl:
        """What the last header says about the client's TLS."""
        return parse_ssl(self.tlvs[Type.SSL])

    async def converse(self, connection: Connection) -> None:
        sock = connection.stream.socket
        data = await sock.recv(65536, socket.MSG_PEEK)
        if not data:
            return
        parsed = parse(data)
        assert not isinstance(parsed, NeedMore), f"{data!r} is incomplete"
        header, length = parsed
        self.raw.append(await sock.recv(length))
        self.headers.append(header)
        if self._tls_after_header is not None:
            await connection.accept_tls(self._tls_after_header)
        await super().converse(connection)

    async def wait_for_header(self, count: int = 1) -> Header:
        """Wait for this number of headers, then return the last."""
        while len(self.headers) < count:  # noqa: ASYNC110 - several tasks may wait
            await trio.sleep(0.002)
        return self.headers[count - 1]
